"""The program, killed by itself (SIGKILL) at its n-th commit or call: `python -m tests.end_to_end.killed N before run …`.

Only for tests. Written to FILE of `KILLED_CALLS`: one line for each commit and call, so that a test knows how many there are.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cdn_worker.queues.sqlite import SqliteQueue
from sts_manager.cli import main
from sts_manager.routes.pool.ledger import PoolLedger
from sts_manager.routes.sts.route import StsClient
from sts_manager.stores.sql.store import SqlStore

PLACES: tuple[tuple[type, tuple[str, ...]], ...] = (
    (SqlStore, ("record", "swap_lease", "put_failures")),
    (StsClient, ("create", "run", "get", "pause", "resume", "operations")),
    (PoolLedger, ("begin", "published", "fold", "told", "lead")),
    (SqliteQueue, ("publish", "ack")),
)
calls = 0


def deadly(found: Callable[..., Any], name: str, at: int, when: str) -> Callable[..., Any]:
    @functools.wraps(found)
    def call(*args: Any, **more: Any) -> Any:
        global calls  # noqa: PLW0603 - of this process, which is made to die
        calls += 1
        number = calls
        with Path(os.environ["KILLED_CALLS"]).open("a") as told:
            told.write(f"{name}\n")
        if number == at and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = found(*args, **more)
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


if __name__ == "__main__":
    number, when = int(sys.argv[1]), sys.argv[2]
    for kind, names in PLACES:
        for name in names:
            setattr(kind, name, deadly(getattr(kind, name), f"{kind.__name__}.{name}", number, when))
    sys.argv = ["sts-manager", *sys.argv[3:]]
    main()
