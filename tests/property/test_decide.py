"""Safety of the decision, over worlds of any shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from sts_manager.domain.decide import decide, starts
from sts_manager.domain.model import (
    Breaker,
    Counters,
    ErrorBreakdown,
    Hold,
    JobStarted,
    JobStatus,
    Limit,
    Observed,
    OperationSnapshot,
    OperationState,
    Outcome,
    PausedBy,
    PauseOperation,
    Policy,
    PrefixJob,
    Refusal,
    ResumeOperation,
    Route,
    StartJob,
    StartRefused,
)
from sts_manager.domain.names import OperationName, Prefix, job_name
from sts_manager.domain.pacing import is_stalled
from tests.fakes.clock import START

NOW = START
MIGRATION = "0badcafe"
HOLD = Hold(by="ops", at=NOW)
times = st.sampled_from([NOW - timedelta(hours=1), NOW - timedelta(minutes=1), NOW, NOW + timedelta(minutes=1)])
counts = st.integers(min_value=0, max_value=3)
counters = st.builds(Counters, objects_copied=counts, objects_failed=counts, objects_found=counts)
policies = st.builds(
    Policy,
    projects=st.sampled_from([("",), ("one-project", "two-project")]),
    prefixes_per_job=st.sampled_from([1, 2, 3, 40]),
    migration=st.just(MIGRATION),
    route=st.just(Route.STS_S3),
    running_max=st.integers(min_value=1, max_value=8),
    attempts_max=st.integers(min_value=1, max_value=4),
    retry=st.booleans(),
    ignore_stalled=st.booleans(),
    dispatch=st.booleans(),
    fill=st.booleans(),
)


@st.composite
def live_jobs(draw: st.DrawFn, index: int) -> PrefixJob:
    prefix = Prefix(f"live-{index:03}/")
    base = draw(st.integers(min_value=0, max_value=3))
    attempt = base + draw(st.integers(min_value=1, max_value=5))
    named = draw(st.booleans())
    return PrefixJob(
        prefix=prefix,
        status=draw(st.sampled_from([JobStatus.RUNNING, JobStatus.PAUSED])) if named else JobStatus.RUNNING,
        job_name=job_name(MIGRATION, prefix, attempt),
        operation_name=OperationName(f"transferOperations/{index}") if named else None,
        attempt=attempt,
        attempt_base=base,
        forgiven=draw(st.integers(min_value=0, max_value=2)),
        generation=draw(st.integers(min_value=0, max_value=9)),
        paused_by=draw(st.sampled_from(PausedBy)),
        counters=draw(counters),
        missing_count=draw(st.integers(min_value=0, max_value=3)),
        missing_since=draw(st.none() | times),
        not_before=draw(st.none() | times),
        progress_at=draw(st.none() | times),
        route=Route.STS_S3,
    )


@st.composite
def snapshots(draw: st.DrawFn, name: OperationName) -> OperationSnapshot:
    state = draw(st.sampled_from(OperationState))
    codes = st.sampled_from(["UNAVAILABLE", "PERMISSION_DENIED", "NOT_FOUND", "FAILED_PRECONDITION"])
    errors = draw(st.lists(st.builds(ErrorBreakdown, code=codes, count=st.integers(1, 9)), max_size=2))
    trouble = draw(st.none() | st.none() | st.just(("UNREACHABLE", "it does not resolve")))
    return OperationSnapshot(
        name=name,
        state=state,
        raw_state=state.value,
        counters=draw(counters),
        errors=tuple(errors),
        results="{}",
        trouble=trouble,
    )


@st.composite
def outcomes(draw: st.DrawFn, job: PrefixJob) -> Outcome:
    if draw(st.booleans()):
        name = draw(st.none() | st.just(OperationName(f"transferOperations/new-{job.prefix}")))
        return JobStarted(prefix=job.prefix, attempt=job.attempt, operation_name=name)
    return StartRefused(
        prefix=job.prefix, attempt=job.attempt, refusal=draw(st.sampled_from(Refusal)), code="X", message="refused"
    )


@st.composite
def worlds(draw: st.DrawFn) -> Observed:
    live = tuple(draw(live_jobs(index)) for index in range(draw(st.integers(min_value=0, max_value=8))))
    waiting = tuple(
        PrefixJob(
            prefix=Prefix(f"wait-{index:03}/"),
            attempt=draw(st.integers(min_value=0, max_value=3)),
            not_before=draw(st.none() | times),
        )
        for index in range(draw(st.integers(min_value=0, max_value=10)))
    )
    named = [job.operation_name for job in live if job.operation_name is not None]
    seen = {name: draw(snapshots(name)) for name in named if draw(st.booleans())}
    unseen = frozenset(name for name in named if name not in seen and draw(st.booleans()))
    told = [draw(outcomes(job)) for job in live if job.operation_name is None and draw(st.booleans())]
    probe = draw(st.none() | st.sampled_from([Prefix("live-000/"), Prefix("live-001/")]))
    breaker = Breaker(code="X", message="m", opened_at=NOW - timedelta(hours=1), probe_at=draw(times), probe=probe)
    known = {name: draw(st.sampled_from(OperationState)) for name in named if draw(st.booleans())}
    return Observed(
        live=live,
        startable=waiting,
        operations=seen,
        unseen=unseen,
        outcomes=tuple(told),
        hold=draw(st.none() | st.just(HOLD)),
        breaker=draw(st.none() | st.just(breaker)),
        ended_well={limit: draw(st.integers(min_value=0, max_value=5)) for limit in Limit},
        states=known,
    )


RESTING = (OperationState.QUEUED, OperationState.SUSPENDING, OperationState.UNKNOWN)


def stalls(observed: Observed, job: PrefixJob, policy: Policy) -> bool:
    seen = observed.operations.get(job.operation_name) if job.operation_name else None
    return (seen is None or seen.state not in RESTING) and is_stalled(job, NOW, policy.stalled_after)


def after(observed: Observed, policy: Policy, now: datetime) -> Sequence[PrefixJob]:
    """The live rows as the plan leaves them, without what it starts."""
    plan = decide(replace(observed, startable=()), policy, now)
    changes = {change.before.prefix: change.after for change in plan.changes}
    return [changes.get(job.prefix, job) for job in observed.live]


@given(observed=worlds(), policy=policies)
def test_the_limit_is_never_exceeded(observed: Observed, policy: Policy) -> None:
    plan = decide(observed, policy, NOW)
    running = [job for job in after(observed, policy, NOW) if job.status is JobStatus.RUNNING]
    if policy.ignore_stalled:
        running = [job for job in running if not stalls(observed, job, policy)]
    resumes = [action for action in plan.actions if isinstance(action, ResumeOperation)]
    assert len(starts(plan)) + len(resumes) <= max(0, policy.running_max - len(running))


@given(observed=worlds(), policy=policies)
def test_a_hold_starts_and_resumes_nothing(observed: Observed, policy: Policy) -> None:
    plan = decide(replace(observed, hold=HOLD), policy, NOW)
    assert not starts(plan)
    for action in plan.actions:
        assert isinstance(action, PauseOperation) or (isinstance(action, StartJob) and action.adopt_only)


@given(observed=worlds(), policy=policies)
def test_a_hold_pauses_everything_that_can_be_paused(observed: Observed, policy: Policy) -> None:
    plan = decide(replace(observed, hold=HOLD, outcomes=()), policy, NOW)
    pausing = {action.operation_name for action in plan.actions if isinstance(action, PauseOperation)}
    for job in observed.live:
        seen = observed.operations.get(job.operation_name) if job.operation_name else None
        if seen is not None and seen.state in (OperationState.IN_PROGRESS, OperationState.QUEUED):
            assert seen.name in pausing


@given(observed=worlds(), policy=policies)
def test_the_same_world_gives_the_same_plan(observed: Observed, policy: Policy) -> None:
    assert decide(observed, policy, NOW) == decide(observed, policy, NOW)
    shuffled = replace(observed, startable=tuple(reversed(observed.startable)))
    assert decide(shuffled, policy, NOW) == decide(observed, policy, NOW)


@given(observed=worlds(), policy=policies)
def test_every_start_has_its_intent_and_its_own_name(observed: Observed, policy: Policy) -> None:
    plan = decide(observed, policy, NOW)
    rows = {job.prefix: job for job in observed.live} | {change.after.prefix: change.after for change in plan.changes}
    for action in plan.actions:
        if isinstance(action, StartJob):
            intent = rows[action.prefix]
            assert intent.status is JobStatus.RUNNING
            assert (intent.job_name, intent.attempt) == (action.job_name, action.attempt)
            assert intent.operation_name is None
    named = [action.job_name for action in plan.actions if isinstance(action, StartJob)]
    assert len(named) == len(set(named))


@given(observed=worlds(), policy=policies)
def test_done_is_truthful(observed: Observed, policy: Policy) -> None:
    for change in decide(observed, policy, NOW).changes:
        if change.after.status is JobStatus.DONE:
            assert change.after.operation_name is not None
            seen = observed.operations[change.after.operation_name]
            assert seen.state is OperationState.SUCCESS
            assert seen.counters.objects_failed == 0


@given(observed=worlds(), policy=policies)
def test_what_a_person_paused_or_cancelled_is_left_alone(observed: Observed, policy: Policy) -> None:
    plan = decide(observed, policy, NOW)
    changes = {change.before.prefix: change.after for change in plan.changes}
    for job in observed.live:
        seen = observed.operations.get(job.operation_name) if job.operation_name else None
        if seen is not None and seen.state is OperationState.ABORTED:
            assert changes[job.prefix].status is JobStatus.ERROR
        if seen is not None and seen.state is OperationState.PAUSED and job.paused_by is PausedBy.NOBODY:
            assert not any(isinstance(action, ResumeOperation) and action.prefix == job.prefix for action in plan.actions)


@given(observed=worlds(), policy=policies)
def test_an_open_breaker_lets_one_probe_through_at_most(observed: Observed, policy: Policy) -> None:
    breaker = Breaker(code="X", message="m", opened_at=NOW - timedelta(hours=1), probe_at=NOW)
    plan = decide(replace(observed, breaker=breaker), policy, NOW)
    assert len(starts(plan)) <= 1
    early = decide(replace(observed, breaker=replace(breaker, probe_at=NOW + timedelta(seconds=1))), policy, NOW)
    assert not starts(early)


@given(observed=worlds(), policy=policies)
def test_attempts_are_bounded(observed: Observed, policy: Policy) -> None:
    for change in decide(observed, policy, NOW).changes:
        job = change.after
        again = change.before.status is not JobStatus.WAITING and job.status is JobStatus.WAITING
        if again and job.attempt == change.before.attempt:
            # A row that used up its attempts ends; it does not go back to waiting.
            assert job.tries < policy.attempts_max or job.forgiven > change.before.forgiven


@given(observed=worlds(), policy=policies)
def test_each_prefix_changes_once_and_by_one_generation(observed: Observed, policy: Policy) -> None:
    plan = decide(observed, policy, NOW)
    prefixes = [change.before.prefix for change in plan.changes]
    assert len(prefixes) == len(set(prefixes))
    assert all(change.after.generation == change.before.generation + 1 for change in plan.changes)


@given(observed=worlds(), policy=policies)
def test_each_prefix_that_starts_is_in_one_transfer_job_of_what_is_alike(observed: Observed, policy: Policy) -> None:
    plan = decide(observed, policy, NOW)
    begun = {change.after.prefix: change.after for change in plan.changes if change.before.attempt < change.after.attempt}
    asked = [prefix for action in starts(plan) for prefix in (action.prefix, *action.others)]
    assert sorted(asked) == sorted(begun)
    for action in starts(plan):
        rows = [begun[prefix] for prefix in (action.prefix, *action.others)]
        assert len(rows) <= policy.prefixes_per_job
        assert {row.job_name for row in rows} == {action.job_name}
        assert [row.lead for row in rows] == [None, *[action.prefix] * len(action.others)]
        assert len({(row.route, row.source, row.destination, row.egress, row.attempt, row.project) for row in rows}) == 1
