"""Jobs with an event stream: operations that the service begins by itself, a day each, as long as the job is enabled."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from google.cloud import storage_transfer_v1 as sts

from tools.emulators.ledger import Ledger
from tools.emulators.sts.copier import ACTIVE, Status

if TYPE_CHECKING:
    from tools.emulators.sts.service import Operation

JobState = sts.TransferJob.Status


class EventStreams:
    """Which operations of which jobs there are, by the settings `sts.follow_operation_seconds` and `sts.follow_gap_seconds`.

    An operation takes no more events after its time, and ends when the object that it is at is transferred; the next one begins
    when its time has come, whatever became of the one before. Not safe to use from several threads: the service's lock is held.

    operation_of, admit   of the service: make an operation, and let those that are queued begin
    now                   its wall clock; how long an operation has run is told by the ledger's clock
    """

    def __init__(
        self,
        ledger: Ledger,
        operation_of: Callable[[sts.TransferJob], Operation],
        admit: Callable[[], None],
        now: Callable[[], datetime],
    ) -> None:
        self._ledger, self._operation_of, self._admit, self._now = ledger, operation_of, admit, now
        self._began: dict[str, float] = {}

    def begin(self, job: sts.TransferJob) -> None:
        """The next operation of a job. One whose queue cannot be read fails at once."""
        operation = self._operation_of(job)
        self._began[operation.name] = self._ledger.clock()
        operation.work.events = functools.partial(self._ledger.event, job.event_stream.name)
        if job.event_stream.name not in self._ledger.setting("sqs.queues"):
            operation.work.fail("PERMISSION_DENIED", job.event_stream.name, "the queue cannot be read")
            operation.work.status = Status.FAILED
            operation.ended = self._now()
        self._admit()

    def tend(self, job: sts.TransferJob, operations: Sequence[Operation]) -> None:
        """What is due by now: operations that have had their time, and the next one. operations: the job's, oldest first."""
        listens = job.status == JobState.ENABLED and not self._expired(job)
        ages = {one.name: self._ledger.clock() - self._began[one.name] for one in operations}
        day = self._ledger.setting("sts.follow_operation_seconds")
        for one in operations:
            if one.work.status in ACTIVE and (not listens or ages[one.name] >= day):
                one.work.closing = True
        if listens and ages[operations[-1].name] >= day + self._ledger.setting("sts.follow_gap_seconds"):
            self.begin(job)

    def _expired(self, job: sts.TransferJob) -> bool:
        return "event_stream_expiration_time" in job.event_stream and job.event_stream.event_stream_expiration_time <= self._now()

    def reset(self) -> None:
        self._began.clear()
