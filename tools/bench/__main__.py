"""`make bench`: every benchmark, one after the other."""

from __future__ import annotations

import subprocess
import sys

from tools.bench import million

if __name__ == "__main__":
    code = million.main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
    # A process of its own: what it loads would count into the peak memory of the others' processes.
    for name in ("bigquery_pass", "listing", "planning", "copying", "pool"):
        code = code or subprocess.run([sys.executable, "-m", f"tools.bench.{name}"], check=False).returncode
    sys.exit(code)
