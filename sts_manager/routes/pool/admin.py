"""The worker pool's operations, as the utility commands steer them."""

from __future__ import annotations

from collections.abc import Mapping

from sts_manager.domain.errors import NotFound
from sts_manager.domain.model import OperationSnapshot
from sts_manager.domain.names import OperationName
from sts_manager.ports import Clock
from sts_manager.routes.pool.ledger import PoolLedger
from sts_manager.routes.pool.operation import CANCELLED, STEM, job_of, snapshot


class PoolOperations:
    """Over the pool's ledger."""

    stem = STEM

    def __init__(self, ledger: PoolLedger, clock: Clock) -> None:
        self._ledger, self._clock = ledger, clock

    def live(self) -> Mapping[str, OperationSnapshot]:
        return {job.name: snapshot(job) for job in self._ledger.live()}

    def operation(self, name: OperationName) -> OperationSnapshot | None:
        job = self._ledger.job(job_of(name))
        return None if job is None else snapshot(job)

    def steer(self, name: OperationName, *, paused: bool) -> bool:
        return self._ledger.set_paused(job_of(name), paused=paused)

    def cancel(self, name: OperationName) -> None:
        """Raises NotFound for one that is not in this ledger."""
        if self._ledger.job(job_of(name)) is None:
            raise NotFound(f"{name} is not in the pool's ledger here: give the daemon's --store or --pool-ledger")
        self._ledger.end(job_of(name), CANCELLED, "cancelled by command; `retry` starts it again", self._clock.now())

    def job_of_part(self, _name: str) -> str | None:
        """The pool has nothing at the service."""
        return None
