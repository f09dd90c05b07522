"""Corners of the decision that the proofs by chance meet seldom, each named."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from sts_manager.domain.decide import decide, launch, starts
from sts_manager.domain.model import (
    Breaker,
    Change,
    Counters,
    ErrorBreakdown,
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
    ResumeOperation,
    Route,
    StartRefused,
    SteeringFailed,
    changed,
)
from sts_manager.domain.names import OperationName, Prefix, checked_prefixes, job_name
from sts_manager.domain.transitions import failure_cause, settle
from tests.fakes.clock import START

POLICY = Policy(migration="0badcafe", route=Route.STS_S3)
A, B = checked_prefixes(["a/", "b/"])
OPERATION = OperationName("transferOperations/1")
PLACES: dict[str, Any] = {"source": "s3://other/x", "destination": "gs://other/y", "egress": "cloudfront:d1"}


def begun(prefix: Prefix, **more: Any) -> PrefixJob:
    """A row whose intent is written, and whose start is not answered."""
    name = job_name(POLICY.migration, prefix, 1)
    row = PrefixJob(prefix=prefix, status=JobStatus.RUNNING, attempt=1, job_name=name, generation=2, started_at=START)
    return replace(row, **more)


def running(prefix: Prefix, **more: Any) -> PrefixJob:
    return begun(prefix, operation_name=OPERATION, progress_at=START, **more)


def seen(state: OperationState, **more: Any) -> OperationSnapshot:
    return OperationSnapshot(name=OPERATION, state=state, raw_state=state.value, **more)


def refused(refusal: Refusal, code: str = "INVALID_ARGUMENT", **more: Any) -> StartRefused:
    return StartRefused(prefix=A, attempt=1, refusal=refusal, code=code, message="told so", **more)


@pytest.mark.parametrize("again", [False, True])
def test_an_order_carries_the_places_of_its_row(again: bool) -> None:
    row = begun(A, **PLACES) if again else replace(PrefixJob(prefix=A), **PLACES)
    plan = decide(Observed(live=(row,)) if again else Observed(startable=(row,)), POLICY, START)
    (order,) = plan.actions
    assert {name: getattr(order, name) for name in PLACES} == PLACES
    assert [start.prefix for start in starts(plan)] == ([] if again else [A]), "what is asked for again begins nothing"


def test_a_row_of_an_earlier_attempt_starts_with_nothing_of_it() -> None:
    old = PrefixJob(
        prefix=A,
        attempt=1,
        operation_name=OPERATION,
        paused_by=PausedBy.COMMAND,
        missing_count=2,
        missing_since=START,
        ended_at=START,
        counters=Counters(objects_copied=3),
        not_before=START,
    )
    now = START + timedelta(hours=1)
    (change,) = launch([old], POLICY, now).changes
    after = change.after
    told = (after.operation_name, after.paused_by, after.missing_count, after.missing_since, after.ended_at, after.not_before)
    assert told == (None, PausedBy.NOBODY, 0, None, None, None)
    assert after.counters == Counters()
    assert (after.started_at, after.progress_at, after.last_updated) == (now, now, now)
    assert after.project == "", "there is no choice"
    assert launch([old], replace(POLICY, projects=("p", "q")), now, "q").changes[0].after.project == "q"


def test_what_is_recorded_says_when() -> None:
    now = START + timedelta(minutes=5)
    snapshot = seen(OperationState.SUCCESS)
    (change,) = decide(Observed(live=(running(A),), operations={OPERATION: snapshot}), POLICY, now).changes
    assert change.after.last_updated == change.after.ended_at == now


def test_resumes_of_a_route_are_counted_under_its_own_limit() -> None:
    paused = {"status": JobStatus.PAUSED, "paused_by": PausedBy.COMMAND}
    pool = replace(running(A, **paused), route=Route.CDN)
    snapshot = seen(OperationState.PAUSED)
    other = OperationName("transferOperations/2")
    busy = replace(running(B), operation_name=other)
    observed = Observed(live=(pool, busy), operations={OPERATION: snapshot}, unseen=frozenset({other}))
    plan = decide(observed, replace(POLICY, running_max=1, cdn_running_max=1), START)
    assert [type(action) for action in plan.actions] == [ResumeOperation], "the service's limit is full, the pool's is not"


def test_what_became_of_their_leads_calls_concerns_those_that_share_them() -> None:
    member = running(B, lead=A, status=JobStatus.PAUSED, paused_by=PausedBy.COMMAND)
    resumed = Observed(outcomes=(OperationResumed(prefix=A, operation_name=OPERATION),), unseen=frozenset({OPERATION}))
    assert settle(member, resumed, POLICY, START).after.paused_by is PausedBy.NOBODY
    failed = SteeringFailed(prefix=A, verb="pause", code="X", message="no")
    (note,) = settle(member, Observed(outcomes=(failed,), unseen=frozenset({OPERATION})), POLICY, START).notes
    assert (note.event, note.prefix) == ("steering_failed", B)
    alone = running(B, status=JobStatus.PAUSED, paused_by=PausedBy.COMMAND)
    assert settle(alone, resumed, POLICY, START).after.paused_by is PausedBy.COMMAND, "whose calls those are is known by the lead"


def test_a_start_that_is_answered_leaves_no_error_behind() -> None:
    row = begun(A, error_code="RESOURCE_EXHAUSTED", error_message="later", not_before=START)
    answered = JobStarted(prefix=A, attempt=1, operation_name=OPERATION)
    after = settle(row, Observed(outcomes=(answered,), unseen=frozenset({OPERATION})), POLICY, START).after
    assert (after.error_code, after.error_message, after.not_before) == ("", "", None)


def test_a_start_that_is_refused_for_good_ends_with_what_was_told() -> None:
    now = START + timedelta(minutes=1)
    after = settle(begun(A), Observed(outcomes=(refused(Refusal.PERMANENT),)), POLICY, now).after
    assert (after.status, after.error_code, after.error_message) == (JobStatus.ERROR, "INVALID_ARGUMENT", "told so")
    assert (after.ended_at, after.attempt) == (now, 1)


def test_a_throttled_start_is_withdrawn_and_waits_half_a_delay_at_least() -> None:
    policy = replace(POLICY, retry_delay=timedelta(hours=4))
    after = settle(begun(A), Observed(outcomes=(refused(Refusal.THROTTLED),)), policy, START).after
    assert (after.status, after.attempt, after.started_at) == (JobStatus.WAITING, 0, None)
    assert after.not_before == START + timedelta(hours=2)


def test_what_is_missing_is_recorded_each_time_although_nothing_else_changed() -> None:
    row = running(A)
    for turn in (1, 2):
        plan = decide(Observed(live=(row,)), POLICY, START + timedelta(seconds=turn))
        (change,) = plan.changes
        row = change.after
        assert (row.missing_count, row.missing_since) == (turn, START + timedelta(seconds=1))


@pytest.mark.parametrize(("forgiven", "after"), [(0, 1), (4, 5), (5, 5)])
def test_forgiving_is_bounded_as_attempts_are(forgiven: int, after: int) -> None:
    row = replace(running(A), attempt=8, forgiven=forgiven)
    error = ErrorBreakdown(code="PERMISSION_DENIED", count=1)
    snapshot = seen(OperationState.FAILED, errors=(error,))
    assert settle(row, Observed(operations={OPERATION: snapshot}), POLICY, START).after.forgiven == after


@pytest.mark.parametrize(("url", "details"), [("s3://b/k", ""), ("", "why"), ("s3://b/k", "why")])
def test_a_cause_shows_whatever_sample_there_is(url: str, details: str) -> None:
    error = ErrorBreakdown(code="NOT_FOUND", count=2, sample_url=url, sample_details=details)
    snapshot = seen(OperationState.FAILED, errors=(error,), counters=Counters(objects_failed=2))
    assert failure_cause(snapshot) == ("NOT_FOUND", f"2 × NOT_FOUND, 2 objects failed; for example {url}: {details}")


def test_an_open_breaker_tells_the_latest_cause() -> None:
    old = Breaker(code="NOT_FOUND", message="old", opened_at=START, probe_at=START + timedelta(minutes=5), limit=Limit.SERVICE)
    denied = refused(Refusal.DENIED, "PERMISSION_DENIED")
    breaker = decide(Observed(live=(begun(A),), outcomes=(denied,), breaker=old), POLICY, START).breaker
    assert breaker is not None
    assert (breaker.code, breaker.message, breaker.limit) == ("PERMISSION_DENIED", "told so", Limit.SERVICE)


def test_a_jobs_name_has_32_hex_digits_and_its_attempt() -> None:
    assert len(job_name("0badcafe", A, 12).rpartition("-")[0].rpartition("-")[2]) == 32
    with pytest.raises(ValueError, match="numbered from 1, not 0"):
        job_name("0badcafe", A, 0)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"attempt_base": 2, "attempt": 1}, "attempt numbers for 'a/': 2, 1"),
        ({"forgiven": -1}, "attempt numbers"),
        ({"generation": -1}, "attempt numbers"),
        ({"status": JobStatus.RUNNING}, "'a/' is running but names no transfer job"),
    ],
)
def test_a_row_that_cannot_be_is_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        PrefixJob(prefix=A, **fields)


def test_a_change_keeps_its_prefix_and_adds_one() -> None:
    row = PrefixJob(prefix=A, generation=3)
    assert changed(row, row, START).after.generation == 4
    for after in (replace(row, prefix=B, generation=4), row):
        with pytest.raises(ValueError, match="keeps the prefix and adds one to the generation: 'a/'"):
            Change(before=row, after=after)
