"""Commands in processes of their own that are forked from one that has imported everything: an import costs 1.5 s of CPU time.

What a command is given and does is the same: its words, folder, environment, descriptors, exit code. A daemon that a test stops
by signals is started as users start it (`Shell.started`).
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

ROOT = Path(__file__).parents[2]
PRELOADED = ("sts_manager.cli", "cdn_worker.cli", "google.cloud.storage_transfer_v1", "sts_manager.routes.sts.route")


class Forks:
    """The process that forks, made when it is first needed. One command at a time: whoever finds it busy starts one as usual."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None

    def run(
        self, module: str, words: Sequence[str], folder: Path, environment: Mapping[str, str], timeout_s: float
    ) -> tuple[int, str, str] | None:
        """(exit code, what it printed, what it printed to stderr); None when it is busy. Raises TimeoutExpired."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
                order = {"module": module, "words": list(words), "folder": str(folder), "environment": dict(environment)}
                code = self._asked(order | {"out": _path(out), "err": _path(err)}, timeout_s)
                return code, _text(out), _text(err)
        finally:
            self._lock.release()

    def _asked(self, order: Mapping[str, Any], timeout_s: float) -> int:
        server = self._made()
        assert server.stdin is not None
        assert server.stdout is not None
        late = threading.Timer(timeout_s, server.kill)
        late.start()
        try:
            server.stdin.write(json.dumps(order).encode() + b"\n")
            server.stdin.flush()
            line = server.stdout.readline()
        finally:
            late.cancel()
        if not line:
            self._server = None
            raise subprocess.TimeoutExpired(order["words"], timeout_s)
        return int(line)

    def _made(self) -> subprocess.Popen[bytes]:
        if self._server is None or self._server.poll() is not None:
            words = [sys.executable, "-m", "tests.end_to_end.forked"]
            environment = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(ROOT)}
            self._server = subprocess.Popen(words, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self._server


def _path(file: Any) -> str:
    return f"/proc/{os.getpid()}/fd/{file.fileno()}"


def _text(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode()


def serve() -> None:
    """Fork for each line of stdin, and answer with the exit code."""
    for module in PRELOADED:
        __import__(module)
    for line in sys.stdin:
        order = json.loads(line)
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            _become(order)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(order: Mapping[str, Any]) -> None:
    """The command, to its end."""
    files = [(0, os.devnull, os.O_RDONLY), (1, order["out"], os.O_WRONLY), (2, order["err"], os.O_WRONLY)]
    for number, path, flags in files:
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    sys.argv = [order["module"], *order["words"]]
    code = 1
    try:
        runpy.run_module(order["module"], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - as an interpreter does
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(Exception):
            threading._shutdown()  # type: ignore[attr-defined]
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
