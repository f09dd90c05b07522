"""The lister's order of work: every job of a ledger comes to its turn, at a cost that does not grow with how many wait."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cdn_worker.protocol.url_list_jobs import Hints, Job, Kind, State
from cdn_worker.protocol.url_list_ledger import ListLedger
from cdn_worker.url_lists import service
from cdn_worker.url_lists.runner import Sizes
from cdn_worker.url_lists.service import JOBS_MAX, Listers
from sts_manager.domain.errors import StoreUnavailable
from sts_manager.routes.url_list.missing_objects import is_first, left_behind_of
from tests.unit.test_list_ledger import SPEC, bad, row

NOW = datetime(2026, 11, 21, tzinfo=UTC)
NO_HINTS = Hints(otherwise=("failed", ""))
JOBS = 600


class ShortLister:
    """Its comparison is over when it is looked at for the first time. waits: names that came to nothing for now."""

    waiting: Collection[str] = ()
    begun: list[str]

    def __init__(self, job: Job, ledger: ListLedger, *_: Any) -> None:
        self._job, self._ledger = job, ledger
        self.waits = job.name in self.waiting

    def begin(self) -> None:
        self.begun.append(self._job.name)

    def ended(self) -> bool:
        if not self.waits:
            self._ledger.ready(self._job.name, "")
        return True

    def stay_signed(self) -> None:
        pass


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[ListLedger]:
    made = ListLedger(tmp_path / "lists.db", StoreUnavailable)
    yield made
    made.close()


@pytest.fixture
def listers(ledger: ListLedger, monkeypatch: pytest.MonkeyPatch) -> Listers:
    ShortLister.begun, ShortLister.waiting = [], ()
    monkeypatch.setattr(service, "Lister", ShortLister)
    monkeypatch.setattr(service, "Engine", lambda _limits: SimpleNamespace())
    reach: Any = SimpleNamespace(limits=None)
    return Listers(ledger, reach, Sizes(), stopping=lambda: False)


def compare(ledger: ListLedger, number: int) -> str:
    name = left_behind_of(f"transferJobs/stsm-m-p{number}-a1", f"p{number}/")
    spec = replace(SPEC, job=name, prefix=f"p{number}/")
    ledger.compare(spec, f"p{number}/", NOW + timedelta(seconds=number), NO_HINTS, kind=Kind.LEFT_BEHIND)
    return name


def test_each_of_many_jobs_is_read_once_and_begun_once(
    ledger: ListLedger, listers: Listers, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [compare(ledger, number) for number in range(JOBS)]
    read: list[int] = []
    work = ledger.work

    def counted(most: int, besides: Collection[str]) -> list[Job]:
        found = work(most, besides)
        read.append(len(found))
        return found

    monkeypatch.setattr(ledger, "work", counted)
    turns = 0
    while ledger.work(1, ()):
        listers.tend()
        turns += 1
        assert turns <= JOBS, "each turn ends some"
    assert ShortLister.begun == names
    assert sum(read) - turns <= JOBS + JOBS_MAX * len(read)


def test_a_job_that_has_to_wait_keeps_no_other_from_its_turn(ledger: ListLedger, listers: Listers) -> None:
    names = [compare(ledger, number) for number in range(JOBS_MAX + 4)]
    ShortLister.waiting = set(names[:JOBS_MAX])
    for _ in range(4):
        listers.tend()
    assert ShortLister.begun == names, "the first ones rest, and the others were begun meanwhile"


def test_a_job_that_was_paused_since_it_was_looked_for_is_not_begun(ledger: ListLedger, listers: Listers) -> None:
    names = [compare(ledger, number) for number in range(JOBS_MAX + 1)]
    listers.tend()
    ledger.set_paused(names[-1], paused=True)
    listers.tend()
    assert names[-1] not in ShortLister.begun
    found = ledger.job(names[-1])
    assert found is not None
    assert found.state is State.LISTING


def test_the_job_store_needs_to_be_told_of_nothing_only_where_it_may_know_something(ledger: ListLedger) -> None:
    name = compare(ledger, 1)
    assert is_first(name)
    assert not is_first(left_behind_of("transferJobs/stsm-m-p1-a12", "p1/"))
    assert not ledger.compared_before(name)
    again = replace(SPEC, job="transferJobs/stsm-m-p1-a1-x", prefix="p1/")
    ledger.compare(again, "p1/", NOW, NO_HINTS)
    assert ledger.compared_before(name)


def test_a_prefix_that_is_done_takes_what_cannot_travel_with_it(ledger: ListLedger) -> None:
    """An attempt by a manifest brings what it names, and says nothing of the archived objects that it leaves out."""
    ledger.compare(SPEC, "p/", NOW, NO_HINTS)
    ledger.found(SPEC.job, [row("p/x")], [bad("p/cold")])
    ledger.ready(SPEC.job, "gs://b/m.csv")
    assert [one.key for one in ledger.failures(SPEC.job, 9)] == ["p/cold", "p/x"]
    ledger.telling(SPEC.job)
    ledger.told(SPEC.job)
    ledger.forget("p/")
    assert [one.key for one in ledger.failures(SPEC.job, 9)] == ["p/cold"]
    assert [one.name for one in ledger.untold()] == [SPEC.job], "the job store is told so"
    ledger.compare(replace(SPEC, job="later"), "p/", NOW, NO_HINTS, kind=Kind.LEFT_BEHIND)
    ledger.ready("later", "")
    assert ledger.failures("later", 9) == [], "and what is compared again is judged anew"


def test_what_a_transfer_waits_for_comes_before_what_only_reports(ledger: ListLedger, listers: Listers) -> None:
    names = [compare(ledger, number) for number in range(3)]
    ledger.compare(replace(SPEC, job="retry", prefix="q/"), "q/", NOW + timedelta(days=1), NO_HINTS)
    listers.tend()
    assert ShortLister.begun == ["retry", *names]


def test_comparisons_that_came_to_nothing_are_counted(ledger: ListLedger) -> None:
    names = [compare(ledger, number) for number in range(3)]
    assert ledger.uncompared() == (3, "")
    for name in names[:2]:
        ledger.ready(name, "")
        ledger.telling(name)
        ledger.told(name)
    ledger.enter(names[2], State.MOVING, was=State.LISTING, code="PERMISSION_DENIED", message="no right")
    ledger.end(names[2], NOW)
    ledger.telling(names[2])
    ledger.told(names[2])
    assert ledger.uncompared() == (1, "no right")
    assert not ledger.untold()
    assert not ledger.busy()


def test_looking_for_what_is_new_reads_no_old_rows(ledger: ListLedger) -> None:
    """A row for each prefix of a migration stays, and is looked past every other second."""
    plans = [
        " ".join(row["detail"] for row in ledger._read(f"EXPLAIN QUERY PLAN {query}", values))
        for query, values in (
            ("SELECT * FROM job WHERE told <> 1 AND (state IN (?, ?) OR forgotten)", ("over", "ready")),
            ("SELECT count(*) FROM job WHERE kind = ? AND told <> 1 AND NOT forgotten", ("left_behind",)),
            ("SELECT * FROM job WHERE state IN (?, ?) AND kind = ?", ("listing", "moving", "urls")),
        )
    ]
    assert all("USING INDEX" in plan for plan in plans), plans
