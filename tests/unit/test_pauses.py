"""Whose pause of a followed job's operation it is, by what the history says of the row."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sts_manager.domain.model import JobStatus, PausedBy, PrefixJob
from sts_manager.domain.names import JobName, OperationName, Prefix
from sts_manager.domain.pauses import is_paused_by_person

FIRST, SECOND = OperationName("transferOperations/1"), OperationName("transferOperations/2")
NOBODY, HOLD, RESUME = PausedBy.NOBODY, PausedBy.HOLD, PausedBy.RESUME
RUNNING, PAUSED = JobStatus.RUNNING, JobStatus.PAUSED


@pytest.mark.parametrize(
    ("events", "person"),
    [
        ([], False),
        ([(FIRST, RUNNING, NOBODY)], False),
        ([(FIRST, RUNNING, NOBODY), (FIRST, PAUSED, NOBODY)], True),
        ([(FIRST, RUNNING, HOLD), (FIRST, PAUSED, HOLD)], False),
        ([(FIRST, PAUSED, NOBODY), (SECOND, RUNNING, NOBODY), (SECOND, RUNNING, HOLD)], True),
        # A hold comes, and the row still says paused; resumed by us, and looked at too soon.
        ([(FIRST, PAUSED, NOBODY), (FIRST, PAUSED, HOLD)], True),
        ([(FIRST, RUNNING, HOLD), (FIRST, PAUSED, HOLD), (FIRST, PAUSED, NOBODY)], False),
        # A person resumed it, then a hold paused it; the command asked that it goes on.
        ([(FIRST, PAUSED, NOBODY), (FIRST, RUNNING, HOLD), (FIRST, PAUSED, HOLD)], False),
        ([(FIRST, PAUSED, NOBODY), (FIRST, PAUSED, RESUME)], False),
        ([(SECOND, PAUSED, NOBODY)], False),
    ],
)
def test_the_first_of_the_pauses_tells(events: list[tuple[OperationName, JobStatus, PausedBy]], person: bool) -> None:
    row = PrefixJob(prefix=Prefix("p/"), job_name=JobName("transferJobs/j"))
    rows = [replace(row, operation_name=name, status=status, paused_by=by) for name, status, by in events]
    assert is_paused_by_person(rows, FIRST) is person
