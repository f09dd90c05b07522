"""What the control plane needs from outside, as protocols. Each is held by a conformance suite under tests/conformance."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Protocol

from sts_manager.domain.heartbeat import MetricPoint
from sts_manager.domain.model import (
    Breaker,
    Change,
    Chosen,
    Counters,
    FailedObject,
    Hold,
    JobStatus,
    KnownObject,
    Limit,
    OperationSnapshot,
    Plan,
    PrefixJob,
    ProjectUse,
    Route,
    StartJob,
)
from sts_manager.domain.names import JobName, OperationName, Prefix
from sts_manager.domain.service_answers import ServiceAnswers


class Clock(Protocol):
    """Time, injected: `now` is for rows and screens, `monotonic` (seconds) for intervals, so a clock jump harms nothing."""

    def now(self) -> datetime: ...
    def monotonic(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRow:
    """One event of a prefix: the row as it became, when, and the operation's JSON if one was seen."""

    job: PrefixJob
    timestamp: datetime
    operation_results: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorGroup:
    """Prefixes that share an error code: how many, and one of them."""

    status: JobStatus
    code: str
    prefixes: int
    example: Prefix
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftBehind:
    """A prefix that is done, and objects of it that are known not to be at the destination. bytes: their sizes as listed.

    counted_by_service   no object is known by name: one row of `failures` tells the service's own count, of all prefixes that
                         shared the transfer job
    """

    prefix: Prefix
    objects: int
    bytes: int
    counted_by_service: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What became of a list of prefixes: how many rows were added, and how many were there already."""

    added: int = 0
    present: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixClash:
    """A prefix that cannot be loaded because a stored one encloses it, or lies under it."""

    prefix: Prefix
    stored: Prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """How far the migration was at a time: prefixes done, bytes and objects copied; `status` shows rates from two of them."""

    at: datetime
    done: int
    bytes_copied: int
    objects_copied: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaUse:
    """How much of one of the service's quotas a project has used: calls of a kind in the last `seconds`, of at most `most`."""

    project: str
    kind: str
    seconds: float
    calls: int
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PassReport:
    """What the daemon said of its last pass: what `status` shows as its heartbeat.

    quotas    the fullest ones, for whoever looks
    creates   transfer jobs created in the last day: project → ten minutes since 1970 → number; kept across restarts
    """

    at: datetime
    interval_s: float
    running: int = 0
    stalled: int = 0
    blocked: str = ""
    degraded: str = ""
    samples: tuple[Sample, ...] = ()
    quotas: tuple[QuotaUse, ...] = ()
    creates: Mapping[str, Mapping[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """The stored state beside the rows: one small record a store.

    migration   the store's own id; it is part of every transfer job's name
    source, sink   the buckets this store was first run with; empty before
    ledger      the id of the pool's ledger whose daemon led last; empty before one did
    answers     what a probe observed of the services; None when nobody ever probed
    """

    migration: str
    source: str = ""
    sink: str = ""
    hold: Hold | None = None
    breaker: Breaker | None = None
    report: PassReport | None = None
    ledger: str = ""
    answers: ServiceAnswers | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Everything a pass writes, in one transaction.

    `fence`: the epoch of the writer's lease; None for a command that needs no lease. `breaker` and `report` replace what
    is stored when `writes_state` is set.
    """

    changes: tuple[Change, ...] = ()
    at: datetime
    fence: int | None = None
    writes_state: bool = False
    breaker: Breaker | None = None
    report: PassReport | None = None


class JobStore(Protocol):
    """The job table and its history.

    Held by tests/conformance/job_store.py for every implementation: a change whose generation is stale alters nothing
    and its prefix is returned; an accepted change adds one to the generation and one row to the history; a batch with an
    old fence raises LeaseLost and writes nothing; what cannot be reached raises StoreUnavailable.
    """

    def counts(self) -> Mapping[JobStatus, int]:
        """Rows by status; every status is a key."""
        ...

    def live(self) -> tuple[PrefixJob, ...]:
        """The rows that are running or paused."""
        ...

    def startable(self, now: datetime, most: Mapping[Limit, int], default: Route) -> tuple[PrefixJob, ...]:
        """Waiting rows whose time has come, ordered by attempt, then prefix: under each limit at most `most` of them.

        `default`: the route of rows that have none of their own.
        """
        ...

    def record(self, batch: Batch) -> frozenset[Prefix]:
        """Commit a batch; returns the prefixes whose change was stale."""
        ...

    def control(self) -> Control: ...
    def set_hold(self, hold: Hold | None) -> None: ...
    def note_ledger(self, ledger: str, fence: int | None) -> None:
        """Write down whose ledger of the pool is told from now on. Raises LeaseLost, and writes nothing, with an old fence."""
        ...

    def set_answers(self, answers: ServiceAnswers | None) -> None:
        """Replace what is stored of a probe's observations."""
        ...

    def bind(self, source: str, sink: str) -> Control:
        """Remember the buckets, unless others are stored and some prefix has begun to travel. Returns what is stored."""
        ...

    def load(
        self,
        prefixes: Sequence[Prefix],
        at: datetime,
        progress: Callable[[int], None],
        chosen: Mapping[Prefix, Chosen] = MappingProxyType({}),
    ) -> Loaded:
        """Add waiting rows for the prefixes (sorted, none under another) that are not there yet; rows there are kept.

        `chosen`: what some of them have of their own.
        """
        ...

    def clashes(self, prefixes: Sequence[Prefix], limit: int) -> tuple[PrefixClash, ...]:
        """The first `limit` prefixes (sorted) that a stored one encloses, or that enclose a stored one."""
        ...

    def prefixes(self) -> Iterator[Prefix]:
        """Every row's prefix, in the order of their bytes in UTF-8."""
        ...

    def own_destinations(self) -> Iterator[tuple[Prefix, str]]:
        """The rows that have a destination of their own, each with it, by prefix."""
        ...

    def own_places(self) -> Iterator[tuple[str, str]]:
        """(source, destination) of the rows that have one of their own, each pair once; empty for what a row has not."""
        ...

    def job(self, prefix: Prefix) -> PrefixJob | None: ...
    def jobs_named(self, names: Collection[JobName]) -> Mapping[JobName, PrefixJob]:
        """The rows whose last attempt has one of these transfer jobs."""
        ...

    def with_status(self, status: JobStatus) -> Iterator[PrefixJob]:
        """All rows of a status, by prefix, a page at a time: rows may be changed meanwhile, and none comes twice."""
        ...

    def history(self, prefix: Prefix) -> Iterator[HistoryRow]:
        """A prefix's events, oldest first."""
        ...

    def put_failures(self, prefix: Prefix, failures: Sequence[FailedObject], at: datetime) -> None:
        """Replace what is known of a prefix's failed objects."""
        ...

    def failures(self, prefix: Prefix | None, limit: int) -> tuple[FailedObject, ...]:
        """Failed objects of one prefix, or of all, by prefix and key: the first `limit` of them."""
        ...

    def put_objects(self, objects: Iterable[KnownObject], at: datetime) -> None:
        """Add lines to the object ledger; a line that is put again, with the same time, is there once."""
        ...

    def objects(self, prefix: Prefix, limit: int) -> tuple[KnownObject, ...]:
        """A prefix's objects as they were last seen, by key: the first `limit` of them."""
        ...

    def error_groups(self, limit: int) -> tuple[ErrorGroup, ...]: ...
    def left_behind(self, limit: int) -> tuple[LeftBehind, ...]:
        """Prefixes that are done and have failed objects all the same, most objects first: the first `limit` of them."""
        ...

    def totals(self) -> Counters:
        """Sums over the whole table: a question for `status`, not for each pass."""
        ...

    def lease_text(self) -> str | None:
        """The lease record as stored (text of `stores/lease.py`), None when nobody ever held it."""
        ...

    def swap_lease(self, old: str | None, new: str) -> bool:
        """Replace the lease record if it still is `old`; whether it was replaced."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A transfer job; `operation_name` is None only when it never ran and nothing was to be started.

    adopted   it was there already; without an operation, that it is there at all
    """

    operation_name: OperationName | None
    adopted: bool = False


class TransferRoute(Protocol):
    """A way for a prefix to travel. Every call has a deadline and raises the errors of `domain.errors`, never a vendor's."""

    def start(self, order: StartJob) -> Started:
        """Create the named job or adopt it, and run it if it never ran. Safe to repeat.

        Raises Throttled (not applied), Retryable (perhaps applied), Denied, NameTaken, NameDeleted, Permanent.
        """
        ...

    def operations(self, names: Sequence[OperationName]) -> Mapping[OperationName, OperationSnapshot]:
        """What the service says of these operations, in ceil(n / 100) calls; unknown ones are absent."""
        ...

    def pause(self, name: OperationName) -> None: ...
    def resume(self, name: OperationName) -> None: ...


class Quotas(Protocol):
    """What this process uses of the transfer service's quotas."""

    def used(self) -> tuple[QuotaUse, ...]: ...

    def creates(self, plan: Plan) -> Mapping[str, Mapping[int, int]]:
        """Creates of the last day, those that the plan is about to make among them: see `PassReport`."""
        ...

    def projects(self) -> Mapping[str, ProjectUse]:
        """How far each project's creates of the day are used."""
        ...

    def recall(self, creates: Mapping[str, Mapping[int, int]]) -> None:
        """Take over what an earlier process created in the last day; what is known already is not counted again."""
        ...


class NoQuotas:
    """Nobody counts."""

    def used(self) -> tuple[QuotaUse, ...]:
        return ()

    def creates(self, _plan: Plan) -> Mapping[str, Mapping[int, int]]:
        return {}

    def projects(self) -> Mapping[str, ProjectUse]:
        return {}

    def recall(self, _creates: Mapping[str, Mapping[int, int]]) -> None:
        pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a store's lease."""

    who: str
    host: str
    epoch: int
    since: datetime
    beaten_at: datetime


class Lease(Protocol):
    """One active daemon per store (INVARIANTS: two daemons). Judged by observed change, not by clocks."""

    def acquire(self) -> Holder | None:
        """Try to take the lease; None when it is ours now, else who holds it."""
        ...

    def renew(self) -> None:
        """Show that this daemon lives; raises LeaseLost when another one took over."""
        ...

    def release(self) -> None:
        """Give the lease back, so that the next daemon need not wait."""
        ...

    @property
    def fence(self) -> int:
        """The epoch of the lease that is held."""
        ...

    @property
    def fresh(self) -> bool:
        """Whether it is held, and was renewed so lately that nobody can have taken over: a process may have been frozen."""
        ...


class MetricsSink(Protocol):
    """Where heartbeats go. Held by tests/conformance/metrics_sink.py."""

    def publish(self, points: Sequence[MetricPoint], at: datetime) -> None:
        """Hand over one point for each series. Raises OutOfOrder, Denied, Retryable, Permanent; the caller goes on."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferJobView:
    """A transfer job as the service lists it, as far as commands need it. event_queue: what an event-driven one listens to."""

    name: str
    latest_operation: OperationName | None
    one_time: bool
    event_queue: str = ""


class TransferProject(Protocol):
    """What the utility commands ask of the service, across all of a project's jobs."""

    def transfer_jobs(self) -> Iterable[TransferJobView]:
        """Every job that is not deleted."""
        ...

    def active_operations(self, job_names: Collection[str] | None) -> Iterable[tuple[str, OperationSnapshot]]:
        """(job name, operation) of the operations in progress, queued or paused; of these jobs, or of the whole project."""
        ...

    def operations(self, names: Sequence[OperationName]) -> Mapping[OperationName, OperationSnapshot]: ...
    def pause(self, name: OperationName) -> None: ...
    def resume(self, name: OperationName) -> None: ...
    def cancel(self, name: OperationName) -> None: ...
    def delete_job(self, name: str) -> None: ...


Routes = Mapping[Route, TransferRoute]
"""The routes a daemon was wired with."""
