"""The decision once more, written to be read: row by row, rule by rule, without any care for speed. See the docs of `decide`.

It shares with the real one what is no decision: names of jobs, the jitter of a wait. Messages and notes are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sts_manager.domain.following import FOLLOWED_FAILURES, NO_OPERATION, QUEUE_MISSING, Following
from sts_manager.domain.model import (
    Breaker,
    Counters,
    JobStarted,
    JobStatus,
    Limit,
    Observed,
    OperationResumed,
    OperationSnapshot,
    OperationState,
    PausedBy,
    Policy,
    PrefixJob,
    Refusal,
    Route,
    StartRefused,
    SteeringFailed,
)
from sts_manager.domain.names import Prefix, job_name
from sts_manager.domain.pacing import backoff

DAY_AND_AN_HOUR = timedelta(hours=25)
WAITING, RUNNING, PAUSED, DONE, ERROR = (
    JobStatus.WAITING,
    JobStatus.RUNNING,
    JobStatus.PAUSED,
    JobStatus.DONE,
    JobStatus.ERROR,
)


@dataclass
class Said:
    """What the reference says: rows as they become (only those that change), actions as plain tuples, the breaker."""

    rows: dict[Prefix, PrefixJob]
    actions: set[tuple[Any, ...]]
    breaker: Breaker | None


@dataclass
class Row:
    before: PrefixJob
    job: PrefixJob
    state: OperationState | None = None
    denied: str = ""
    healthy: bool = False
    following: Following | None = None


def decided(observed: Observed, policy: Policy, now: datetime) -> Said:
    observed = replace(observed, live=tuple(with_leads(list(observed.live))))
    rows = [fold(job, observed, policy, now) for job in observed.live]
    breaker = breaker_after(rows, observed, policy, now)
    said = Said({}, set(), breaker)
    for row in rows:
        record(row, rows, observed, policy, breaker, now, said)
    done: dict[Limit, int] = dict.fromkeys(Limit, 0)
    for row in rows:
        if row.job.status is DONE and row.job.lead is None:
            done[limit_of(row.job, policy)] += 1
    for limit in Limit:
        room = room_under(limit, rows, policy, now)
        room = resumes(limit, room, rows, observed, policy, said)
        blind = any(row.job.operation_name in observed.unseen and limit_of(row.job, policy) is limit for row in rows)
        if not blind:
            starts(limit, room, done[limit], observed, policy, now, said)
    return said


# Rows


def with_leads(live: list[PrefixJob]) -> list[PrefixJob]:
    """Whoever shares a job of which no row is the lead gets the first of them as its lead."""
    out = []
    for job in live:
        group = [one for one in live if one.job_name == job.job_name]
        if any(one.lead is None for one in group):
            out.append(job)
            continue
        heir = min(one.prefix for one in group)
        out.append(replace(job, lead=None if job.prefix == heir else heir))
    return out


def fold(job: PrefixJob, observed: Observed, policy: Policy, now: datetime) -> Row:
    row = Row(job, job)
    for outcome in observed.outcomes:
        others = outcome.others if isinstance(outcome, (JobStarted, StartRefused)) else ()
        if job.prefix == outcome.prefix or job.prefix in others:
            take(row, outcome, policy, now, held=observed.hold is not None)
    for outcome in observed.outcomes:
        if outcome.prefix == job.lead and isinstance(outcome, OperationResumed):
            take(row, outcome, policy, now, held=observed.hold is not None)
    name = row.job.operation_name
    if name is None or row.job.status not in (RUNNING, PAUSED):
        return row
    if name in observed.operations:
        look(row, observed.operations[name], observed.states.get(name), policy, now)
    elif name not in observed.unseen:
        missing(row, policy, now)
    return row


def take(row: Row, outcome: Any, policy: Policy, now: datetime, *, held: bool) -> None:
    job = row.job
    if isinstance(outcome, SteeringFailed):
        return
    if isinstance(outcome, OperationResumed):
        if outcome.operation_name == job.operation_name and not (held and job.paused_by is PausedBy.HOLD):
            row.job = replace(job, paused_by=PausedBy.NOBODY)
        return
    if outcome.attempt != job.attempt or job.operation_name is not None:
        return  # of an attempt that is history
    if isinstance(outcome, JobStarted):
        if outcome.operation_name is None and job.route is Route.STS_FOLLOW:
            return
        if outcome.operation_name is None:
            withdraw(row, policy, None, outcome.adopted)
        else:
            row.job = replace(job, operation_name=outcome.operation_name, error_code="", not_before=None, progress_at=now)
            row.job = replace(row.job, missing_count=0, missing_since=None)
        return
    row.job = job = replace(job, error_code=outcome.code)
    at_least = outcome.after if outcome.after is not None else policy.retry_delay / 2
    later = now + min(max(backoff(job.prefix, 1, policy.retry_delay, policy.retry_delay_max), at_least), DAY_AND_AN_HOUR)
    follows = job.route is Route.STS_FOLLOW
    if outcome.refusal is Refusal.UNREADY:
        return
    if follows and outcome.refusal in (Refusal.THROTTLED, Refusal.DENIED):
        row.job = replace(job, not_before=later)  # the intent to follow is one for all its prefixes: it stays
    elif outcome.refusal in (Refusal.THROTTLED, Refusal.DENIED) and outcome.again and not outcome.made:
        row.job = replace(job, not_before=later)
        row.denied = outcome.code if outcome.refusal is Refusal.DENIED else ""
    elif outcome.refusal is Refusal.THROTTLED:
        withdraw(row, policy, later, outcome.made)
    elif outcome.refusal is Refusal.DENIED:
        withdraw(row, policy, None, outcome.made)
        row.denied = outcome.code
    elif outcome.refusal is Refusal.UNCERTAIN:
        row.job = replace(job, not_before=later)
        ask_again_or_end(row, outcome, policy, now)
    elif outcome.refusal is Refusal.NAME_DELETED or (outcome.others and job.route is not Route.STS_FOLLOW):
        again_or_end(row, policy, now)
    else:
        end(row, now)


def ask_again_or_end(row: Row, outcome: StartRefused, policy: Policy, now: datetime) -> None:
    if outcome.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "LEASE_OLD"):
        row.job = replace(row.job, missing_since=None)  # nobody answered: the time begins anew
        return
    since = row.job.missing_since
    since = now if since is None or since > now else since
    row.job = replace(row.job, missing_count=row.job.missing_count + 1, missing_since=since)
    if row.job.missing_count >= policy.uncertain_asks and now - since >= policy.uncertain_for:
        row.job = replace(row.job, error_code="START_UNCERTAIN")
        end(row, now)


def withdraw(row: Row, policy: Policy, not_before: datetime | None, made: bool) -> None:
    job = row.job
    keep = made and policy.prefixes_per_job > 1
    attempt, forgiven = (job.attempt, job.forgiven + 1) if keep else (job.attempt - 1, job.forgiven)
    row.job = replace(job, status=WAITING, attempt=attempt, forgiven=forgiven, lead=None, not_before=not_before, started_at=None)
    row.job = replace(row.job, missing_count=0, missing_since=None)


RESTING = (OperationState.QUEUED, OperationState.SUSPENDING, OperationState.UNKNOWN)


def look(row: Row, seen: OperationSnapshot, known: OperationState | None, policy: Policy, now: datetime) -> None:
    job, counters = row.job, seen.counters
    alone = job.lead is None
    old = job
    rests = seen.state in RESTING and known is not seen.state
    wakes = known in RESTING and known is not seen.state
    moved = alone and (counters != job.counters or rests or wakes)
    woke = job.status is PAUSED and seen.state is OperationState.IN_PROGRESS
    before = job.counters
    job = replace(
        job,
        job_name=seen.job_name or job.job_name,
        counters=counters if alone else job.counters,
        progress_at=now if moved or woke or job.progress_at is None else job.progress_at,
        missing_count=0,
        missing_since=None,
    )
    row.job, row.state, row.following = job, seen.state, seen.following
    row.healthy = (counters.objects_copied > 0 or counters.objects_skipped > 0) and seen.trouble is None
    if seen.state is OperationState.IN_PROGRESS and seen.trouble is not None:
        row.denied = seen.trouble[0]
    if seen.following is not None and not goes_on(row, old, seen, seen.following, policy, now):
        return
    job = row.job
    if seen.state is OperationState.SUCCESS and not counters.objects_failed:
        met = counters.objects_found + counters.objects_copied + counters.objects_skipped + counters.objects_failed
        code = "EMPTY" if policy.tells_empty and not met and not seen.by_manifest else job.error_code
        row.job = replace(job, status=DONE, paused_by=PausedBy.NOBODY, ended_at=now, not_before=None, error_code=code)
        row.healthy = True
    elif seen.state in (OperationState.SUCCESS, OperationState.FAILED):
        failed(row, seen, policy, now)
    elif seen.state is OperationState.ABORTED:
        row.job = replace(job, error_code="CANCELLED")
        end(row, now)
    elif seen.state is OperationState.PAUSED:
        row.job = replace(job, status=PAUSED)
    elif seen.state is not OperationState.UNKNOWN:
        runs_again = row.before.status is PAUSED and (not alone or total(counters) > total(before))
        runs_again = runs_again and not rest_is(row, "others_paused")
        row.job = replace(job, status=RUNNING, paused_by=PausedBy.NOBODY if runs_again else job.paused_by)


def rest_is(row: Row, what: str) -> bool:
    """Of what is at work beside the present operation of a followed job."""
    return row.following is not None and bool(getattr(row.following, what))


def goes_on(row: Row, old: PrefixJob, seen: OperationSnapshot, following: Following, policy: Policy, now: datetime) -> bool:
    """Of a followed job: whether the present operation is at work, and says how it goes on."""
    job = replace(row.job, operation_name=seen.name)
    if job.lead is None:
        for name in Counters.__slots__:
            mended = name in ("objects_failed", "bytes_failed") and following.standing is not None
            if not mended and getattr(old.counters, name) > getattr(seen.counters, name):
                job = replace(job, counters=replace(job.counters, **{name: getattr(old.counters, name)}))
    if following.standing is not None:
        job = replace(job, error_code=FOLLOWED_FAILURES if following.standing.get(job.prefix) else "")
    elif job.error_code != FOLLOWED_FAILURES:
        job = replace(job, error_code="")
    row.job = job
    if following.over:
        row.job = replace(job, error_code="CANCELLED")
        end(row, now)
        return False
    if not following.between:
        return True
    since = old.missing_since
    since = now if since is None or since > now else since
    cause = "" if following.cause is None else following.cause.code
    row.job = replace(job, status=RUNNING, missing_count=old.missing_count + 1, missing_since=since)
    row.job = replace(row.job, error_code=row.job.error_code or cause)
    row.state = None
    if row.job.missing_count >= policy.successor_polls and now - since >= policy.successor_for:
        row.job = replace(row.job, error_code=cause or NO_OPERATION)
        end(row, now)
    return False


def total(counters: Counters) -> int:
    done = counters.objects_found + counters.objects_copied + counters.objects_skipped + counters.objects_failed
    return done + counters.bytes_found + counters.bytes_copied


def failed(row: Row, seen: OperationSnapshot, policy: Policy, now: datetime) -> None:
    counters = seen.counters
    if seen.errors:
        code = max((error.count, error.code) for error in seen.errors)[1]
    else:
        code = "OBJECTS_FAILED" if counters.objects_failed else "FAILED"
    row.job = replace(row.job, error_code=code)
    nothing_good = not counters.objects_copied and not counters.objects_skipped
    permission = code in ("PERMISSION_DENIED", "UNAUTHENTICATED", "CDN_MISMATCH", "UNREACHABLE") and nothing_good
    bucket = (
        code in ("NOT_FOUND", "FAILED_PRECONDITION")
        and nothing_good
        and not counters.objects_found
        and not counters.objects_failed
    )
    if permission or bucket:
        row.denied = code
        if row.job.forgiven < policy.attempts_max:
            row.job = replace(row.job, forgiven=row.job.forgiven + 1)
    if seen.permanent:
        end(row, now)
    else:
        again_or_end(row, policy, now)


def missing(row: Row, policy: Policy, now: datetime) -> None:
    since = row.job.missing_since
    since = now if since is None or since > now else since
    row.job = replace(row.job, missing_count=row.job.missing_count + 1, missing_since=since)
    if row.job.missing_count >= policy.missing_polls and now - since >= policy.missing_for:
        row.job = replace(row.job, error_code="OPERATION_NOT_FOUND")
        again_or_end(row, policy, now)


def again_or_end(row: Row, policy: Policy, now: datetime) -> None:
    job = row.job
    tries = max(0, job.attempt - job.attempt_base - job.forgiven)
    if not policy.retry or tries >= policy.attempts_max or job.route is Route.STS_FOLLOW:
        end(row, now)
        return
    row.job = replace(
        job,
        status=WAITING,
        operation_name=None,
        lead=None,
        paused_by=PausedBy.NOBODY,
        not_before=now + backoff(job.prefix, tries, policy.retry_delay, policy.retry_delay_max),
        missing_count=0,
        missing_since=None,
    )


def end(row: Row, now: datetime) -> None:
    row.job = replace(row.job, status=ERROR, paused_by=PausedBy.NOBODY, ended_at=now, not_before=None)


# What follows


def breaker_after(rows: list[Row], observed: Observed, policy: Policy, now: datetime) -> Breaker | None:
    breaker = observed.breaker
    if breaker is not None and any(row.healthy and row.job.prefix == breaker.probe for row in rows):
        breaker = None
    for row in rows:
        if not row.denied:
            continue
        limit = limit_of(row.job, policy)
        probe = row.job.prefix if row.state is OperationState.IN_PROGRESS else None
        if breaker is None:
            later = now + policy.breaker_delay
            return Breaker(code=row.denied, message="", opened_at=now, probe_at=later, probe=probe, limit=limit)
        same = breaker.limit is limit
        return replace(breaker, code=row.denied, limit=limit if same else None, probe=probe or breaker.probe)
    return breaker


def stopped(breaker: Breaker | None, limit: Limit) -> bool:
    return breaker is not None and breaker.limit in (None, limit)


def due(when: datetime | None, now: datetime) -> bool:
    return when is None or when <= now or when > now + DAY_AND_AN_HOUR


def record(
    row: Row, rows: list[Row], observed: Observed, policy: Policy, breaker: Breaker | None, now: datetime, said: Said
) -> None:
    job = row.job
    group = [one.before for one in rows if one.before.job_name == job.job_name]
    if job.status is RUNNING and job.operation_name is None and job.error_code == QUEUE_MISSING and not policy.follows:
        pass  # for a daemon that knows the queue
    elif job.status is RUNNING and job.operation_name is None:
        may_start = observed.hold is None and not stopped(breaker, limit_of(job, policy))
        unasked = [one.prefix for one in group if one.operation_name is None]
        asks = len(group) == 1 or min(unasked, default=None) == job.prefix
        if due(job.not_before, now) and asks:
            others = tuple(sorted(one.prefix for one in group if one.prefix != job.prefix))
            said.actions.add(("start", job.prefix, job.attempt, job.job_name, others, not may_start, True, job.project))
    elif observed.hold is not None and (
        row.state in (OperationState.IN_PROGRESS, OperationState.QUEUED)
        or (job.status in (RUNNING, PAUSED) and rest_is(row, "others_move"))
    ):
        if job.operation_name is not None and job.lead is None:
            said.actions.add(("pause", job.prefix, job.operation_name))
        if job.operation_name is not None:
            job = replace(job, paused_by=PausedBy.HOLD)
    if job != row.before:
        said.rows[job.prefix] = job


def limit_of(job: PrefixJob, policy: Policy) -> Limit:
    return Limit.POOL if (job.route or policy.route) is Route.CDN else Limit.SERVICE


def stalled(row: Row, policy: Policy, now: datetime) -> bool:
    job = row.job
    if row.state in RESTING:
        return False
    if job.status is not RUNNING or job.lead is not None or job.route is Route.STS_FOLLOW or job.progress_at is None:
        return False
    return now - job.progress_at >= policy.stalled_after


def most(limit: Limit, policy: Policy) -> int:
    return policy.cdn_running_max if limit is Limit.POOL else policy.running_max


def room_under(limit: Limit, rows: list[Row], policy: Policy, now: datetime) -> int:
    running = 0
    for row in rows:
        job = row.job
        counts = job.status is RUNNING and job.lead is None and limit_of(job, policy) is limit
        if counts and not (policy.ignore_stalled and stalled(row, policy, now)):
            running += 1
    return max(0, most(limit, policy) - running)


def resumes(limit: Limit, room: int, rows: list[Row], observed: Observed, policy: Policy, said: Said) -> int:
    """How much room is left."""
    if observed.hold is not None or not (policy.fill if limit is Limit.POOL else policy.dispatch):
        return room
    for row in rows:
        job = row.job
        rests = row.state is OperationState.PAUSED or rest_is(row, "others_paused")
        ours = rests and job.lead is None and job.paused_by is not PausedBy.NOBODY
        if ours and job.operation_name is not None and limit_of(job, policy) is limit and room > 0:
            said.actions.add(("resume", job.prefix, job.operation_name))
            room -= 1
    return room


def starts(limit: Limit, room: int, done: int, observed: Observed, policy: Policy, now: datetime, said: Said) -> None:
    if observed.hold is not None or not (policy.fill if limit is Limit.POOL else policy.dispatch):
        return
    busy = most(limit, policy) - room
    carried = busy + done + observed.ended_well.get(limit, 0)
    target = min(most(limit, policy), 2 * carried if carried else 1)
    allowed = min(room, max(0, target - busy))
    probing = said.breaker is not None and stopped(said.breaker, limit)
    if said.breaker is not None and probing:
        if now < said.breaker.probe_at <= now + policy.breaker_delay_max:
            return
        allowed = min(allowed, 1)
    live = {job.prefix for job in observed.live}
    ready = [job for job in observed.startable if job.status is WAITING and due(job.not_before, now) and job.prefix not in live]
    ready = [replace(job, route=None) if job.route is Route.STS_FOLLOW else job for job in ready]
    ready = [job for job in ready if limit_of(job, policy) is limit]
    ready.sort(key=lambda job: (job.attempt, job.prefix))
    load = dict.fromkeys(policy.projects, 0)
    for job in observed.live:
        if job.lead is None:
            name = job.project or policy.projects[0]
            load[name] = load.get(name, 0) + 1
    for group in groups(ready, policy)[:allowed]:
        project = ""
        if limit is Limit.SERVICE:
            free = [name for name in policy.projects if not (name in observed.projects and observed.projects[name].full)]
            if not free:
                break

            def rank(name: str) -> tuple[bool, int, int]:
                use = observed.projects.get(name)
                return (use is not None and use.refused, load[name], 0 if use is None else use.creates)

            project = min(free, key=rank)
            load[project] += 1
        begin(group, project, policy, now, said)
        if said.breaker is not None and probing:
            probes = said.breaker.probes + 1
            wait = min(policy.breaker_delay_max, policy.breaker_delay * 2**probes)
            said.breaker = replace(said.breaker, probes=probes, probe=min(job.prefix for job in group), probe_at=now + wait)


def groups(ready: list[PrefixJob], policy: Policy) -> list[list[PrefixJob]]:
    """In the order in which each is full; those that are not, in the order in which they were begun."""
    full: list[list[PrefixJob]] = []
    begun: dict[Any, list[PrefixJob]] = {}
    for job in ready:
        route = job.route or policy.route
        tries = max(0, job.attempt - job.attempt_base - job.forgiven)
        size = max(1, policy.prefixes_per_job // 32 ** min(tries, 3)) if route in (Route.STS_S3, Route.STS_GCS) else 1
        if size == 1:
            full.append([job])
            continue
        like = (route, job.source, job.destination, job.egress, job.attempt, size)
        begun.setdefault(like, []).append(job)
        if len(begun[like]) == size:
            full.append(begun[like])
            begun[like] = []
    return full + [group for group in begun.values() if group]


def begin(group: list[PrefixJob], project: str, policy: Policy, now: datetime, said: Said) -> None:
    group = sorted(group, key=lambda job: job.prefix)
    lead, attempt = group[0], group[0].attempt + 1
    name = job_name(policy.migration, Prefix("\0".join(job.prefix for job in group)), attempt)
    own = project if len(policy.projects) > 1 else ""
    for job in group:
        said.rows[job.prefix] = replace(
            job,
            status=RUNNING,
            route=job.route or policy.route,
            attempt=attempt,
            job_name=name,
            operation_name=None,
            project=own,
            lead=None if job is lead else lead.prefix,
            not_before=None,
            paused_by=PausedBy.NOBODY,
            counters=Counters(),
            missing_count=0,
            missing_since=None,
            started_at=now,
            progress_at=now,
            ended_at=None,
        )
    others = tuple(job.prefix for job in group[1:])
    said.actions.add(("start", lead.prefix, attempt, name, others, False, False, own))
