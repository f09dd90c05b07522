"""The older tool's ways, for scripts that call its programs by name: the job table is in BigQuery, and the file wins."""

from __future__ import annotations

import os
import sys

from sts_manager.cli import app
from sts_manager.cli.options import FILE_FIRST
from sts_manager.settings import ENVIRONMENT_STEM


def run_as_older_tool(command: str) -> None:
    """One of our commands with this process's arguments, and the defaults that the older tool had. Exits as the command does."""
    os.environ.setdefault(f"{ENVIRONMENT_STEM}STORE", "bigquery")
    FILE_FIRST.set(True)
    app([command, *sys.argv[1:]], prog_name="sts-manager")
