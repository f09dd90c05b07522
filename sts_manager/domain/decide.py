"""The decision: from what is observed to the steps that close the gap. Pure, and a function of its arguments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice

from sts_manager.domain.following import QUEUE_MISSING
from sts_manager.domain.model import (
    LIVE,
    Action,
    Breaker,
    Change,
    JobStatus,
    Limit,
    Note,
    Observed,
    OperationState,
    PausedBy,
    PauseOperation,
    Plan,
    Policy,
    PrefixJob,
    ProjectUse,
    ResumeOperation,
    Route,
    Severity,
    StartJob,
    changed,
)
from sts_manager.domain.names import JobName, Prefix, job_name
from sts_manager.domain.pacing import is_due, is_stalled, ramp_room
from sts_manager.domain.transitions import IDLE, Settled, next_breaker, others_paused, settle, told

PAUSABLE = (OperationState.IN_PROGRESS, OperationState.QUEUED)


def decide(observed: Observed, policy: Policy, now: datetime) -> Plan:
    """Name the steps that close the gap between the job table and what runs."""
    observed = replace(observed, live=_led(observed.live))
    outcomes = told(observed.outcomes)
    settled = tuple(settle(job, observed, policy, now, outcomes) for job in observed.live)
    breaker = next_breaker(observed, settled, policy, now)
    shared = _shared(observed)
    steering = [
        steer(row, observed, policy, now, may_start=_may_start(row, observed, policy, breaker), shared=shared) for row in settled
    ]
    ended_well = Counter(
        Limit.of(route_of(row.after, policy)) for row in settled if row.after.status is JobStatus.DONE and row.after.lead is None
    )
    resumes: list[ResumeOperation] = []
    begun: list[Begun] = []
    blind = {Limit.of(route_of(row.after, policy)) for row in settled if row.after.operation_name in observed.unseen}
    for limit in Limit:
        room = _room(settled, policy, now, limit)
        these = list(islice(_resumes(settled, observed, policy, limit), room))
        resumes += these
        if limit in blind:
            continue
        starts, breaker = _starts(observed, policy, breaker, limit, room - len(these), ended_well[limit], now)
        begun += starts
    changes = [change for change, _ in steering if change is not None]
    actions = [action for _, action in steering if action is not None]
    return Plan(
        changes=(*changes, *(change for one in begun for change in one.changes)),
        actions=(*actions, *resumes, *(one.action for one in begun)),
        breaker=breaker,
        notes=(*(note for row in settled for note in row.notes), *_breaker_notes(observed.breaker, breaker)),
        running=sum(row.after.status is JobStatus.RUNNING for row in settled) + sum(len(one.changes) for one in begun),
        stalled=sum(_stalls(row, policy, now) for row in settled),
        ended_well=ended_well,
        blocked=_blocked(observed, breaker),
    )


@dataclass(frozen=True, slots=True)
class Sharing:
    """The live rows of one transfer job: their prefixes in order, and the first of those that do not know its operation."""

    prefixes: tuple[Prefix, ...]
    asker: Prefix | None


Shared = Mapping[JobName, Sharing]


@dataclass(frozen=True, slots=True)
class Begun:
    """The intents of the prefixes that travel in one transfer job, and the action that carries them out."""

    changes: tuple[Change, ...]
    action: StartJob


def _led(live: Sequence[PrefixJob]) -> tuple[PrefixJob, ...]:
    """The live rows, each with a lead that is in the same transfer job.

    Somebody may have changed the lead's row in the very moment when the intents were written: it is not of the job then, and
    the first of the others takes its place.
    """
    led = {job.job_name for job in live if job.lead is None}
    heirs: dict[JobName | None, Prefix] = {}
    for job in live:
        if job.job_name not in led:
            heirs[job.job_name] = min(heirs.get(job.job_name, job.prefix), job.prefix)
    if not heirs:
        return tuple(live)
    return tuple(
        replace(job, lead=None if job.prefix == heirs[job.job_name] else heirs[job.job_name]) if job.job_name in heirs else job
        for job in live
    )


def _shared(observed: Observed) -> Shared:
    """The transfer jobs that have several live rows."""
    rows: dict[JobName, list[PrefixJob]] = {}
    for job in observed.live:
        if job.job_name is not None:
            rows.setdefault(job.job_name, []).append(job)
    return {
        name: Sharing(
            tuple(sorted(job.prefix for job in some)),
            min((job.prefix for job in some if job.operation_name is None), default=None),
        )
        for name, some in rows.items()
        if len(some) > 1
    }


def steer(
    row: Settled, observed: Observed, policy: Policy, now: datetime, *, may_start: bool, shared: Shared
) -> tuple[Change | None, Action | None]:
    """What is recorded of a live row, and the call that follows from the hold or from an intent without an operation.

    Of rows that share a transfer job, one has the calls made: its lead, or the first of them where that has none to make.
    """
    after = row.after
    action: Action | None = None
    if after.status is JobStatus.RUNNING and after.operation_name is None and _left_alone(after, policy):
        pass
    elif after.status is JobStatus.RUNNING and after.operation_name is None:
        # An intent whose start was never answered (a crash, a lost answer): ask again under the same name. It may start
        # a transfer only when starting is allowed; else what it left behind is only looked for.
        if is_due(after.not_before, now) and after.job_name is not None and _asks(after, shared):
            action = _order(after, route_of(after, policy), _others(after, shared), again=True, adopt_only=not may_start)
    elif observed.hold is not None and _moves(row) and after.operation_name is not None:
        if after.lead is None:
            action = PauseOperation(prefix=after.prefix, operation_name=after.operation_name, route=route_of(after, policy))
        after = replace(after, paused_by=PausedBy.HOLD)
    if after == row.before:
        return None, action  # no news: the history tells what changed, not how often somebody looked
    return changed(row.before, after, now, row.results), action


def _moves(row: Settled) -> bool:
    """Whether there is anything to be paused: the operation, or another one of a followed job."""
    others = row.after.status in LIVE and row.following is not None and row.following.others_move
    return row.state in PAUSABLE or others


def _left_alone(job: PrefixJob, policy: Policy) -> bool:
    """Whether an intent waits for a daemon that knows the event queue: this one has looked for what it left behind, once."""
    return job.error_code == QUEUE_MISSING and not policy.follows


def _asks(job: PrefixJob, shared: Shared) -> bool:
    """Whether this row asks again about an intent: of those that share it, one does."""
    sharing = shared.get(job.job_name) if job.job_name is not None else None
    return sharing is None or sharing.asker == job.prefix


def _others(job: PrefixJob, shared: Shared) -> tuple[Prefix, ...]:
    sharing = shared.get(job.job_name) if job.job_name is not None else None
    return () if sharing is None else tuple(prefix for prefix in sharing.prefixes if prefix != job.prefix)


def _order(
    job: PrefixJob, route: Route, others: tuple[Prefix, ...], *, again: bool = False, adopt_only: bool = False
) -> StartJob:
    assert job.job_name is not None
    return StartJob(
        prefix=job.prefix,
        attempt=job.attempt,
        job_name=job.job_name,
        route=route,
        again=again,
        adopt_only=adopt_only,
        source=job.source,
        destination=job.destination,
        egress=job.egress,
        project=job.project,
        others=others,
    )


def _may_start(row: Settled, observed: Observed, policy: Policy, breaker: Breaker | None) -> bool:
    limit = Limit.of(route_of(row.after, policy))
    return observed.hold is None and not (breaker is not None and breaker.stops(limit))


def _room(settled: Sequence[Settled], policy: Policy, now: datetime, limit: Limit) -> int:
    """How many more transfer jobs may run at once under a limit, whatever the ramp says."""
    running = [row for row in settled if row.after.status is JobStatus.RUNNING and row.after.lead is None]
    running = [row for row in running if Limit.of(route_of(row.after, policy)) is limit]
    if policy.ignore_stalled:
        running = [row for row in running if not _stalls(row, policy, now)]
    return max(0, policy.most(limit) - len(running))


def _stalls(row: Settled, policy: Policy, now: datetime) -> bool:
    return row.state not in IDLE and is_stalled(row.after, now, policy.stalled_after)


def _resumes(settled: Sequence[Settled], observed: Observed, policy: Policy, limit: Limit) -> Iterator[ResumeOperation]:
    """Operations that this program paused, in the job cycle, when no hold stands. What a person paused stays paused."""
    if observed.hold is not None or not policy.may_begin(limit):
        return
    for row in settled:
        job = row.after
        if (
            job.lead is not None
            or not (row.state is OperationState.PAUSED or others_paused(row))
            or job.operation_name is None
            or job.paused_by is PausedBy.NOBODY
        ):
            continue
        if Limit.of(route_of(job, policy)) is limit:
            yield ResumeOperation(prefix=job.prefix, operation_name=job.operation_name, route=route_of(job, policy))


def _starts(
    observed: Observed,
    policy: Policy,
    breaker: Breaker | None,
    limit: Limit,
    room: int,
    ended_well: int,
    now: datetime,
) -> tuple[list[Begun], Breaker | None]:
    """What starts now under a limit, with the intents that are committed first."""
    if observed.hold is not None or not policy.may_begin(limit):
        return [], breaker
    most = policy.most(limit)
    allowed = min(room, ramp_room(most - room, observed.ended_well.get(limit, 0) + ended_well, most))
    stopped = breaker if breaker is not None and breaker.stops(limit) else None
    if stopped is not None:
        # A probe further off than the longest wait was planned by a clock that has since been set back.
        if now < stopped.probe_at <= now + policy.breaker_delay_max:
            return [], breaker
        allowed = min(allowed, 1)
    ready = (job for job in _ready(observed, now) if Limit.of(route_of(job, policy)) is limit)
    load = Counter(job.project or policy.projects[0] for job in observed.live if job.lead is None)
    started = []
    for some in islice(_batches(ready, policy), allowed):
        project = _least_loaded(policy, load, observed.projects) if limit is Limit.SERVICE else ""
        if project is None:
            break
        load[project] += 1
        started.append(launch(some, policy, now, project))
    if stopped is not None and started:
        breaker = _probed(stopped, started[0].action, policy, now)
    return started, breaker


def _least_loaded(policy: Policy, load: Counter[str], used: Mapping[str, ProjectUse]) -> str | None:
    """The project with the fewest transfer jobs, of those in which one may be created; None when there is no such."""

    def rank(project: str) -> tuple[bool, int, int]:
        use = used.get(project, UNUSED)
        return use.refused, load[project], use.creates

    free = [project for project in policy.projects if not used.get(project, UNUSED).full]
    return min(free, key=rank, default=None)


UNUSED = ProjectUse()
BATCHED = (Route.STS_S3, Route.STS_GCS)
SPLIT_BY = 32
"""A job of many prefixes that failed is tried again in so many parts: twice, and the culprit is alone."""


def batch_size(policy: Policy, tries: int) -> int:
    """How many prefixes share a transfer job, after so many tries of theirs."""
    size = policy.prefixes_per_job
    for _ in range(min(tries, 3)):
        size //= SPLIT_BY
    return max(1, size)


def _batches(ready: Iterable[PrefixJob], policy: Policy) -> Iterator[list[PrefixJob]]:
    """Prefixes that may share a transfer job, in the order in which they are to start; each group as soon as it is full."""
    open_: dict[tuple[object, ...], list[PrefixJob]] = {}
    for job in ready:
        route = route_of(job, policy)
        size = batch_size(policy, job.tries) if route in BATCHED else 1
        if size == 1:
            yield [job]
            continue
        # The attempt is part of the job's name, so it is the same for all of them.
        some = open_.setdefault((route, job.source, job.destination, job.egress, job.attempt, size), [])
        some.append(job)
        if len(some) == size:
            yield some
            some.clear()
    yield from (some for some in open_.values() if some)


def _ready(observed: Observed, now: datetime) -> Iterator[PrefixJob]:
    # Fewest attempts first: a prefix that keeps failing must not hold up the healthy ones.
    live = {job.prefix for job in observed.live}
    for job in sorted(observed.startable, key=lambda job: (job.attempt, job.prefix)):
        if job.route is Route.STS_FOLLOW:
            # Left behind by an older version: as after `retry`, it is a transfer like any other. `follow` alone makes it follow.
            job = replace(job, route=None)  # noqa: PLW2901
        if job.status is JobStatus.WAITING and is_due(job.not_before, now) and job.prefix not in live:
            yield job


def launch(jobs: Sequence[PrefixJob], policy: Policy, now: datetime, project: str = "") -> Begun:
    """The intents to start the next attempt of prefixes in one transfer job, and the action that carries them out."""
    lead, *others = sorted(jobs, key=lambda job: job.prefix)
    attempt = lead.attempt + 1
    # Of several it tells who they are: their lead may come to be in another job, should somebody change its row just now.
    name = job_name(policy.migration, Prefix("\0".join(job.prefix for job in (lead, *others))), attempt)
    # A row names its project only where there is a choice.
    own = project if len(policy.projects) > 1 else ""
    changes = [
        changed(
            job,
            replace(
                job,
                status=JobStatus.RUNNING,
                route=route_of(job, policy),
                attempt=attempt,
                job_name=name,
                operation_name=None,
                project=own,
                lead=None if job is lead else lead.prefix,
                not_before=None,
                paused_by=PausedBy.NOBODY,
                counters=replace(job.counters, **dict.fromkeys(job.counters.__slots__, 0)),
                missing_count=0,
                missing_since=None,
                started_at=now,
                progress_at=now,
                ended_at=None,
            ),
            now,
        )
        for job in (lead, *others)
    ]
    action = _order(changes[0].after, route_of(lead, policy), tuple(job.prefix for job in others))
    return Begun(tuple(changes), action)


def _probed(breaker: Breaker, probe: StartJob, policy: Policy, now: datetime) -> Breaker:
    probes = breaker.probes + 1
    wait = min(policy.breaker_delay_max, policy.breaker_delay * 2 ** min(probes, 20))
    return replace(breaker, probes=probes, probe=probe.prefix, probe_at=now + wait)


def _breaker_notes(before: Breaker | None, after: Breaker | None) -> Iterator[Note]:
    if before is None and after is not None:
        fields = {"code": after.code, "cause": after.message, "next_probe": after.probe_at.isoformat()}
        yield Note(event="breaker_opened", severity=Severity.ERROR, fields=fields)
    elif before is not None and after is None:
        yield Note(event="breaker_closed", fields={"code": before.code})
    elif before is not None and after is not None and before.probes != after.probes:
        fields = {"code": after.code, "cause": after.message, "next_probe": after.probe_at.isoformat()}
        yield Note(event="breaker_probing", severity=Severity.WARNING, prefix=after.probe, fields=fields)


def _blocked(observed: Observed, breaker: Breaker | None) -> str:
    """Why nothing may start, in words; empty when starting is allowed."""
    if observed.hold is not None:
        reason = f": {observed.hold.reason}" if observed.hold.reason else ""
        return f"held by {observed.hold.by}{reason}"
    if breaker is not None:
        return f"breaker open: {breaker.code}: {breaker.message}"
    if observed.unseen:
        return f"{len(observed.unseen)} operations could not be polled"
    return ""


def starts(plan: Plan) -> tuple[StartJob, ...]:
    """The starts of a plan that begin a new transfer (not the ones that ask again about an old intent)."""
    intended = {change.after.prefix for change in plan.changes if change.before.attempt < change.after.attempt}
    return tuple(action for action in plan.actions if isinstance(action, StartJob) and action.prefix in intended)


def route_of(job: PrefixJob, policy: Policy) -> Route:
    """The route a row travels: its own once it has started, else the configured one."""
    return job.route or policy.route
