"""A worker as a long-running program: signals, its parent, its health endpoint."""

from __future__ import annotations

import logging
import os
import signal
from types import FrameType

from cdn_worker.health import Health
from cdn_worker.ports import Queues
from cdn_worker.worker import Pool, Worker

log = logging.getLogger(__name__)

SECOND_SIGNAL_EXIT = 130


def serve(pool: Pool, queues: Queues, *, health_port: int = 0, parent: int = 0) -> None:
    """Run a worker until SIGTERM or SIGINT; a second signal ends it at once. parent: also until this process has ended."""
    signals: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        if signals:
            os._exit(SECOND_SIGNAL_EXIT)
        signals.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    worker = Worker(pool, queues, stopping=lambda: bool(signals or (parent and os.getppid() != parent)))
    health = Health(lambda: worker.figures, health_port) if health_port else None
    log.info("worker_began", extra={"fields": {"processes": pool.processes, "cdn": pool.reach.cdn_url or "none: S3 itself"}})
    try:
        worker.run()
    finally:
        if health is not None:
            health.close()
    log.info("worker_ended", extra={"fields": {f"objects_{name}": number for name, number in worker.figures.objects.items()}})
