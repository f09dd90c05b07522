"""The operations of a transfer job with an event stream, a day each, and of the jobs that bring what failed in them. Pure.

The service's own record is the memory: a repair is named after the operation in which objects failed, so that whoever looks next
finds how far it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sts_manager.domain.following import Problem
from sts_manager.domain.model import Counters, OperationSnapshot, OperationState
from sts_manager.domain.names import JobName, repair_name, repaired_job

LONG_AGO = datetime.min.replace(tzinfo=UTC)
ADDED_UP = tuple(name for name in Counters.__slots__ if not name.endswith("_failed"))
BROUGHT = ("objects_copied", "bytes_copied")


def _began(seen: OperationSnapshot) -> tuple[datetime, str]:
    return seen.started_at or LONG_AGO, seen.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Days:
    """What the service knows of a followed job.

    operations   its own, oldest first
    repairs      of the jobs that bring what failed in those, oldest first
    """

    job: JobName
    operations: tuple[OperationSnapshot, ...]
    repairs: tuple[OperationSnapshot, ...] = ()

    @classmethod
    def of(cls, job: JobName, seen: Iterable[OperationSnapshot]) -> Days:
        """Sort what is listed of a job and of its repairs; what else there is among it is passed over."""
        ordered = sorted(seen, key=_began)
        own = tuple(one for one in ordered if one.job_name == job)
        return cls(job=job, operations=own, repairs=tuple(one for one in ordered if repaired_job(str(one.job_name)) == job))

    @property
    def present(self) -> OperationSnapshot | None:
        """The newest operation that is at work, or the newest of all: two are at work while the older is at its last object."""
        return next((one for one in reversed(self.operations) if one.active), self.operations[-1] if self.operations else None)

    @property
    def failing(self) -> tuple[OperationSnapshot, ...]:
        """Those that have ended with failed objects, or as a whole: what such a one had taken from the queue, nobody names.

        The last one is not among them where it failed as a whole: as long as none has begun after it, it is the row's own cause.
        """
        last = len(self.operations) - 1
        return tuple(
            one
            for index, one in enumerate(self.operations)
            if not one.active and (one.counters.objects_failed or (one.state is OperationState.FAILED and index < last))
        )

    @property
    def outstanding(self) -> tuple[OperationSnapshot, ...]:
        """Of the failing ones, those after the last that was repaired: a repair brings what failed before its day, too."""
        failing = self.failing
        mended = [index for index, one in enumerate(failing) if any(map(is_whole, self.tries(one).values()))]
        return failing[mended[-1] + 1 :] if mended else failing

    def tries(self, failed: OperationSnapshot) -> Mapping[int, OperationSnapshot]:
        """The operations that were to bring what failed in one, by the number of the try; the service may have forgotten some."""
        found = {}
        for one in self.repairs:
            number = int(str(one.job_name).rpartition("-")[2])
            if number and one.job_name == repair_name(self.job, failed.name, number):
                found[number] = one
        return found

    @property
    def at_work(self) -> tuple[OperationSnapshot, ...]:
        """What moves objects or can be made to: its own operations and those of its repairs, oldest first."""
        return tuple(one for one in sorted((*self.operations, *self.repairs), key=_began) if one.active)

    def counters(self, left: int | None = None) -> Counters:
        """The sums over all its operations, with what repairs brought.

        left   how many objects of operations that have ended are known not to be at the destination; None: as many as failed
        """
        total = Counters()
        for one in self.operations:
            total = _added(total, one.counters, ADDED_UP)
        for one in self.repairs:
            total = _added(total, one.counters, BROUGHT)
        for one in (*self.outstanding, *(seen for seen in self.operations if seen.active)):
            if one.active or left is None:
                total = _added(total, one.counters, ("objects_failed", "bytes_failed"))
        return total if left is None else replace(total, objects_failed=total.objects_failed + left)

    @property
    def cause(self) -> Problem | None:
        """What the last operation ended with, where that was not the end of its day. Objects that failed are none of that."""
        last = self.operations[-1] if self.operations else None
        if last is None or last.active:
            return None
        if last.state is OperationState.ABORTED:
            return Problem(code="CANCELLED", message=f"{last.name} was cancelled outside this program")
        if last.state is not OperationState.FAILED or last.counters.objects_failed:
            return None
        worst = max(last.errors, key=lambda error: (error.count, error.code), default=None)
        if worst is None:
            return Problem(code="FAILED", message=f"{last.name} failed, and the service gave no reason")
        return Problem(code=worst.code, message=f"{last.name} failed: {worst.code}: {worst.sample_url} {worst.sample_details}")


def is_whole(seen: OperationSnapshot) -> bool:
    """Whether an operation has brought all that it was to bring."""
    return seen.state is OperationState.SUCCESS and not seen.counters.objects_failed


def day_of(seen: OperationSnapshot) -> str:
    """The day on which an operation began, in UTC."""
    return "an unknown day" if seen.started_at is None else seen.started_at.astimezone(UTC).date().isoformat()


def _added(total: Counters, more: Counters, names: Iterable[str]) -> Counters:
    return replace(total, **{name: getattr(total, name) + getattr(more, name) for name in names})
