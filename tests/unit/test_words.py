"""What operators read, word for word: events, their fields, causes of errors. `words.txt` beside this file is the approved text.

Users' queries and alerts hang on these. After a wanted change: `python -m tests.unit.test_words`, and look at the difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from sts_manager.domain.decide import decide
from sts_manager.domain.following import FOLLOWED_FAILURES, QUEUE_MISSING, Following, Problem
from sts_manager.domain.heartbeat import METRICS, Tally, Vitals, points
from sts_manager.domain.model import (
    Breaker,
    Change,
    Counters,
    ErrorBreakdown,
    Hold,
    JobStarted,
    JobStatus,
    Limit,
    Observed,
    OperationSnapshot,
    OperationState,
    Policy,
    PrefixJob,
    Refusal,
    Route,
    StartRefused,
    SteeringFailed,
    changed,
)
from sts_manager.domain.names import JobName, OperationName, Prefix, prefix_fault
from tests.fakes.clock import START as NOW

WORDS = Path(__file__).with_name("words.txt")
PREFIX = Prefix("data/2026/")
OPERATION = OperationName("transferOperations/op-1")
JOB = JobName("transferJobs/stsm-0badcafe-x-a2")
POLICY = Policy(migration="0badcafe", route=Route.STS_S3, attempts_max=3)
MOVED = Counters(objects_found=9, bytes_found=900, objects_copied=7, bytes_copied=700, objects_skipped=2, bytes_skipped=200)
FAILED = replace(MOVED, objects_failed=1234, bytes_failed=5)
DENIED = ErrorBreakdown(code="PERMISSION_DENIED", count=1, sample_url="s3://b/k", sample_details="the role may not read")
BUSY = ErrorBreakdown(code="UNAVAILABLE", count=1234, sample_url="s3://b/k", sample_details="try again")


def intent(**more: Any) -> PrefixJob:
    given: dict[str, Any] = {"prefix": PREFIX, "status": JobStatus.RUNNING, "job_name": JOB, "attempt": 2, "progress_at": NOW}
    return PrefixJob(**(given | more))


def live(**more: Any) -> PrefixJob:
    return intent(operation_name=OPERATION, **more)


def seen(state: OperationState, **more: Any) -> dict[OperationName, OperationSnapshot]:
    raw = more.pop("raw_state", state.value)
    return {OPERATION: OperationSnapshot(name=OPERATION, state=state, raw_state=raw, results="{}", **more)}


def refused(refusal: Refusal, **more: Any) -> StartRefused:
    return StartRefused(prefix=PREFIX, attempt=2, refusal=refusal, code="SOME_CODE", message="the service said no", **more)


def scenes() -> Iterator[tuple[str, Observed, Policy]]:
    for refusal in Refusal:
        yield f"a start is refused: {refusal.value}", Observed(live=(intent(),), outcomes=(refused(refusal),)), POLICY
    shared = refused(Refusal.PERMANENT, others=(Prefix("data/2027/"),))
    yield "a shared job is refused for good", Observed(live=(intent(),), outcomes=(shared,)), POLICY
    often = intent(missing_count=19, missing_since=NOW - timedelta(minutes=60))
    yield "a start stays open for too long", Observed(live=(often,), outcomes=(refused(Refusal.UNCERTAIN),)), POLICY
    waits = refused(Refusal.THROTTLED, after=timedelta(hours=3))
    yield "a start is put off as the service asked", Observed(live=(intent(),), outcomes=(waits,)), POLICY
    for adopted in (False, True):
        began = JobStarted(prefix=PREFIX, attempt=2, operation_name=OPERATION, adopted=adopted)
        yield f"started, adopted {adopted}", Observed(live=(intent(),), outcomes=(began,)), POLICY
    nothing = JobStarted(prefix=PREFIX, attempt=2, operation_name=None)
    yield "nothing had been started", Observed(live=(intent(),), outcomes=(nothing,)), POLICY
    steering = SteeringFailed(prefix=PREFIX, verb="pause", code="FAILED_PRECONDITION", message="it is QUEUED")
    paused = Observed(live=(live(),), outcomes=(steering,), operations=seen(OperationState.IN_PROGRESS))
    yield "a pause was not accepted", paused, POLICY
    yield "done", Observed(live=(live(),), operations=seen(OperationState.SUCCESS, counters=MOVED)), POLICY
    cancelled = Observed(live=(live(),), operations=seen(OperationState.ABORTED, counters=MOVED))
    yield "cancelled outside", cancelled, POLICY
    unknown = seen(OperationState.UNKNOWN, raw_state="42")
    yield "a state that nobody knows", Observed(live=(live(),), operations=unknown), POLICY
    for told, more in (
        ("objects failed", {"counters": FAILED, "errors": (BUSY, replace(BUSY, code="INTERNAL", count=3))}),
        ("objects failed, no breakdown", {"counters": FAILED}),
        ("failed, no breakdown", {"counters": Counters()}),
        ("failed for good", {"counters": FAILED, "errors": (BUSY,), "permanent": True}),
        ("a permission is missing", {"errors": (DENIED,)}),
        ("no sample", {"counters": FAILED, "errors": (ErrorBreakdown(code="INTERNAL", count=2),)}),
    ):
        yield told, Observed(live=(live(),), operations=seen(OperationState.FAILED, **more)), POLICY
    last = Observed(live=(live(attempt=5, attempt_base=1),), operations=seen(OperationState.FAILED, errors=(BUSY,)))
    yield "the last attempt", last, POLICY
    once = Observed(live=(live(),), operations=seen(OperationState.FAILED, errors=(BUSY,)))
    yield "no retry is wanted", once, replace(POLICY, retry=False)
    lead = Prefix("data/2025/")
    follower = live(lead=lead)
    pair = (follower, live(prefix=lead))
    yield "a shared job failed", Observed(live=pair, operations=seen(OperationState.FAILED, errors=(BUSY,))), POLICY
    yield "the operation is not known, once", Observed(live=(live(),)), POLICY
    gone = live(missing_count=2, missing_since=NOW - timedelta(minutes=10))
    yield "the operation is gone", Observed(live=(gone,)), POLICY
    breaker = Breaker(code="PERMISSION_DENIED", message="no", opened_at=NOW, probe_at=NOW, probe=PREFIX, limit=Limit.SERVICE)
    waiting = PrefixJob(prefix=Prefix("next/"))
    yield "a probe goes out", Observed(startable=(waiting,), breaker=breaker), POLICY
    yield "no probe yet", Observed(startable=(waiting,), breaker=replace(breaker, probe_at=NOW + timedelta(minutes=1))), POLICY
    well = Observed(live=(live(),), operations=seen(OperationState.IN_PROGRESS, counters=MOVED), breaker=breaker)
    yield "the probe moves", well, POLICY
    yield "held", Observed(startable=(waiting,), hold=Hold(by="ops", at=NOW)), POLICY
    yield "held for a reason", Observed(startable=(waiting,), hold=Hold(by="ops", at=NOW, reason="quota")), POLICY
    yield "not polled", Observed(live=(live(),), startable=(waiting,), unseen=frozenset({OPERATION})), POLICY
    stalled = live(progress_at=NOW - timedelta(hours=1))
    yield "stalled", Observed(live=(stalled,), operations=seen(OperationState.IN_PROGRESS)), POLICY
    yield from followed()


def followed() -> Iterator[tuple[str, Observed, Policy]]:
    def scene(state: OperationState, following: Following, *, name: OperationName = OPERATION, **row: Any) -> Observed:
        shown = replace(seen(state, counters=MOVED)[OPERATION], name=name, following=following)
        return Observed(live=(live(route=Route.STS_FOLLOW, **row),), operations={OPERATION: shown})

    running, over = OperationState.IN_PROGRESS, OperationState.SUCCESS
    following = Following()
    yield "a followed job has its next operation", scene(running, following, name=OperationName(f"{OPERATION}2")), POLICY
    missing = {PREFIX: "3 objects of 2026-11-19 are not at the destination: they are being found"}
    yield "objects of a day are missing", scene(running, replace(following, standing=missing)), POLICY
    named: dict[str, Any] = {"error_code": FOLLOWED_FAILURES, "error_message": missing[PREFIX]}
    yield "still missing", scene(running, replace(following, standing=missing), **named), POLICY
    yield "nobody knows yet whether they are", scene(running, following, **named), POLICY
    yield "they are there", scene(running, replace(following, standing={}), **named), POLICY
    between = replace(following, between=True)
    yield "between two operations", scene(over, between), POLICY
    cause = Problem(code="PERMISSION_DENIED", message=f"{OPERATION} failed: PERMISSION_DENIED: the queue cannot be read")
    yield "between two operations, of which one failed", scene(OperationState.FAILED, replace(between, cause=cause)), POLICY
    long: dict[str, Any] = {"missing_count": 11, "missing_since": NOW - timedelta(hours=1)}
    yield "no next operation came", scene(over, between, **long), POLICY
    yield "no next operation came after one that failed", scene(over, replace(between, cause=cause), **long), POLICY
    yield "the followed job was deleted", scene(over, Following(over="it was deleted outside this program")), POLICY
    yield "and objects were missing", scene(over, Following(over="it was deleted outside this program"), **named), POLICY
    waits = intent(route=Route.STS_FOLLOW)
    lacks = StartRefused(prefix=PREFIX, attempt=2, refusal=Refusal.UNREADY, code=QUEUE_MISSING, message="no queue")
    yield "no queue is given", Observed(live=(waits,), outcomes=(lacks,)), POLICY
    yield "nor yet", Observed(live=(replace(waits, error_code=QUEUE_MISSING),), outcomes=(lacks,)), POLICY
    yield "its name is spent", Observed(live=(waits,), outcomes=(refused(Refusal.NAME_DELETED),)), POLICY


def told() -> Iterator[str]:
    for title, observed, policy in scenes():
        plan = decide(observed, policy, NOW)
        yield f"== {title}"
        for note in plan.notes:
            fields = ", ".join(f"{name}={value!r}" for name, value in note.fields.items())
            yield f"{note.severity:8}{note.event} {note.prefix} {fields}"
        for change in plan.changes:
            yield from _row(change)
        yield f"        running {plan.running}, stalled {plan.stalled}, ended well {dict(plan.ended_well)}"
        yield f"        blocked {plan.blocked!r}"
        if plan.breaker is not None:
            yield f"        {plan.breaker}"
    yield "== prefixes that will not do"
    for text in ("", "/x", "a\nb", "a\rb", "a\0b", "x" * 1025, "é" * 513, "ok/"):
        yield f"{text[:12]!r}: {prefix_fault(text)}"
    yield "== heartbeat"
    yield from _heartbeat()


def _row(change: Change) -> Iterator[str]:
    after = change.after
    yield f"        {after.prefix}: {change.before.status} -> {after.status}, attempt {after.attempt}"
    yield f"        cause {after.error_code} {after.error_message!r}"
    wait = None if after.not_before is None else after.not_before - NOW
    yield f"        wait {wait}, ended {after.ended_at is not None}, results {change.results!r}, by {after.paused_by!r}"


def _heartbeat() -> Iterator[str]:
    before = live(counters=MOVED)
    tally = Tally(objects_copied=1, bytes_copied=2, objects_failed=3, bytes_failed=4, errors=5, retries=6)
    vitals = Vitals(
        counts={JobStatus.RUNNING: 4, JobStatus.ERROR: 1},
        stalled=2,
        live_by_route={"sts-s3": 3, "cdn": 1},
        pass_age_s=7.9,
        tally=tally,
        breaker_open=True,
        degraded=True,
    )
    for point in points(vitals, NOW):
        yield f"{point.metric.name} {dict(point.labels)} = {point.value} since {point.since}"
    for metric in METRICS:
        yield f"{metric.name}: {metric.kind}, {metric.unit}, {metric.labels}: {metric.says}"
    assert changed(before, before, NOW).after.last_updated == NOW


def test_what_operators_read_is_what_was_approved() -> None:
    assert "\n".join(told()) + "\n" == WORDS.read_text()


if __name__ == "__main__":
    WORDS.write_text("\n".join(told()) + "\n")
