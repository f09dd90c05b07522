"""`create-alerts` as a script beside the others: the same command."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sts_manager.cli import app

if __name__ == "__main__":
    app(["create-alerts", *sys.argv[1:]], prog_name="sts-manager")
