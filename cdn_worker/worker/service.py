"""A worker as a long-running program: signals, its parent, its health endpoint."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from cdn_worker.config import Reach
from cdn_worker.domain.errors import BadInput
from cdn_worker.ports import Queues
from cdn_worker.protocol.url_list_ledger import ListLedger
from cdn_worker.url_lists.runner import Sizes
from cdn_worker.url_lists.service import Listers, alone
from cdn_worker.worker.health import LOOPBACK, Health
from cdn_worker.worker.worker import Pool, Worker

log = logging.getLogger(__name__)

SECOND_SIGNAL_EXIT = 130


def serve(pool: Pool, queues: Queues, *, health_port: int = 0, health_address: str = LOOPBACK, parent: int = 0) -> None:
    """Run a worker until SIGTERM or SIGINT; a second signal ends it at once. parent: also until this process has ended."""
    worker = Worker(pool, queues, stopping=stopping(parent))
    health = Health(lambda: worker.figures, health_port, health_address) if health_port else None
    log.info("worker_began", extra={"fields": {"processes": pool.processes, "cdn": pool.reach.cdn_url or "none: S3 itself"}})
    try:
        worker.run()
    finally:
        if health is not None:
            health.close()
    log.info("worker_ended", extra={"fields": {f"objects_{name}": number for name, number in worker.figures.objects.items()}})


def list_for(path: Path, reach: Reach, sizes: Sizes, *, parent: int = 0) -> None:
    """Do the lister's part of a ledger's jobs, until told to stop as above."""
    told = stopping(parent)
    ledger = ListLedger(path, BadInput)
    try:
        with alone(path, told) as ours:
            if ours:
                log.info("lister_began", extra={"fields": {"cdn": reach.cdn_url}})
                Listers(ledger, reach, sizes, stopping=told).run()
    finally:
        ledger.close()


def stopping(parent: int) -> Callable[[], bool]:
    """What says whether to stop: after SIGTERM or SIGINT, or (parent not 0) when that process has ended. A second signal ends."""
    signals: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        if signals:
            os._exit(SECOND_SIGNAL_EXIT)
        signals.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return lambda: bool(signals or (parent and os.getppid() != parent))
