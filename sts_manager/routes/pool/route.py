"""The worker pool as a route: a prefix is one list task in the queue, and an operation in the pool's ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cdn_worker.domain.overwrite import Replace
from cdn_worker.ports import Queues, QueueUnavailable
from cdn_worker.protocol.codec import encoded
from cdn_worker.protocol.messages import JobSpec, ListTask
from sts_manager.domain.errors import NameTaken, Retryable
from sts_manager.domain.location import Place
from sts_manager.domain.model import OperationSnapshot, StartJob
from sts_manager.domain.names import OperationName
from sts_manager.ports import Clock, Started
from sts_manager.routes.pool.ledger import PoolLedger
from sts_manager.routes.pool.ledger_rows import spec_text
from sts_manager.routes.pool.operation import job_of, operation_of, snapshot

REPLACE = {"": Replace.RECORDED, "DIFFERENT": Replace.DIFFERENT, "NEVER": Replace.NEVER, "ALWAYS": Replace.ALWAYS}


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """What all prefixes of a daemon have in common on this route."""

    source: Place
    sink: Place
    overwrite_when: str = ""
    storage_class: str = ""
    since: datetime | None = None
    before: datetime | None = None
    storage_classes: tuple[str, ...] = ()


def spec_of(order: StartJob, settings: PoolSettings) -> JobSpec:
    """What the workers are told of one attempt."""
    source, sink = settings.source, settings.sink
    return JobSpec(
        job=str(order.job_name),
        prefix=source.path + order.prefix,
        source_bucket=source.bucket,
        sink_bucket=sink.bucket,
        source_root=source.path,
        sink_root=sink.path,
        storage_class=settings.storage_class,
        replace=REPLACE[settings.overwrite_when],
        since="" if settings.since is None else settings.since.isoformat(),
        before="" if settings.before is None else settings.before.isoformat(),
        storage_classes=settings.storage_classes,
    )


class CdnRoute:
    """`settings_of` gives the places of a prefix. Held by tests/conformance/transfer_route.py, as every route is."""

    def __init__(self, queues: Queues, ledger: PoolLedger, settings_of: Callable[[StartJob], PoolSettings], clock: Clock) -> None:
        self._queues, self._ledger, self._settings_of, self._clock = queues, ledger, settings_of, clock

    def start(self, order: StartJob) -> Started:
        name = str(order.job_name)
        known = self._ledger.job(name)
        if known is None and order.adopt_only:
            return Started(operation_name=None)
        spec = self._ledger.address(spec_of(order, self._settings_of(order)))
        if known is not None and known.spec != spec_text(spec):
            raise NameTaken(f"{name} is in the pool's ledger with another spec: {known.spec}, not {spec_text(spec)}")
        if known is not None and known.state != "new":
            return Started(operation_name=operation_of(name), adopted=True)
        self._ledger.begin(spec, order.prefix, self._queues.id, self._clock.now())
        if order.adopt_only:
            return Started(operation_name=None)
        try:
            # Twice in the queue is harmless: the first listing that is reported counts, and the other does not.
            self._queues.lists.publish([encoded(ListTask(spec=spec, keys=self._ledger.replay(name)))])
        except QueueUnavailable as error:
            raise Retryable(str(error)) from error
        self._ledger.published(name)
        return Started(operation_name=operation_of(name))

    def operations(self, names: Sequence[OperationName]) -> Mapping[OperationName, OperationSnapshot]:
        """What the ledger says. A job in other queues than these (their file was lost) is unknown: nobody works on it."""
        found = {}
        for name in names:
            job = self._ledger.job(job_of(name))
            if job is not None and (job.state == "over" or job.queue == self._queues.id):
                found[name] = snapshot(job)
        return found

    def pause(self, name: OperationName) -> None:
        """Workers stop claiming its tasks; what is at work goes on to its end."""
        self._steer(name, paused=True)

    def resume(self, name: OperationName) -> None:
        self._steer(name, paused=False)

    def _steer(self, name: OperationName, *, paused: bool) -> None:
        if not self._ledger.set_paused(job_of(name), paused=paused):
            known = self._ledger.job(job_of(name))
            told = "unknown" if known is None else known.state
            raise Retryable(f"{name} is {told} in the pool", code="FAILED_PRECONDITION")
