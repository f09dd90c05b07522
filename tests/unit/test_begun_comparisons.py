"""A comparison after a successful transfer is begun once, and begun late where its ledger was away."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import pytest

from cdn_worker.protocol.url_list_jobs import Kind, Row, State
from cdn_worker.protocol.url_list_ledger import ListLedger
from sts_manager.domain.errors import StoreUnavailable
from sts_manager.domain.model import JobStatus, PrefixJob, Route
from sts_manager.domain.names import JobName, Prefix
from sts_manager.routes.url_list.missing_objects import left_behind_of
from sts_manager.routes.url_list.setup import UrlLists
from sts_manager.settings import Settings
from tests.fakes.memory_store import MemoryStore

NOW = datetime(2026, 11, 30, tzinfo=UTC)
NAME = JobName("transferJobs/stsm-m-p-a1")
JOB = PrefixJob(
    prefix=Prefix("p/"), status=JobStatus.DONE, route=Route.STS_S3, job_name=NAME, attempt=1, started_at=NOW, ended_at=NOW
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lists.db"


@pytest.fixture
def lists(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UrlLists:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "some-key")
    settings = Settings(
        store=f"sqlite:///{tmp_path}/jobs.db", source_bucket="s3://source", destination_bucket="sink", list_ledger=str(path)
    )

    def no_store() -> NoReturn:
        raise AssertionError("nothing is told here")

    return UrlLists(settings, no_store, dict)


def test_a_success_whose_commit_failed_is_compared_once(lists: UrlLists, path: Path) -> None:
    assert lists.arriving(JOB)
    ledger = ListLedger(path, StoreUnavailable)
    (job,) = ledger._jobs("kind = ?", (Kind.LEFT_BEHIND,))
    assert (job.name, job.prefix, job.state) == (left_behind_of(NAME, "p/"), "p/", State.LISTING)
    ledger.ready(job.name, "")
    lists.arriving(JOB)  # the pass is taken again
    (again,) = ledger._jobs("kind = ?", (Kind.LEFT_BEHIND,))
    assert (again.state, again.forgotten) == (State.READY, False), "what was found is not forgotten"
    ledger.close()
    lists.close()


def test_a_ledger_that_is_away_is_asked_again(
    lists: UrlLists, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = ListLedger.compare

    def away(*_args: object, **_more: object) -> NoReturn:
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr(ListLedger, "compare", away)
    with caplog.at_level(logging.WARNING):
        assert not lists.arriving(JOB), "it is not called done before"
        assert lists.comparing(), "whoever wants to end waits for it"
        monkeypatch.setattr("sts_manager.routes.url_list.setup.NOT_BEGUN_S_MAX", 0.0)
        assert lists.arriving(JOB), "but not for ever"
    assert [record.message for record in caplog.records] == ["prefix_not_compared_yet"], "told once"
    assert lists.uncompared() == (1, "the ledger of comparisons is away")
    monkeypatch.setattr(ListLedger, "compare", real)
    lists.tell()  # whoever tells does it, though nothing else arrives
    assert lists.comparing()
    ledger = ListLedger(path, StoreUnavailable)
    assert [job.name for job in ledger._jobs("kind = ?", (Kind.LEFT_BEHIND,))] == [left_behind_of(NAME, "p/")]
    assert lists.uncompared() == (1, "")
    ledger.close()
    lists.close()


@pytest.mark.parametrize(("attempt", "named"), [(1, ["p/a"]), (2, [])])
def test_what_a_comparison_found_is_told_of_the_attempt_that_it_is_about(lists: UrlLists, attempt: int, named: list[str]) -> None:
    """It took longer than the next attempt: what that one had brought was called missing."""
    store = MemoryStore()
    store.load([JOB.prefix], NOW, lambda _: None)
    name = JobName(f"transferJobs/stsm-m-p-a{attempt}")
    store.rows[JOB.prefix] = replace(JOB, attempt=attempt, job_name=name)
    lists._store = store
    assert lists.arriving(JOB)
    ledger = lists._made().ledger
    comparison = left_behind_of(NAME, "p/")
    ledger.found(comparison, [Row("p/a", "p/a", 1, "e" * 32, "2026", 0)], [])
    ledger.ready(comparison, "")
    lists.tell()
    assert [one.key for one in store.failed] == named
    assert ledger.untold() == []
    lists._store = None
    lists.close()
