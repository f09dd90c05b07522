"""What one row becomes, given what was observed of its transfer: the per-prefix half of the decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sts_manager.domain.following import FOLLOWED_FAILURES, NO_OPERATION, Following, Problem
from sts_manager.domain.model import (
    EMPTY,
    Breaker,
    Counters,
    JobStarted,
    JobStatus,
    Limit,
    Note,
    Observed,
    OperationResumed,
    OperationSnapshot,
    OperationState,
    Outcome,
    PausedBy,
    Policy,
    PrefixJob,
    Refusal,
    Route,
    Severity,
    StartRefused,
    SteeringFailed,
)
from sts_manager.domain.names import Prefix
from sts_manager.domain.pacing import WAIT_MAX, advanced, backoff, progressed

Fields = dict[str, str | int]

PROJECT_WIDE_CODES = ("PERMISSION_DENIED", "UNAUTHENTICATED", "CDN_MISMATCH", "UNREACHABLE")
"""Error codes of an operation that point at a permission, the CDN's own set-up or a host, when nothing at all was moved."""
SILENT_CODES = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "LEASE_OLD")
"""Of a start that is perhaps applied: the service did not answer, had no quota left, or was not asked at all."""
BUCKET_CODES = ("NOT_FOUND", "FAILED_PRECONDITION")
"""What the service says of a bucket that is missing, or that its agent may not look at."""
MATCHED_NOTHING = "this attempt found no object under it, to copy or to skip: is it written as the keys are?"
IDLE = (OperationState.QUEUED, OperationState.SUSPENDING, OperationState.UNKNOWN)
"""An operation that is not at work has no chance to move, and so does not stall."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A row with everything observed folded in.

    `denied`: this prefix met a project-wide fault (code, message). `healthy`: its operation moves or moved objects, or
    ended well: evidence that a project-wide fault is over.
    """

    before: PrefixJob
    after: PrefixJob
    results: str = ""
    notes: tuple[Note, ...] = ()
    denied: tuple[str, str] | None = None
    healthy: bool = False
    state: OperationState | None = None
    following: Following | None = None


Told = Mapping[Prefix, Sequence[Outcome]]
"""What became of the last pass's actions, by each prefix that it concerns."""


def told(outcomes: Sequence[Outcome]) -> Told:
    """Of a shared transfer job, what became of it concerns all that share it, whoever of them asked."""
    found: dict[Prefix, list[Outcome]] = {}
    for outcome in outcomes:
        others = outcome.others if isinstance(outcome, (JobStarted, StartRefused)) else ()
        for prefix in (outcome.prefix, *others):
            found.setdefault(prefix, []).append(outcome)
    return found


def settle(job: PrefixJob, observed: Observed, policy: Policy, now: datetime, outcomes: Told | None = None) -> Settled:
    """Fold the outcomes of the last pass, then the operation's snapshot, into a live row.

    outcomes   `told(observed.outcomes)`, for whoever settles many rows
    """
    outcomes = told(observed.outcomes) if outcomes is None else outcomes
    settled = Settled(before=job, after=job)
    held = observed.hold is not None
    for outcome in outcomes.get(job.prefix, ()):
        settled = _with_outcome(settled, outcome, policy, now, held=held)
    for outcome in outcomes.get(job.lead, ()) if job.lead is not None else ():
        # Its lead has the calls made that steer what they share.
        if isinstance(outcome, (OperationResumed, SteeringFailed)):
            settled = _with_outcome(settled, outcome, policy, now, held=held)
    name = settled.after.operation_name
    if name is None or settled.after.status not in (JobStatus.RUNNING, JobStatus.PAUSED):
        return settled
    snapshot = observed.operations.get(name)
    if snapshot is not None:
        return _with_snapshot(settled, snapshot, observed.states.get(name), policy, now)
    if name in observed.unseen:
        return settled
    return _with_missing(settled, policy, now)


def _with_outcome(settled: Settled, outcome: Outcome, policy: Policy, now: datetime, *, held: bool) -> Settled:
    job = settled.after
    match outcome:
        case JobStarted() if outcome.attempt == job.attempt and job.operation_name is None:
            if outcome.operation_name is None:
                return _with_nothing_started(settled, policy, made=outcome.adopted)
            note = Note(
                event="job_adopted" if outcome.adopted else "job_started",
                prefix=job.prefix,
                fields={"job": str(job.job_name), "operation": outcome.operation_name, "attempt": job.attempt},
            )
            after = replace(
                job,
                operation_name=outcome.operation_name,
                error_code="",
                error_message="",
                not_before=None,
                missing_count=0,
                missing_since=None,
                progress_at=now,
            )
            return replace(settled, after=after, notes=(*settled.notes, note))
        case StartRefused() if outcome.attempt == job.attempt and job.operation_name is None:
            return _with_refusal(settled, outcome, policy, now)
        case OperationResumed() if outcome.operation_name == job.operation_name:
            if held and job.paused_by is PausedBy.HOLD:
                return settled  # a hold came right after, and paused it again
            # Our wish is fulfilled: if it is found paused again, a person paused it.
            return replace(settled, after=replace(job, paused_by=PausedBy.NOBODY))
        case SteeringFailed():
            note = Note(
                event="steering_failed",
                severity=Severity.WARNING,
                prefix=job.prefix,
                fields={"call": outcome.verb, "code": outcome.code, "cause": outcome.message},
            )
            return replace(settled, notes=(*settled.notes, note))
    return settled


def _withdrawn(job: PrefixJob, policy: Policy, not_before: datetime | None, *, made: bool) -> PrefixJob:
    """An intent that was not carried out: the attempt's number is free again, and with it the name, and nothing is burned.

    made   its transfer job exists: next time it is adopted. But where prefixes share jobs, this one may go with others
           then, under another name, and an attempt has just one job: so the number stays used.
    """
    used = int(made and policy.prefixes_per_job > 1)
    return replace(
        job,
        status=JobStatus.WAITING,
        attempt=job.attempt - 1 + used,
        forgiven=job.forgiven + used,
        lead=None,
        not_before=not_before,
        missing_count=0,
        missing_since=None,
        started_at=None,
    )


def _with_nothing_started(settled: Settled, policy: Policy, *, made: bool) -> Settled:
    """A look under the intent's name found that it was never carried out."""
    job = settled.after
    if job.route is Route.STS_FOLLOW:
        # One by one these prefixes would come to be in several jobs, on one queue: the intent of all of them stays.
        return settled
    after = _withdrawn(job, policy, None, made=made)
    note = Note(event="intent_withdrawn", prefix=job.prefix, fields={"job": str(job.job_name), "attempt": job.attempt})
    return replace(settled, after=after, notes=(*settled.notes, note))


def _with_refusal(settled: Settled, refused: StartRefused, policy: Policy, now: datetime) -> Settled:
    job = replace(settled.after, error_code=refused.code, error_message=refused.message)
    fields: Fields = {"code": refused.code, "cause": refused.message, "attempt": job.attempt}
    note = Note(event="start_refused", severity=Severity.WARNING, prefix=job.prefix, fields=fields)
    wait = max(backoff(job.prefix, 1, policy.retry_delay, policy.retry_delay_max), refused.after or policy.retry_delay / 2)
    wait = min(wait, WAIT_MAX)  # what is longer is taken for the writing of a clock that was fast
    follows = job.route is Route.STS_FOLLOW
    match refused.refusal:
        case Refusal.UNREADY:
            # Left as it is, for a daemon that has what this one lacks; told once, however many prefixes wait for it.
            told = refused.code == settled.after.error_code or job.prefix != refused.prefix
            return replace(settled, after=job, notes=settled.notes if told else (*settled.notes, note))
        case Refusal.THROTTLED | Refusal.DENIED if follows:
            # These rows are started together or not at all.
            return replace(settled, after=replace(job, not_before=now + wait), notes=(*settled.notes, note))
        case Refusal.THROTTLED | Refusal.DENIED if refused.again and not refused.made:
            # This call did nothing; one before it may have begun the transfer. So the intent stays, and is asked about.
            denied = (refused.code, refused.message) if refused.refusal is Refusal.DENIED else None
            return replace(settled, after=replace(job, not_before=now + wait), notes=(*settled.notes, note), denied=denied)
        case Refusal.THROTTLED | Refusal.DENIED:
            # Certainly not run. A denied prefix waits for the breaker, a throttled one for its time.
            denied = (refused.code, refused.message) if refused.refusal is Refusal.DENIED else None
            due = None if denied else now + wait
            after = _withdrawn(job, policy, due, made=refused.made)
            return replace(settled, after=after, notes=(*settled.notes, note), denied=denied)
        case Refusal.UNCERTAIN:
            again = replace(settled, after=replace(job, not_before=now + wait), notes=(*settled.notes, note))
            return _with_open_start(again, refused, policy, now)
        case Refusal.NAME_DELETED:
            return _try_again_or_end(replace(settled, after=job), policy, now)
        case Refusal.PERMANENT if refused.others and not follows:
            # Perhaps one of those that share the job is unfit: they are tried again in smaller parts.
            return _try_again_or_end(replace(settled, after=job), policy, now)
        case Refusal.PERMANENT:
            return _ended_in_error(replace(settled, after=job), refused.code, refused.message, now)


def _with_open_start(settled: Settled, refused: StartRefused, policy: Policy, now: datetime) -> Settled:
    """Perhaps applied: the row keeps its intent and its slot, and the same name is asked for again. But not for ever."""
    job = settled.after
    if refused.code in SILENT_CODES:
        # An outage burns nothing, however long it is: the time begins anew when the service answers again.
        return replace(settled, after=replace(job, missing_since=None))
    since = min(job.missing_since or now, now)
    asks = job.missing_count + 1
    told = f"{refused.message}; whether it was applied is not known, so {job.job_name} is asked for again (asks so far: {asks})"
    job = replace(job, missing_count=asks, missing_since=since, error_message=told)
    settled = replace(settled, after=job)
    if asks < policy.uncertain_asks or now - since < policy.uncertain_for:
        return settled
    message = (
        f"{job.job_name} was asked for {asks} times, and since {since:%Y-%m-%d %H:%M} UTC no answer told whether it was made and "
        f"run; the last one was {refused.code}: {refused.message}. Look at that job in the console (Storage Transfer): it may be "
        "there, and may run. `retry` asks for another job of the same objects, so let this one end or delete it before"
    )
    return _ended_in_error(settled, "START_UNCERTAIN", message, now)


def _with_snapshot(
    settled: Settled, snapshot: OperationSnapshot, known: OperationState | None, policy: Policy, now: datetime
) -> Settled:
    """known: its state when it was looked at last; None where that is not known."""
    job = settled.after
    # Only an operation that is at work can stall: one that is queued until now has had no chance to move. That it still is
    # queued is no news.
    idle, was_idle = snapshot.state in IDLE, known in IDLE
    set_out = (idle or was_idle) and snapshot.state is not known
    moved = job.lead is None and (progressed(job.counters, snapshot.counters) or set_out)
    resumed = job.status is JobStatus.PAUSED and snapshot.state is OperationState.IN_PROGRESS
    job = replace(
        job,
        job_name=snapshot.job_name or job.job_name,
        # What several prefixes share is counted once, in the row of their lead.
        counters=snapshot.counters if job.lead is None else job.counters,
        progress_at=now if moved or resumed or job.progress_at is None else job.progress_at,
        missing_count=0,
        missing_since=None,
    )
    before = settled.after
    settled = replace(
        settled,
        after=job,
        results=snapshot.results if job.lead is None else "",
        state=snapshot.state,
        following=snapshot.following,
        healthy=snapshot.counters.any_success and snapshot.trouble is None,
        denied=snapshot.trouble if snapshot.state is OperationState.IN_PROGRESS else settled.denied,
    )
    if snapshot.following is not None:
        return _with_following(settled, before, snapshot, snapshot.following, policy, now)
    return _with_state(settled, snapshot, policy, now)


def _with_state(settled: Settled, snapshot: OperationSnapshot, policy: Policy, now: datetime) -> Settled:
    job = settled.after
    match snapshot.state:
        case OperationState.SUCCESS if snapshot.counters.objects_failed == 0:
            after = replace(job, status=JobStatus.DONE, paused_by=PausedBy.NOBODY, ended_at=now, not_before=None)
            done = Note(event="prefix_done", prefix=job.prefix, fields=_moved(job))
            # Of just those objects that failed in an earlier attempt all may be gone by now.
            if policy.tells_empty and snapshot.counters.nothing and not snapshot.by_manifest:
                after = replace(after, error_code=EMPTY, error_message=MATCHED_NOTHING)
                done = Note(event="prefix_empty", severity=Severity.WARNING, prefix=job.prefix, fields={"cause": MATCHED_NOTHING})
            return replace(settled, after=after, notes=(*settled.notes, done), healthy=True)
        case OperationState.SUCCESS | OperationState.FAILED:
            return _with_failure(settled, snapshot, policy, now)
        case OperationState.ABORTED:
            message = "cancelled outside this program; `retry` starts it again"
            return _ended_in_error(settled, "CANCELLED", message, now)
        case OperationState.PAUSED:
            return replace(settled, after=replace(job, status=JobStatus.PAUSED))
        case OperationState.UNKNOWN:
            fields: Fields = {"operation": snapshot.name, "state": snapshot.raw_state}
            unknown = Note(event="unknown_operation_state", severity=Severity.WARNING, prefix=job.prefix, fields=fields)
            return replace(settled, notes=(*settled.notes, unknown))
        case OperationState.QUEUED | OperationState.IN_PROGRESS | OperationState.SUSPENDING:
            # A pause that was asked for has not happened while the row is still running: the wish stays noted. Once it was
            # paused and runs again, the wish is spent: somebody else resumed it. That it moves proves that; what the service
            # says of its state may be two minutes old.
            was = settled.before
            moves = job.lead is not None or advanced(was.counters, snapshot.counters)
            # What is paused of a followed job beside its present operation has not been resumed yet.
            spent = was.status is JobStatus.PAUSED and moves and not others_paused(settled)
            after = replace(job, status=JobStatus.RUNNING, paused_by=PausedBy.NOBODY if spent else job.paused_by)
            return replace(settled, after=after)


def others_paused(row: Settled) -> bool:
    """Whether an operation of a followed job is paused that is not its present one."""
    return row.following is not None and row.following.others_paused


def _with_following(
    settled: Settled, before: PrefixJob, snapshot: OperationSnapshot, following: Following, policy: Policy, now: datetime
) -> Settled:
    """Of a transfer job with an event stream. Its operations come and go; the row goes on for as long as the job is enabled.

    before   the row, as the outcomes of the last pass left it
    """
    job = settled.after
    counters = job.counters
    if job.lead is None:
        counters = _never_less(before.counters, snapshot.counters, failed_is_known=following.standing is not None)
    job = replace(job, counters=counters, operation_name=snapshot.name)
    if snapshot.name != before.operation_name and job.lead is None:
        fields: Fields = {"job": str(job.job_name), "operation": snapshot.name, "was": str(before.operation_name)}
        settled = replace(
            settled, notes=(*settled.notes, Note(event="followed_operation_began", prefix=job.prefix, fields=fields))
        )
    settled = _with_standing(replace(settled, after=job), following.standing)
    if following.over:
        standing = f"; besides, {settled.after.error_message}" if settled.after.error_code else ""
        return _ended_in_error(settled, "CANCELLED", f"{following.over}{standing}", now)
    if following.between:
        return _between(settled, before, following.cause, policy, now)
    return _with_state(settled, snapshot, policy, now)


def _never_less(before: Counters, seen: Counters, *, failed_is_known: bool) -> Counters:
    """The sums over a job's operations, of which the service forgets the oldest in time. What has failed may be mended since."""
    names = [name for name in Counters.__slots__ if not (failed_is_known and name.endswith("_failed"))]
    return replace(seen, **{name: max(getattr(before, name), getattr(seen, name)) for name in names})


def _with_standing(settled: Settled, standing: Mapping[Prefix, str] | None) -> Settled:
    """Name what has failed and is not at the destination, or that it is there by now."""
    job = settled.after
    named = job.error_message if job.error_code == FOLLOWED_FAILURES else ""
    told = named if standing is None else standing.get(job.prefix, "")
    after = replace(job, error_code=FOLLOWED_FAILURES if told else "", error_message=told)
    shared = bool(told and standing and job.lead is not None and standing.get(job.lead) == told)  # its lead says so
    if told == named or shared:
        return replace(settled, after=after)
    event, severity = ("followed_objects_failed", Severity.WARNING) if told else ("followed_objects_repaired", Severity.INFO)
    note = Note(event=event, severity=severity, prefix=job.prefix, fields={"cause" if told else "was": told or named})
    return replace(settled, after=after, notes=(*settled.notes, note))


def _between(settled: Settled, before: PrefixJob, cause: Problem | None, policy: Policy, now: datetime) -> Settled:
    """No operation is at work. The next one is waited for; what the last one ended with is named meanwhile, if that was bad."""
    job = settled.after
    since = min(before.missing_since or now, now)
    job = replace(job, status=JobStatus.RUNNING, missing_count=before.missing_count + 1, missing_since=since)
    if cause is not None and not job.error_code:
        job = replace(
            job, error_code=cause.code, error_message=f"{cause.message}; its job is enabled, and its next one is waited for"
        )
    settled = replace(settled, after=job, state=None)
    if job.missing_count < policy.successor_polls or now - since < policy.successor_for:
        return settled
    known = f"{cause.message}; " if cause is not None else ""
    message = (
        f"{known}{job.job_name} is enabled, and has had no operation since {since:%Y-%m-%d %H:%M} UTC: nobody follows this "
        "prefix any more. `follow --stop`, then `retry` catches up, then `follow` it again"
    )
    return _ended_in_error(settled, cause.code if cause is not None else NO_OPERATION, message, now)


def _with_failure(settled: Settled, snapshot: OperationSnapshot, policy: Policy, now: datetime) -> Settled:
    job = settled.after
    code, message = failure_cause(snapshot)
    if job.lead is not None:
        message = f"in one transfer job with {job.lead!r}: {message}"
    job = replace(job, error_code=code, error_message=message)
    settled = replace(settled, after=job)
    if _is_project_wide(code, snapshot):
        settled = replace(settled, denied=(code, message))
        if job.forgiven < policy.attempts_max:
            # The fault is the project's, not the prefix's; forgiving is bounded so that attempts are.
            settled = replace(settled, after=replace(job, forgiven=job.forgiven + 1))
    if snapshot.permanent:
        return _ended_in_error(settled, code, message, now)
    return _try_again_or_end(settled, policy, now)


def _is_project_wide(code: str, snapshot: OperationSnapshot) -> bool:
    """Whether an operation failed for a cause that every prefix shares: a permission, or a bucket that is not there."""
    counters = snapshot.counters
    if code in PROJECT_WIDE_CODES:
        return not counters.any_success
    # With not one object seen these are the bucket's; with objects they are theirs (deleted or changed while they were copied).
    return code in BUCKET_CODES and not (counters.any_success or counters.objects_found or counters.objects_failed)


def _with_missing(settled: Settled, policy: Policy, now: datetime) -> Settled:
    """The service does not know the operation: believed only after several polls over some time."""
    job = settled.after
    # A time still to come was written by a clock that has since been set back.
    since = min(job.missing_since or now, now)
    job = replace(job, missing_count=job.missing_count + 1, missing_since=since)
    fields: Fields = {"operation": str(job.operation_name), "polls": job.missing_count}
    note = Note(event="operation_not_found", severity=Severity.WARNING, prefix=job.prefix, fields=fields)
    settled = replace(settled, after=job, notes=(*settled.notes, note))
    if job.missing_count < policy.missing_polls or now - since < policy.missing_for:
        return settled
    message = f"the service no longer knows {job.operation_name}"
    after = replace(job, error_code="OPERATION_NOT_FOUND", error_message=message)
    return _try_again_or_end(replace(settled, after=after), policy, now)


def _try_again_or_end(settled: Settled, policy: Policy, now: datetime) -> Settled:
    job = settled.after
    if not policy.retry or job.route is Route.STS_FOLLOW:  # to follow again is for a person to begin: one queue serves one job
        return _ended_in_error(settled, job.error_code, job.error_message, now)
    if job.tries >= policy.attempts_max:
        limit = f"gave up after {policy.attempts_max} attempts: {job.error_message}"
        return _ended_in_error(settled, job.error_code, limit, now)
    wait = backoff(job.prefix, job.tries, policy.retry_delay, policy.retry_delay_max)
    after = replace(
        job,
        status=JobStatus.WAITING,
        operation_name=None,
        lead=None,
        paused_by=PausedBy.NOBODY,
        not_before=now + wait,
        missing_count=0,
        missing_since=None,
    )
    fields: Fields = {
        "code": job.error_code,
        "cause": job.error_message,
        "attempt": job.attempt,
        "wait_s": round(wait.total_seconds()),
    }
    note = Note(event="prefix_will_be_retried", severity=Severity.WARNING, prefix=job.prefix, fields=fields)
    return replace(settled, after=after, notes=(*settled.notes, note))


def _ended_in_error(settled: Settled, code: str, message: str, now: datetime) -> Settled:
    job = replace(
        settled.after,
        status=JobStatus.ERROR,
        error_code=code,
        error_message=message,
        paused_by=PausedBy.NOBODY,
        ended_at=now,
        not_before=None,
    )
    fields: Fields = {"code": code, "cause": message, "attempt": job.attempt}
    note = Note(event="prefix_failed", severity=Severity.ERROR, prefix=job.prefix, fields=fields)
    return replace(settled, after=job, notes=(*settled.notes, note))


def failure_cause(snapshot: OperationSnapshot) -> tuple[str, str]:
    """The commonest error of a failed operation as (code, message); never an empty code."""
    failed = snapshot.counters.objects_failed
    if not snapshot.errors:
        if failed:
            return "OBJECTS_FAILED", f"{failed:,} objects failed and the service gave no breakdown"
        return "FAILED", "the operation failed and the service gave no breakdown"
    worst = max(snapshot.errors, key=lambda error: (error.count, error.code))
    sample = f"; for example {worst.sample_url}: {worst.sample_details}" if worst.sample_url or worst.sample_details else ""
    return worst.code, f"{worst.count:,} × {worst.code}, {failed:,} objects failed{sample}"


def _moved(job: PrefixJob) -> dict[str, str | int]:
    return {
        "objects": job.counters.objects_copied,
        "bytes": job.counters.bytes_copied,
        "skipped": job.counters.objects_skipped,
        "attempt": job.attempt,
    }


def next_breaker(observed: Observed, settled: tuple[Settled, ...], policy: Policy, now: datetime) -> Breaker | None:
    """Open on a project-wide fault, stay open until the probe's own operation is seen healthy."""
    breaker = observed.breaker
    if breaker is not None and any(row.healthy and row.after.prefix == breaker.probe for row in settled):
        breaker = None
    row = next((row for row in settled if row.denied is not None), None)
    if row is None or row.denied is None:
        return breaker
    code, message = row.denied
    limit = Limit.of(row.after.route or policy.route)
    # What is on its way, and meets the fault, is the first to show that it is over.
    probe = row.after.prefix if row.state is OperationState.IN_PROGRESS else None
    if breaker is None:
        due = now + policy.breaker_delay
        return Breaker(code=code, message=message, opened_at=now, probe_at=due, probe=probe, limit=limit)
    # One fault on each side: nothing starts until the probe says that one of them is over.
    limit_now = limit if breaker.stops(limit) and breaker.limit else None
    return replace(breaker, code=code, message=message, limit=limit_now, probe=probe or breaker.probe)
