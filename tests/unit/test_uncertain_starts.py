"""A start of which nobody knows whether it was applied is asked for again, and not for ever; an outage burns nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from sts_manager.domain.decide import decide
from sts_manager.domain.model import (
    JobStarted,
    JobStatus,
    Observed,
    Policy,
    PrefixJob,
    Refusal,
    Route,
    StartJob,
    StartRefused,
)
from sts_manager.domain.names import OperationName, Prefix, checked_prefixes, job_name
from sts_manager.domain.transitions import settle
from tests.fakes.clock import START

POLICY = Policy(migration="0badcafe", route=Route.STS_S3)
A, B = checked_prefixes(["a/", "b/"])
MINUTE = timedelta(minutes=1)
SILENT = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "LEASE_OLD")


def intent(prefix: Prefix = A) -> PrefixJob:
    """A row whose intent is written, and whose start is not answered."""
    name = job_name(POLICY.migration, prefix, 1)
    return PrefixJob(prefix=prefix, status=JobStatus.RUNNING, attempt=1, job_name=name, generation=2, started_at=START)


def refused(code: str, others: Sequence[Prefix] = ()) -> Observed:
    outcome = StartRefused(
        prefix=A, attempt=1, refusal=Refusal.UNCERTAIN, code=code, message="told so", again=True, others=tuple(others)
    )
    return Observed(outcomes=(outcome,))


def ask(row: PrefixJob, code: str, now: datetime, times: int = 1) -> PrefixJob:
    for _ in range(times):
        row = settle(row, refused(code), POLICY, now).after
    return row


def test_twenty_answers_over_an_hour_that_leave_it_open_end_the_row() -> None:
    row = ask(intent(), "INTERNAL", START, times=19)
    assert (row.status, row.error_code) == (JobStatus.RUNNING, "INTERNAL")
    for part in ("told so", "asks so far: 19", str(row.job_name)):
        assert part in row.error_message
    assert ask(row, "INTERNAL", START + 59 * MINUTE, times=9).status is JobStatus.RUNNING, "often, but not for an hour"
    end = START + 60 * MINUTE
    ended = ask(row, "UNKNOWN", end)
    assert (ended.status, ended.error_code, ended.ended_at, ended.attempt) == (JobStatus.ERROR, "START_UNCERTAIN", end, 1)
    for part in ("20 times", f"{START:%Y-%m-%d %H:%M} UTC", "UNKNOWN: told so", str(row.job_name), "console", "`retry`"):
        assert part in ended.error_message


def test_an_hour_with_few_answers_is_not_enough() -> None:
    row = ask(ask(intent(), "INTERNAL", START), "INTERNAL", START + 600 * MINUTE, times=18)
    assert row.status is JobStatus.RUNNING
    assert ask(row, "INTERNAL", START + 600 * MINUTE).status is JobStatus.ERROR


@pytest.mark.parametrize("code", SILENT)
def test_a_service_that_does_not_answer_is_waited_for(code: str) -> None:
    row = ask(intent(), code, START, times=100)
    assert ask(row, code, START + 5000 * MINUTE, times=100).status is JobStatus.RUNNING


@pytest.mark.parametrize("code", SILENT)
def test_the_hour_begins_anew_after_an_outage(code: str) -> None:
    """A few odd answers before an outage of hours, and the first ones after it, prove nothing."""
    row = ask(ask(intent(), "INTERNAL", START, times=15), code, START + 10 * MINUTE)
    back = START + 400 * MINUTE
    row = ask(row, "INTERNAL", back, times=10)
    assert row.status is JobStatus.RUNNING
    assert ask(row, "INTERNAL", back + 59 * MINUTE).status is JobStatus.RUNNING
    assert ask(row, "INTERNAL", back + 60 * MINUTE).status is JobStatus.ERROR


def test_the_prefixes_of_one_job_end_together() -> None:
    name = job_name(POLICY.migration, A, 1)
    rows = [replace(intent(one), job_name=name, lead=None if one == A else A) for one in (A, B)]
    rows = [replace(one, missing_count=19, missing_since=START) for one in rows]
    seen = replace(refused("INTERNAL", others=[B]), live=tuple(rows))
    ended = {one.after.prefix: one.after for one in decide(seen, POLICY, START + 60 * MINUTE).changes}
    assert {prefix: row.error_code for prefix, row in ended.items()} == dict.fromkeys((A, B), "START_UNCERTAIN")


@pytest.mark.parametrize("started", [True, False])
def test_what_was_counted_before_an_answer_does_not_count_after_it(started: bool) -> None:
    """Else one poll in which a new operation is not to be seen yet would make a second job."""
    row = ask(intent(), "INTERNAL", START, times=5)
    name = OperationName("transferOperations/1") if started else None
    answered = JobStarted(prefix=A, attempt=1, operation_name=name, adopted=True)
    now = START + 30 * MINUTE
    after = settle(row, Observed(outcomes=(answered,)), POLICY, now).after
    assert (after.missing_count, after.missing_since) == ((1, now) if started else (0, None))
    assert after.status is (JobStatus.RUNNING if started else JobStatus.WAITING)


def test_until_then_the_same_name_is_asked_for() -> None:
    row = ask(intent(), "INTERNAL", START, times=7)
    (again,) = decide(Observed(live=(row,)), POLICY, START + 10 * MINUTE).actions
    assert isinstance(again, StartJob)
    assert (again.job_name, again.again, again.adopt_only) == (row.job_name, True, False)
