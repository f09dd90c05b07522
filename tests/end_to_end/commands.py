"""The commands as a user runs them: processes, against a stage that is a process too."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tests.end_to_end.forked import Forks
from tests.stages import SINK, SOURCE

QUICK = ("--job-interval", "0.1", "--metrics-interval", "0.1", "--sleep-timeout", "0.1", "--retry-delay", "0.1")
BUCKETS = ("--source-bucket", f"s3://{SOURCE}", "--destination-bucket", f"gs://{SINK}")
TIMEOUT_S = 180
FORKED = ("sts_manager", "cdn_worker")
FORKS = Forks()


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Shell:
    """Runs a command, sts-manager unless told otherwise, in a folder with an environment of its own."""

    folder: Path
    environment: Mapping[str, str]
    module: str = "sts_manager"

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "SYSTEMROOT") if name in os.environ}
        own = {"PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(self.folder)}
        return {**kept, **own, **self.environment, **more}

    def run(self, *words: str, more: Mapping[str, str] = MappingProxyType({})) -> Ran:
        forked = FORKS.run(self.module, words, self.folder, self._environment(more), TIMEOUT_S) if self.module in FORKED else None
        if forked is not None:
            return Ran(*forked)
        ran = subprocess.run(
            [sys.executable, "-m", self.module, *words],
            cwd=self.folder,
            env=self._environment(more),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    @contextmanager
    def started(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """A command in the background; killed at the end if it still runs."""
        process = subprocess.Popen(
            [sys.executable, "-m", self.module, *words],
            cwd=self.folder,
            env=self._environment({}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()
