"""`make bench`: every benchmark, one after the other."""

from __future__ import annotations

import sys

from tools.bench import bigquery_pass, million

if __name__ == "__main__":
    codes = [million.main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000), bigquery_pass.main()]
    sys.exit(max(codes))
