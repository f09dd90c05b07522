"""`prepare-tables` under the older tool's name: the same command, for scripts that call it so."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sts_manager.cli import app

if __name__ == "__main__":
    app(["prepare-tables", *sys.argv[1:]], prog_name="sts-manager")
