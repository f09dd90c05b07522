"""`sts-manager run` under the older tool's name, and with that tool's defaults: see `older_defaults`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.older_defaults import run_as_older_tool

if __name__ == "__main__":
    run_as_older_tool("run")
