"""A program of the data plane that a daemon starts beside itself, and starts again when it dies."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

log = logging.getLogger(__name__)

STOP_S = 12.0
AGAIN_S = (1.0, 2.0, 5.0, 15.0, 60.0)
WELL_S = 60.0
"""A worker that has lived so long is well: if it dies then, it is started again at once."""


class Crew:
    """One program of the data plane. Safe to stop from another thread.

    words    what follows `cdn-worker`: its command and flags
    effect   what it means when it dies, for the log
    """

    def __init__(self, words: Sequence[str], effect: str = "its tasks go to the next one when their leases end") -> None:
        self._words, self._effect = words, effect
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0.0
        self._deaths = 0
        self._next = 0.0
        self._stopped = False
        self._lock = threading.Lock()

    def tend(self) -> None:
        """Start it, or start it again."""
        if not self._lock.acquire(blocking=False):
            return  # it is being stopped, or changed
        try:
            if self._stopped or time.monotonic() < self._next:
                return
            if self._process is not None:
                code = self._process.poll()
                if code is None:
                    return
                self._mourned(code)
                return
            self._began = time.monotonic()
            command = [sys.executable, "-m", "cdn_worker", *self._words, "--parent", str(os.getpid())]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 - ourselves  # nosec B603
        finally:
            self._lock.release()

    def renew(self, words: Sequence[str]) -> None:
        """Let it drain, and have it started with other words by the next `tend`. Returns once the old one has ended."""
        with self._lock:
            self._words = words
            process, self._process = self._process, None
            if process is not None:
                _end(process)

    def _mourned(self, code: int) -> None:
        lived = time.monotonic() - self._began
        self._deaths = 0 if lived > WELL_S else self._deaths + 1
        wait = AGAIN_S[min(self._deaths, len(AGAIN_S)) - 1] if self._deaths else 0.0
        fields = {"code": code, "lived_s": round(lived), "again_in_s": wait}
        log.error("worker_died", extra={"fields": {**fields, "effect": self._effect}})
        self._process, self._next = None, time.monotonic() + wait

    def stop(self) -> None:
        """Let it drain; it is killed when that takes too long."""
        with self._lock:
            self._stopped = True
            process, self._process = self._process, None
        if process is not None:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
