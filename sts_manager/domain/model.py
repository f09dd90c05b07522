"""The nouns of the control plane: prefix jobs, operations as observed, plans and their actions, outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from sts_manager.domain.following import Following
from sts_manager.domain.names import JobName, OperationName, Prefix


class JobStatus(StrEnum):
    """The five statuses of the job table; users' queries depend on these words."""

    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    ERROR = "error"


PREFIXES_OF_A_JOB_MAX = 1000
"""Include prefixes of one transfer job (Storage Transfer Service, `ObjectConditions`)."""
LIVE = (JobStatus.RUNNING, JobStatus.PAUSED)
ENDED = (JobStatus.DONE, JobStatus.ERROR)


class Route(StrEnum):
    """How a prefix travels; `sts-follow`: event by event, after the bulk was copied (by the command `follow` only)."""

    STS_S3 = "sts-s3"
    STS_GCS = "sts-gcs"
    STS_URL_LIST = "sts-url-list"
    STS_FOLLOW = "sts-follow"
    CDN = "cdn"


class Limit(StrEnum):
    """What shares a limit of prefixes at once: the Storage Transfer Service's routes, and the worker pool."""

    SERVICE = "service"
    POOL = "pool"

    @classmethod
    def of(cls, route: Route) -> Limit:
        return cls.POOL if route is Route.CDN else cls.SERVICE


class Egress(StrEnum):
    """How bytes leave AWS on route sts-s3, where a row says so; any other value is a CloudFront domain (https://…)."""

    S3 = "s3"
    PRIVATE_NETWORK = "managed-private-network"


class OperationState(StrEnum):
    """The states of a transfer operation (Storage Transfer Service); UNKNOWN stands for any the service adds later."""

    QUEUED = "QUEUED"
    IN_PROGRESS = "IN_PROGRESS"
    SUSPENDING = "SUSPENDING"
    PAUSED = "PAUSED"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    ABORTED = "ABORTED"
    UNKNOWN = "UNKNOWN"


class PausedBy(StrEnum):
    """Who asked for a pause. What nobody here asked for was asked for by a person, and is left alone.

    RESUME   whoever paused it, `resume-all-jobs` asked that it goes on, and the service has not done so yet
    """

    NOBODY = ""
    COMMAND = "pause-all-jobs"
    HOLD = "hold"
    RESUME = "resume-all-jobs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What an operation has found and done so far; `found` excludes `skipped` (Storage Transfer Service)."""

    objects_found: int = 0
    bytes_found: int = 0
    objects_copied: int = 0
    bytes_copied: int = 0
    objects_skipped: int = 0
    bytes_skipped: int = 0
    objects_failed: int = 0
    bytes_failed: int = 0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} cannot be negative")

    @property
    def nothing(self) -> bool:
        """Whether not one object was met with."""
        return not any((self.objects_found, self.objects_copied, self.objects_skipped, self.objects_failed))

    @property
    def any_success(self) -> bool:
        """Whether at least one object is known to be at the sink."""
        return self.objects_copied > 0 or self.objects_skipped > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorBreakdown:
    """How often one error happened in an operation, with one sample (the service keeps at most five)."""

    code: str
    count: int
    sample_url: str = ""
    sample_details: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationSnapshot:
    """One transfer operation as the service described it; `results` is the whole description as JSON text.

    permanent   it failed for causes that another attempt would only meet again
    trouble     (code, message) while nothing of it goes on, for a cause that other operations meet as well
    following   of a transfer job with an event stream: counters are the sums over all of its operations, and an operation that
                is told of under another one's name succeeds that one
    by_manifest   it was told which objects to take: that it met none says nothing of the prefix
    """

    name: OperationName
    state: OperationState
    raw_state: str
    job_name: JobName | None = None
    counters: Counters = Counters()
    errors: tuple[ErrorBreakdown, ...] = ()
    results: str = ""
    permanent: bool = False
    trouble: tuple[str, str] | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    following: Following | None = None
    by_manifest: bool = False

    @property
    def active(self) -> bool:
        """Whether the operation can still move objects."""
        return self.state not in (OperationState.SUCCESS, OperationState.FAILED, OperationState.ABORTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixJob:
    """One row of the job table: the transfer of one prefix.

    attempt          the number of the last try, 0 before the first; it is part of the transfer job's name
    attempt_base     tries before the last `retry` command: they no longer count against the limit
    forgiven         tries that ended because of a project-wide fault (a permission, a bucket), or never began: they do not count
    generation       row version, for compare-and-set
    not_before       earliest start of the next try
    progress_at      when the counters last changed, or the try began
    route            how it travels; it wins over the daemon's --route, and is what an attempt took once one began
    source, destination   places of its own (s3://…, gs://…); empty: the daemon's
    egress           how its bytes leave AWS, on route sts-s3: see `Egress`; empty: as the daemon's settings say
    project          the Google Cloud project of its transfer job; empty: the daemon's first
    lead             another prefix, whose transfer job this one shares, and whose row has the counters of both
    missing_count    consecutive polls in which the service did not know the operation, since `missing_since`; while there is no
                     operation yet: answers of the service that left open whether there is one
    """

    prefix: Prefix
    status: JobStatus = JobStatus.WAITING
    route: Route | None = None
    source: str = ""
    destination: str = ""
    egress: str = ""
    project: str = ""
    lead: Prefix | None = None
    job_name: JobName | None = None
    operation_name: OperationName | None = None
    attempt: int = 0
    attempt_base: int = 0
    forgiven: int = 0
    generation: int = 0
    not_before: datetime | None = None
    paused_by: PausedBy = PausedBy.NOBODY
    counters: Counters = Counters()
    error_code: str = ""
    error_message: str = ""
    missing_count: int = 0
    missing_since: datetime | None = None
    started_at: datetime | None = None
    progress_at: datetime | None = None
    ended_at: datetime | None = None
    last_updated: datetime | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.attempt_base <= self.attempt or self.forgiven < 0 or self.generation < 0:
            raise ValueError(f"impossible attempt numbers for {self.prefix!r}: {self.attempt_base}, {self.attempt}")
        if self.status in LIVE and self.job_name is None:
            raise ValueError(f"{self.prefix!r} is {self.status} but names no transfer job")

    @property
    def tries(self) -> int:
        """How many attempts count against the limit."""
        return max(0, self.attempt - self.attempt_base - self.forgiven)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What a row was given of its own when it was loaded; each may be left to the daemon."""

    route: Route | None = None
    source: str = ""
    destination: str = ""
    egress: str = ""


EMPTY = "EMPTY"
"""The error code of a prefix that is done, and matched no object (invariant 16)."""
COUNTED_BY_SERVICE = "archived_counted"
"""The error of the one row that stands for archived objects whose number alone is known; its key is the prefix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedObject:
    """An object that is not at the sink after its prefix's last attempt, and why. size in bytes, etag as listed."""

    prefix: Prefix
    key: str
    size: int
    etag: str
    verdict: str
    error: str
    details: str
    job_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownObject:
    """One line of the object ledger: an object, and what became of it. crc32c in base64, as Cloud Storage shows it."""

    prefix: Prefix
    key: str
    size: int
    etag: str
    generation: int
    crc32c: str
    verified: str
    verdict: str
    job_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A new version of a row; it is accepted only while the stored generation is `before.generation`.

    `results` is the operation's JSON for the history row, empty when no operation was seen.
    """

    before: PrefixJob
    after: PrefixJob
    results: str = ""

    def __post_init__(self) -> None:
        if self.after.prefix != self.before.prefix or self.after.generation != self.before.generation + 1:
            raise ValueError(f"a change keeps the prefix and adds one to the generation: {self.before.prefix!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """The operator's stored wish to run nothing."""

    by: str
    at: datetime
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """Dispatch is stopped because of a project-wide fault: of the prefixes under `limit`, or of all (None).

    `probes` starts were allowed through so far; the next one may go at `probe_at`. `probe` is the prefix whose
    operation must be seen healthy before the breaker closes.
    """

    code: str
    message: str
    opened_at: datetime
    probe_at: datetime
    probes: int = 0
    probe: Prefix | None = None
    limit: Limit | None = None

    def stops(self, limit: Limit) -> bool:
        """Whether prefixes under a limit may not start."""
        return self.limit is None or self.limit is limit


# What the reconciler may do: actions are imperatives, and each names what it acts upon.


@dataclass(frozen=True, slots=True, kw_only=True)
class StartJob:
    """Create the transfer job (or adopt the one of this name) and run it if it never ran.

    `again`: it was asked for before, and perhaps done. `adopt_only`: find what such a start left behind, and start nothing.
    `source`, `destination`, `egress`: of this prefix alone; empty: the daemon's. `project`: where the job is made.
    `others`: prefixes that travel in the same job; they share all of the above.
    """

    prefix: Prefix
    attempt: int
    job_name: JobName
    route: Route
    again: bool = False
    adopt_only: bool = False
    source: str = ""
    destination: str = ""
    egress: str = ""
    project: str = ""
    others: tuple[Prefix, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseOperation:
    prefix: Prefix
    operation_name: OperationName
    route: Route


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeOperation:
    prefix: Prefix
    operation_name: OperationName
    route: Route


Action = StartJob | PauseOperation | ResumeOperation


# What became of an action: outcomes are in the past tense.


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStarted:
    """This is the operation of the transfer job (None only for adopt_only, when it never ran; `adopted` then: the job exists)."""

    prefix: Prefix
    attempt: int
    operation_name: OperationName | None
    adopted: bool = False
    others: tuple[Prefix, ...] = ()


class Refusal(StrEnum):
    """What a failed start means for the prefix."""

    THROTTLED = "throttled"  # certainly not applied: wait, no attempt burned
    DENIED = "denied"  # project-wide: open the breaker, no attempt burned
    UNCERTAIN = "uncertain"  # perhaps applied: ask again under the same name
    NAME_DELETED = "name deleted"  # go on with the next attempt's name
    UNREADY = "unready"  # this daemon lacks what it takes: the intent stays, for one that has it
    PERMANENT = "permanent"  # the prefix ends in error


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRefused:
    """`made`: the transfer job exists, and only its run was refused. `again`: what became of an earlier call is not known."""

    prefix: Prefix
    attempt: int
    refusal: Refusal
    code: str
    message: str
    after: timedelta | None = None
    others: tuple[Prefix, ...] = ()
    made: bool = False
    again: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationResumed:
    prefix: Prefix
    operation_name: OperationName


@dataclass(frozen=True, slots=True, kw_only=True)
class SteeringFailed:
    """A pause or a resume was not accepted; the next pass decides anew."""

    prefix: Prefix
    verb: str
    code: str
    message: str


StartOutcome = JobStarted | StartRefused
Outcome = JobStarted | StartRefused | OperationResumed | SteeringFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectUse:
    """How far a project's quota of creates is used.

    creates   transfer jobs created in the last 24 hours
    full      as many as are allowed
    refused   the service itself has just refused one: somebody else uses the project, too, or its quota is another
    """

    creates: int = 0
    full: bool = False
    refused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Everything a decision looks at.

    live             rows that are running or paused, as stored
    startable        the next rows that may start, fewest attempts first; under each limit at least as many as it allows
    operations       what the service said of the operations it was asked about
    unseen           operations that could not be asked about in this pass (the call failed): nothing is concluded of them
    outcomes         what became of the last pass's actions, not yet recorded
    ended_well       operations that ended well since the last dispatch, by limit: the ramp counts them with what runs
    projects         how far each project's quota of creates is used; one that is not named is not used at all
    states           of operations, as the last pass saw them; of none after a restart
    """

    live: tuple[PrefixJob, ...] = ()
    startable: tuple[PrefixJob, ...] = ()
    operations: Mapping[OperationName, OperationSnapshot] = field(default_factory=dict)
    unseen: frozenset[OperationName] = frozenset()
    outcomes: tuple[Outcome, ...] = ()
    hold: Hold | None = None
    breaker: Breaker | None = None
    ended_well: Mapping[Limit, int] = field(default_factory=dict)
    projects: Mapping[str, ProjectUse] = field(default_factory=dict)
    states: Mapping[OperationName, OperationState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The operator's settings, as far as decisions depend on them.

    dispatch, fill    this pass may start and resume: what the transfer service moves; what the worker pool moves
    follows           this daemon was told the event queue
    tells_empty       a prefix that matched no object is told of: nothing but its name chooses what is transferred
    successor_polls, successor_for   how often, and for how long, a followed job without an operation is looked at before it
                      is given up. An operation ends each day and the next one begins, at once or after minutes: nobody tells the
                      longest gap, so it is generous. The polls (an hour of them at the default interval) are not told by a
                      clock that somebody sets.
    projects          which share the work of the transfer service; the first is meant where a row names none
    prefixes_per_job  in one transfer job, at most
    uncertain_asks, uncertain_for   so many answers over so long a time may leave open whether a start was applied
    """

    migration: str
    route: Route
    projects: tuple[str, ...] = ("",)
    prefixes_per_job: int = 1
    running_max: int = 20
    cdn_running_max: int = 20
    attempts_max: int = 5
    retry: bool = True
    ignore_stalled: bool = False
    dispatch: bool = True
    fill: bool = True
    stalled_after: timedelta = timedelta(seconds=300)
    retry_delay: timedelta = timedelta(seconds=60)
    retry_delay_max: timedelta = timedelta(hours=1)
    breaker_delay: timedelta = timedelta(minutes=5)
    breaker_delay_max: timedelta = timedelta(hours=1)
    missing_polls: int = 3
    missing_for: timedelta = timedelta(minutes=10)
    uncertain_asks: int = 20
    uncertain_for: timedelta = timedelta(minutes=60)
    follows: bool = True
    tells_empty: bool = False
    successor_polls: int = 12
    successor_for: timedelta = timedelta(hours=1)

    def __post_init__(self) -> None:
        if self.running_max < 1 or self.cdn_running_max < 1 or self.attempts_max < 1:
            raise ValueError("at least one job must be allowed to run, and one attempt to be made")
        if not 1 <= self.prefixes_per_job <= PREFIXES_OF_A_JOB_MAX or not self.projects:
            raise ValueError(f"1 to {PREFIXES_OF_A_JOB_MAX} prefixes travel in one job, in a project")

    def may_begin(self, limit: Limit) -> bool:
        """Whether this pass may start and resume prefixes under a limit."""
        return self.fill if limit is Limit.POOL else self.dispatch

    def most(self, limit: Limit) -> int:
        """How many transfer jobs may run at once under a limit."""
        return self.cdn_running_max if limit is Limit.POOL else self.running_max

    def most_rows(self, limit: Limit) -> int:
        """How many prefixes may start at once under a limit."""
        return self.most(limit) * (1 if limit is Limit.POOL else self.prefixes_per_job)


class Severity(StrEnum):
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something an operator should read once: a constant event name plus fields. The shell logs it; the domain does not."""

    event: str
    severity: Severity = Severity.INFO
    prefix: Prefix | None = None
    fields: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps that close the gap between the job table and what runs.

    `changes` are committed first; only then are the actions of accepted rows carried out.
    """

    changes: tuple[Change, ...] = ()
    actions: tuple[Action, ...] = ()
    breaker: Breaker | None = None
    notes: tuple[Note, ...] = ()
    running: int = 0
    stalled: int = 0
    ended_well: Mapping[Limit, int] = field(default_factory=dict)
    blocked: str = ""


def changed(before: PrefixJob, after: PrefixJob, at: datetime, results: str = "") -> Change:
    """A change from `before` to `after`, with the row's version and time set."""
    return Change(
        before=before,
        after=replace(after, generation=before.generation + 1, last_updated=at),
        results=results,
    )
