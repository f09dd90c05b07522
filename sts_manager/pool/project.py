"""What the utility commands ask of the transfer service, with the pool's operations beside it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime

from sts_manager.domain.errors import NotFound, Retryable
from sts_manager.domain.model import OperationSnapshot
from sts_manager.domain.naming import OperationName
from sts_manager.pool.document import CANCELLED, STEM, job_of, snapshot
from sts_manager.pool.ledger import PoolLedger
from sts_manager.ports import TransferJobView, TransferProject


class WithPool:
    """The `TransferProject` port over both. `service` makes the transfer service's side when something there is asked for."""

    def __init__(self, service: Callable[[], TransferProject], ledger: PoolLedger) -> None:
        self._service, self._ledger = service, ledger

    def transfer_jobs(self) -> Iterable[TransferJobView]:
        """The service's alone: a pool's job leaves nothing there to be removed."""
        return self._service().transfer_jobs()

    def active_operations(self, job_names: Collection[str] | None) -> Iterable[tuple[str, OperationSnapshot]]:
        ours = {job.name: snapshot(job) for job in self._ledger.live()}
        yield from ((name, seen) for name, seen in ours.items() if job_names is None or name in job_names)
        others = None if job_names is None else [name for name in job_names if name not in ours]
        if others is None or others:
            yield from self._service().active_operations(others)

    def operations(self, names: Sequence[OperationName]) -> Mapping[OperationName, OperationSnapshot]:
        found: dict[OperationName, OperationSnapshot] = {}
        for name in names:
            job = self._ledger.job(job_of(name)) if name.startswith(STEM) else None
            if job is not None:
                found[name] = snapshot(job)
        others = [name for name in names if not name.startswith(STEM)]
        return {**found, **self._service().operations(others)} if others else found

    def pause(self, name: OperationName) -> None:
        self._steer(name, paused=True)

    def resume(self, name: OperationName) -> None:
        self._steer(name, paused=False)

    def cancel(self, name: OperationName, at: datetime) -> None:
        """End an operation of the pool. Raises NotFound for any other."""
        if not name.startswith(STEM) or self._ledger.job(job_of(name)) is None:
            raise NotFound(
                f"{name} is not an operation of the worker pool; one of the transfer service is cancelled in the Cloud console"
            )
        self._ledger.end(job_of(name), CANCELLED, "cancelled by command; `retry` starts it again", at)

    def delete_job(self, name: str) -> None:
        self._service().delete_job(name)

    def _steer(self, name: OperationName, *, paused: bool) -> None:
        if not name.startswith(STEM):
            (self._service().pause if paused else self._service().resume)(name)
        elif not self._ledger.set_paused(job_of(name), paused=paused):
            raise Retryable(f"{name} is not {'running' if paused else 'paused'} any more", code="FAILED_PRECONDITION")
