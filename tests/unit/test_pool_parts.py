"""The parts of the pool that stand alone: the canary, the look before a copy, the post, health, the choice of a route."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cdn_worker.domain.http import Answer, Request
from cdn_worker.domain.integrity import Verified
from cdn_worker.domain.verdict import Verdict
from cdn_worker.object_copy.cdn_probe import MISMATCH, PERMISSION_DENIED, Trial, canary
from cdn_worker.object_copy.commands import Command, Outcome, Renew, Task
from cdn_worker.ports import Leased, Queues, QueueUnavailable
from cdn_worker.protocol.codec import encoded
from cdn_worker.protocol.messages import ROOT, JobSpec, ListReport, Report
from cdn_worker.protocol.sqlite_file import SqliteFile
from cdn_worker.worker.health import answered
from cdn_worker.worker.queue_client import Parcel, Post, PostBroken
from cdn_worker.worker.worker import Figures
from sts_manager.clock import SystemClock
from sts_manager.domain.errors import BadInput, StoreUnavailable
from sts_manager.domain.model import OperationState, Route
from sts_manager.domain.routing import choose
from sts_manager.routes.pool.controller import PoolKeeper
from sts_manager.routes.pool.ledger import Folded, PoolLedger
from sts_manager.routes.pool.operation import Job, job_of, operation_of, snapshot
from sts_manager.routes.pool.setup import Pool
from sts_manager.settings import Settings
from tests.fakes.memory_queue import MemoryBoard, MemoryQueue, memory_queues
from tests.fakes.memory_store import MemoryStore
from tests.stages import wait_for
from tests.unit.test_copying import BODY, MD5, got, played, resource, stored, way

TASK = Task("a/b", len(BODY), MD5)
REFUSED = got(b"<Error><Code>AccessDenied</Code></Error>", status=403)
COLD = got(b"<Error><Code>InvalidObjectState</Code><StorageClass>GLACIER</StorageClass></Error>", status=403)
PAGE = got(b"<html>sorry</html>", status=403)
PART = got(b"t", status=206, Content_Range=f"bytes 0-0/{len(BODY)}")


def sung(answers: Sequence[Answer], task: Task = TASK) -> tuple[Trial, list[Command]]:
    """Play the canary with these answers to its requests."""
    steps, left = canary(task, way(), "https://d.example/"), list(answers)
    commands: list[Command] = []
    outcome: Outcome = None
    while True:
        try:
            command = steps.send(outcome)
        except StopIteration as stop:
            assert not left, "it ended early"
            return stop.value, commands
        commands.append(command)
        outcome = left.pop(0) if isinstance(command, Request) else None


def test_the_canary_says_that_a_cdn_compresses() -> None:
    """Its origin is the right one: the advice is another than for an object that is somebody else's."""
    weak = got(b"t", status=206, ETag=f'W/"{MD5}"')
    trial, _ = sung([weak, got()] * 3)
    assert trial.wrong is not None
    assert trial.wrong[0] == MISMATCH
    assert "Compress objects automatically" in trial.wrong[1]
    assert "origin" not in trial.wrong[1]


def test_a_canary_that_comes_back_says_nothing() -> None:
    trial, commands = sung([PART])
    assert trial == Trial()
    (request,) = commands
    assert isinstance(request, Request)
    assert "Range: bytes=0-0" in request.headers


def test_a_canary_for_an_empty_object_asks_for_the_whole() -> None:
    trial, commands = sung([got(b"", etag="e")], Task("a", 0, "e"))
    assert trial == Trial()
    assert not any("Range" in line for one in commands if isinstance(one, Request) for line in one.headers)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_is_left_to_the_copying(status: int) -> None:
    assert sung([got(status=status)])[0] == Trial()


def test_a_refusal_is_believed_after_a_fresh_signature_failed_too() -> None:
    trial, commands = sung([REFUSED] * 3)
    assert trial.wrong is not None
    assert trial.wrong[0] == PERMISSION_DENIED
    assert sum(isinstance(one, Renew) for one in commands) == 2
    assert sung([REFUSED, PART])[0] == Trial()


@pytest.mark.parametrize("answers", [[COLD], [REFUSED, COLD], [PAGE, got(x_amz_archive_status="ARCHIVE_ACCESS")]])
def test_an_archived_object_says_nothing_of_the_cdn(answers: list[Answer]) -> None:
    trial, commands = sung(answers)
    assert trial == Trial(spoiled=True)
    assert sum(isinstance(one, Renew) for one in commands) == len(answers) - 1 - (answers[0] is PAGE)


def test_a_page_for_errors_is_believed_when_the_object_can_be_read() -> None:
    trial, _ = sung([PAGE, got(), PAGE, PAGE])
    assert trial.wrong is not None
    assert trial.wrong[0] == PERMISSION_DENIED


def test_a_distribution_of_another_bucket_is_told_with_what_to_look_at() -> None:
    trial, _ = sung([got(status=404), got()] * 2 + [got(status=404), got()])
    assert trial.wrong is not None
    assert trial.wrong[0] == MISMATCH
    assert "status 404 for 'a/b'" in trial.wrong[1]
    assert "origin" in trial.wrong[1]
    other, _ = sung([got(b"x", etag="other"), got()] * 3)
    assert other.wrong is not None
    assert 'ETag "other"' in other.wrong[1]
    assert (trial.stale, other.stale) == (False, True), "of one object it may be what the cache has kept"


def test_an_object_that_was_deleted_or_changed_meanwhile_is_no_mismatch() -> None:
    assert sung([got(status=404), got(status=404)])[0] == Trial(spoiled=True)
    assert sung([got(status=412), got(etag="newer")])[0] == Trial(spoiled=True)


def test_who_looks_first_reads_nothing_that_is_there() -> None:
    there = resource(metadata={"x-goog-source-etag": MD5})
    verdict, commands = played(TASK._replace(look=True), [there])
    assert (verdict.verdict, verdict.generation, verdict.verified) == (Verdict.SKIPPED, 7, Verified.SIZE)
    assert len(commands) == 1


def test_who_looks_first_and_finds_nothing_or_another_object_goes_on() -> None:
    verdict, _ = played(TASK._replace(look=True), [Answer(404), got(), stored()])
    assert verdict.verdict is Verdict.DONE
    other = resource(body=b"another", metadata={"x-goog-source-etag": "other"})
    verdict, commands = played(TASK._replace(look=True, generation=7), [other, got(), stored(generation=8)])
    assert (verdict.verdict, verdict.generation) == (Verdict.DONE, 8)
    assert any("x-goog-if-generation-match: 7" in one.headers for one in commands if isinstance(one, Request))


class Flaky(MemoryQueue):
    """Unavailable while told so; counts what is published."""

    away = False

    def publish(self, bodies: Sequence[bytes]) -> None:
        if self.away:
            raise QueueUnavailable("down for a test")
        super().publish(bodies)


def test_nothing_is_acknowledged_before_what_follows_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdn_worker.worker.queue_client.AWAY_S", 0.01)
    reports = Flaky()
    queues = replace(memory_queues(), reports=reports)
    said: list[str] = []
    post = Post(queues, failed=said.append)
    queues.copies.publish([b"task"])
    post.start()
    post.want(lists=0, copies=5)
    wait_for(lambda: bool(post._held))
    (claim,) = post.claimed()
    reports.away = True
    post.send(Parcel(reports=[b"report"], done=[claim]))
    wait_for(lambda: said == ["down for a test"])
    assert post._held, "it is still ours"
    reports.away = False
    wait_for(lambda: not post._held)
    assert said == ["down for a test", ""], "told when it went, and when it was back"
    assert [one.body for one in reports.lease(5)] == [b"report"]
    post.close(1)


def test_listings_wait_until_there_is_nothing_to_copy() -> None:
    queues = memory_queues()
    queues.lists.publish([b"list"])
    queues.copies.publish([b"copy"] * 3)
    post = Post(queues)
    post.start()
    post.want(lists=1, copies=2)
    wait_for(lambda: len(post._held) == 2)
    assert [one.kind for one in post.claimed()] == ["copy", "copy"]
    post.want(lists=1, copies=2)
    wait_for(lambda: len(post._held) == 4)
    assert [one.kind for one in post.claimed()] == ["copy", "list"]
    post.close(1)


def test_who_drains_does_not_claim_again_what_it_gave_back() -> None:
    queues = memory_queues()
    post = Post(queues)
    post.start()
    post.want(lists=0, copies=5)
    wait_for(lambda: post._asked_at > 0)  # a claim is under way, and waits
    post.claim_no_more()
    queues.copies.publish([b"given back"])
    post.close(5)
    assert queues.copies.backlog() == 1
    assert post.claimed() == []


def test_leases_are_extended_while_they_are_held() -> None:
    extended = threading.Event()

    class Watched(MemoryQueue):
        def extend(self, leases: Sequence[Leased]) -> list[Leased]:
            if leases:
                extended.set()
            return []

    queues = replace(memory_queues(), copies=Watched(), lease_s=0.2)
    queues.copies.publish([b"x"])
    post = Post(queues)
    post.start()
    post.want(lists=0, copies=1)
    assert extended.wait(20)
    post.close(1)


def test_a_thread_that_died_by_a_defect_is_not_taken_for_one_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _args: None)

    class Broken(MemoryQueue):
        def publish(self, bodies: Sequence[bytes]) -> None:
            if bodies:
                raise RuntimeError("a defect")

    post = Post(replace(memory_queues(), reports=Broken()))
    post.start()
    post.check()
    post.send(Parcel(reports=[b"x"]))
    wait_for(lambda: any(not one.is_alive() for one in post._threads))
    with pytest.raises(PostBroken, match="_sends"):
        post.check()
    post.close(0.1)


def test_a_defect_in_one_turn_of_the_keeper_is_told_and_the_next_turn_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sts_manager.routes.local.background.AWAY_S", 0.01)
    queues = memory_queues()
    spec = JobSpec(job="transferJobs/stsm-m-x-a1", prefix="p/", source_bucket="abc", sink_bucket="def")
    with closing(PoolLedger(tmp_path / "pool.db")) as ledger:
        ledger.begin(spec, "p/", "q", datetime.now(UTC))
        fold, calls = ledger.fold, []

        def failing(reports: Sequence[Report], at: datetime) -> Folded:
            calls.append(len(reports))
            if len(calls) == 1:
                raise ZeroDivisionError("a defect")
            return fold(reports, at)

        monkeypatch.setattr(ledger, "fold", failing)
        report = encoded(ListReport(job=spec.job, shard=ROOT, run="r", listed=0, listed_bytes=0, tasks=0))
        with PoolKeeper(queues, ledger, SystemClock()):
            queues.reports.publish([report])
            wait_for(lambda: "pool_defect" in caplog.text)
            queues.reports.publish([report])  # as the queue delivers it again when its lease has ended
            wait_for(lambda: (found := ledger.job(spec.job)) is not None and found.state == "over")
    assert calls[:2] == [1, 1]


def test_the_cause_of_a_failed_transaction_is_not_hidden_by_its_end(tmp_path: Path) -> None:
    with closing(SqliteFile(tmp_path / "x.db", "the queue", QueueUnavailable)) as file:
        file.script("CREATE TABLE t (a BLOB)")
        file.read("PRAGMA max_page_count = 4")  # full: SQLite rolls back by itself then
        with pytest.raises(QueueUnavailable, match="disk is full"), file.transaction() as connection:
            connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
        with suppress(ZeroDivisionError), file.transaction() as connection:
            connection.execute("INSERT INTO t VALUES (1)")
            raise ZeroDivisionError
        assert file.read("SELECT count(*) FROM t")[0][0] == 0


def test_health() -> None:
    well = Figures()
    assert answered("/healthz", well)[0] == answered("/readyz", well)[0] == 200
    assert answered("/readyz", Figures(draining=True)) == (503, b"draining\n")
    assert answered("/readyz", Figures(queue_away="no such topic")) == (503, b"no such topic\n")
    assert answered("/readyz", Figures(trouble="no credentials")) == (503, b"no credentials\n")
    assert answered("/healthz", Figures(queue_away="x", trouble="y", draining=True))[0] == 200, (
        "it is not to be replaced for that"
    )
    stuck = Figures(turned_at=time.monotonic() - 1000)
    assert answered("/healthz", stuck)[0] == answered("/readyz", stuck)[0] == 503
    assert answered("/", well)[0] == 404


@pytest.mark.parametrize(
    ("asked", "from_s3", "cdn_url", "route", "why"),
    [
        ("auto", True, "https://d/", Route.CDN, "a distribution is given"),
        ("auto", True, "", Route.STS_S3, "no distribution is given"),
        ("auto", False, "", Route.STS_GCS, "only the Storage Transfer Service reads"),
        ("sts-s3", True, "https://d/", Route.STS_S3, "--route sts-s3 says so"),
        ("cdn", True, "", Route.CDN, "--route cdn says so"),
    ],
)
def test_the_route_is_chosen_for_a_reason(asked: str, from_s3: bool, cdn_url: str, route: Route, why: str) -> None:
    choice = choose(asked, from_s3=from_s3, cdn_url=cdn_url)
    assert choice.route is route
    assert why in choice.why


def job(state: str = "over", code: str = "", errors: tuple[tuple[str, int, str, str], ...] = (), **objects: int) -> Job:
    counts = {"done": 0, "skipped": 0, "failed": 0, "unmappable": 0, "vanished": 0} | objects
    return Job(
        name="transferJobs/stsm-m-x-a1",
        prefix="p/",
        spec="",
        queue="q",
        state=state,
        began_at=datetime(2026, 11, 21, tzinfo=UTC),
        ended_at=None,
        error_code=code,
        error_message="why",
        shards=1,
        shards_open=0,
        tasks=1,
        tasks_open=0,
        listed=sum(counts.values()),
        listed_bytes=10 * sum(counts.values()),
        carried=0,
        carried_bytes=0,
        objects=counts,
        bytes={name: 10 * number for name, number in counts.items()},
        verified={},
        errors=errors,
    )


@pytest.mark.parametrize(
    ("given", "state", "permanent"),
    [
        (job("new"), OperationState.QUEUED, False),
        (job("running"), OperationState.IN_PROGRESS, False),
        (job("paused"), OperationState.PAUSED, False),
        (job(done=3, skipped=1), OperationState.SUCCESS, False),
        (job(code="CANCELLED"), OperationState.ABORTED, False),
        (job(code="NOT_FOUND"), OperationState.FAILED, False),
        (job(done=1, failed=1, errors=(("source_busy", 1, "k", "503"),)), OperationState.FAILED, False),
        (job(done=1, failed=1, errors=(("exists", 1, "k", "d"),)), OperationState.FAILED, True),
        (job(failed=1, unmappable=1, errors=(("name", 1, "k", "d"), ("forbidden", 1, "l", "403"))), OperationState.FAILED, False),
        (job(vanished=1, errors=(("vanished", 1, "k", "gone"),)), OperationState.FAILED, False),
    ],
)
def test_a_job_as_an_operation(given: Job, state: OperationState, permanent: bool) -> None:
    seen = snapshot(given)
    assert (seen.state, seen.permanent) == (state, permanent)
    assert seen.counters.objects_found + seen.counters.objects_skipped == given.listed
    assert job_of(operation_of(given.name)) == given.name


def test_a_spec_of_another_prefix_does_not_exist() -> None:
    with pytest.raises(ValueError, match="not under 'in/'"):
        JobSpec(job="j", prefix="out/", source_root="in/", source_bucket="abc", sink_bucket="def")


class Closing:
    """Counts who is closed, over what there is."""

    def __init__(self, board: MemoryBoard) -> None:
        self.board, self.opened, self.closed = board, 0, 0

    def open(self, _address: str, *, lease_s: float) -> Queues:
        self.opened += 1
        made = replace(memory_queues(lease_s), board=self.board)
        made.dead.close = self._close  # type: ignore[method-assign]
        return made

    def _close(self) -> None:
        self.closed += 1


class BoardAway(MemoryBoard):
    def bind(self, migration: str) -> str:
        raise QueueUnavailable("503: the board does not answer")


def test_queues_that_cannot_be_used_are_closed_again_however_often_they_are_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass a minute while the board's bucket is away: each had left its connections behind."""
    settings = Settings(pool_ledger=str(tmp_path / "pool.db"), queue=f"sqlite:///{tmp_path / 'queue.db'}")
    another = MemoryBoard()
    another.bind("another")
    for board, raised in ((BoardAway(), StoreUnavailable), (another, BadInput)):
        closing = Closing(board)
        monkeypatch.setattr("sts_manager.routes.pool.setup.open_queues", closing.open)
        for _ in range(3):
            with pytest.raises(raised):
                Pool(settings, MemoryStore).open()
        assert (closing.opened, closing.closed) == (3, 3)
