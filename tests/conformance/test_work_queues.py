"""Every work queue, over one suite."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cdn_worker.domain.errors import BadInput
from cdn_worker.ports import JobState, Leased, QueueUnavailable
from cdn_worker.protocol.sqlite_file import SqliteFile
from cdn_worker.queues.factory import open_queues, prepare_queues
from cdn_worker.queues.sqlite import sqlite_queues
from tests.conformance.work_queue import *  # noqa: F403
from tests.conformance.work_queue import DELIVERIES_MAX, Bench, drained
from tests.fakes.memory_queue import memory_queues
from tests.stages import gcs_client, wait_for
from tools.emulators.stage import PROJECT, Stage


class MemoryBench:
    tells_lost = True

    def __init__(self) -> None:
        self.now = 0.0
        self.queues = memory_queues(deliveries_max=DELIVERIES_MAX, clock=lambda: self.now)

    def end_leases(self) -> None:
        self.now += 61


class SqliteBench:
    tells_lost = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.queues = sqlite_queues(path, deliveries_max=DELIVERIES_MAX)

    def end_leases(self) -> None:
        with closing(sqlite3.connect(self.path, timeout=10)) as other, other:
            other.execute("UPDATE message SET due = 0")


class PubSubBench:
    """Against the stage, over gRPC."""

    tells_lost = False

    def __init__(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("cdn_worker.queues.pubsub.DELIVERIES_MAX", DELIVERIES_MAX)
        with gcs_client(stage) as client:
            client.create_bucket("control")
        stage.ledger.change({"pubsub.pull_seconds": 0.2})
        address = f"pubsub://{PROJECT}/pool?board=gs://control/board.json"
        prepare_queues(address)
        self.stage, self.queues = stage, open_queues(address)

    def end_leases(self) -> None:
        assert self.stage.pubsub is not None
        self.stage.pubsub.broker.end_leases()


@pytest.fixture(params=["memory", "sqlite", "pubsub"])
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made: Bench
    if request.param == "pubsub":
        made = PubSubBench(request.getfixturevalue("stage"), monkeypatch)
    else:
        made = MemoryBench() if request.param == "memory" else SqliteBench(tmp_path / "queue.db")
    with closing(made.queues):
        yield made


def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    sqlite_queues(path).close()
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE about SET value = '99' WHERE key = 'schema'")
    with pytest.raises(BadInput, match="newer version"):
        sqlite_queues(path)


OLD = """
CREATE TABLE message (
  id INTEGER PRIMARY KEY, queue TEXT NOT NULL, body BLOB NOT NULL, due REAL NOT NULL DEFAULT 0,
  attempts INTEGER NOT NULL DEFAULT 0, token TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT ''
);
CREATE INDEX message_next ON message (queue, due, id);
CREATE TABLE board (job TEXT PRIMARY KEY, state TEXT NOT NULL);
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO about VALUES ('schema', '1'), ('id', 'abc'), ('boot', 'before');
INSERT INTO message (queue, body, attempts) VALUES ('copy', 'old', 2), ('copy', 'fresh', 0);
INSERT INTO board VALUES ('transferJobs/a', 'paused');
"""


def test_a_file_of_the_first_schema_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    with closing(sqlite3.connect(path)) as other, other:
        other.executescript(OLD)
    for _ in range(2):
        with closing(sqlite_queues(path)) as queues:
            assert queues.id == "abc"
            found = sorted((one.attempt, one.again) for one in queues.copies.lease(5))
            assert found in ([(1, False), (3, True)], []), "once; then they are leased"
            assert queues.board.read() == {"transferJobs/a": JobState.PAUSED}
            queues.huge.publish([b"new"])
            assert len(queues.huge.lease(5)) == 1


def test_dead_letters_that_nobody_asks_for_any_more_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Pub/Sub deletes what is older than its retention."""
    path = tmp_path / "queue.db"
    monkeypatch.setattr("cdn_worker.queues.sqlite.TIDY_S", 0.0)
    with closing(sqlite_queues(path)) as queues:
        queues.copies.publish([b"old", b"new", b"task"])
        for lease in queues.copies.lease(2):
            queues.copies.bury(lease, "why")
        with closing(sqlite3.connect(path, timeout=10)) as other, other:
            other.execute("UPDATE message SET at = at - 8 * 86400 WHERE CAST(body AS TEXT) IN ('old', 'task')")
        assert [one.body for one in queues.dead.lease(5)] == [b"new"]
        assert [one.body for one in queues.copies.lease(5)] == [b"task"]


def test_a_file_gives_back_to_the_disk_what_it_does_not_need(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    with closing(SqliteFile(path, "a file", QueueUnavailable)) as file:
        file.script("CREATE TABLE t (a BLOB)")
        with file.transaction() as connection:
            connection.execute("INSERT INTO t VALUES (zeroblob(4000000))")
        file.read("PRAGMA wal_checkpoint(TRUNCATE)")
        assert path.stat().st_size > 4_000_000
        with file.transaction() as connection:
            connection.execute("DELETE FROM t")
        for _ in range(3):
            file.free(500)
        file.read("PRAGMA wal_checkpoint(TRUNCATE)")
        assert path.stat().st_size < 100_000


def test_a_board_of_an_earlier_release_is_read_and_one_that_is_none_is_named(stage: Stage) -> None:
    with gcs_client(stage) as client:
        bucket = client.create_bucket("control")
        address = f"pubsub://{PROJECT}/pool?board=gs://control/board.json"
        prepare_queues(address)
        bucket.blob("board.json").upload_from_string('{"transferJobs/a": "paused"}')
        with closing(open_queues(address)) as queues:
            assert queues.board.read() == {"transferJobs/a": JobState.PAUSED}
            assert queues.board.bind("0badcafe") == "0badcafe"
            assert queues.board.read() == {"transferJobs/a": JobState.PAUSED}
            bucket.blob("board.json").upload_from_string("[]")
            with pytest.raises(QueueUnavailable, match="not the board that a daemon posts"):
                queues.board.read()


def test_who_was_frozen_between_its_look_and_its_write_of_the_board_writes_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gcs_client(stage) as client:
        client.create_bucket("control")
    address = f"pubsub://{PROJECT}/pool?board=gs://control/board.json"
    prepare_queues(address)
    with closing(open_queues(address)) as frozen, closing(open_queues(address)) as leader:
        board = frozen.board
        there = board._there  # type: ignore[attr-defined]

        def freeze() -> tuple[int, dict[str, object]]:
            found = there()
            leader.board.post({"transferJobs/a": JobState.PAUSED}, epoch=2)
            return found  # type: ignore[no-any-return]

        monkeypatch.setattr(board, "_there", freeze)
        with pytest.raises(QueueUnavailable, match="board"):
            board.post({}, epoch=1)
        assert leader.board.read() == {"transferJobs/a": JobState.PAUSED}


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("this is no database, and long enough to be seen as such")
    for path in (tmp_path / "missing" / "queue.db", tmp_path / "file"):
        with pytest.raises(BadInput, match=str(path)):
            sqlite_queues(path)


def test_leases_end_with_the_machine(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    with closing(sqlite_queues(path)) as before:
        before.copies.publish([b"a"])
        assert len(before.copies.lease(1)) == 1
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE about SET value = 'another boot' WHERE key = 'boot'")
    with closing(sqlite_queues(path)) as after:
        assert len(after.copies.lease(1)) == 1


def test_leases_end_with_the_machine_where_no_boot_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock since boot begins anew: a lease of before would last until it has caught up."""
    monkeypatch.setattr("cdn_worker.queues.sqlite.BOOT_ID", tmp_path / "none")
    path, now = tmp_path / "queue.db", time.monotonic()
    with closing(sqlite_queues(path)) as before:
        before.copies.publish([b"a", b"b"])
        (first,) = before.copies.lease(1)
        with closing(sqlite3.connect(path)) as other, other:
            number = first.token.partition(":")[0]
            other.execute("UPDATE message SET due = ? WHERE id = ?", (now + 10 * 86_400, number))
    with closing(sqlite_queues(path)) as after:
        assert sorted(one.body for one in after.copies.lease(5)) == [b"a", b"b"]
    with closing(sqlite_queues(path)) as third:
        assert third.copies.lease(5) == [], "a lease of this boot holds"


def test_a_queue_that_is_locked_for_long_is_unavailable_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdn_worker.queues.sqlite.BUSY_S", 0.05)
    path = tmp_path / "queue.db"
    with closing(sqlite_queues(path)) as queues:
        with closing(sqlite3.connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(QueueUnavailable, match="locked"):
                queues.copies.publish([b"a"])
        queues.copies.publish([b"b"])
        assert [one.body for one in queues.copies.lease(5)] == [b"b"]


def test_the_id_of_a_queue_is_the_files_own(tmp_path: Path) -> None:
    with closing(sqlite_queues(tmp_path / "a.db")) as first, closing(sqlite_queues(tmp_path / "b.db")) as other:
        again = sqlite_queues(tmp_path / "a.db")
        assert first.id == again.id != other.id
        again.close()


def test_one_who_waits_is_given_what_comes(tmp_path: Path) -> None:
    with closing(sqlite_queues(tmp_path / "queue.db")) as queues:
        timer = threading.Timer(0.2, lambda: queues.copies.publish([b"a"]))
        timer.start()
        assert [one.body for one in queues.copies.lease(1, wait_s=20)] == [b"a"]


@pytest.mark.parametrize("address", ["", "redis://x", "sqlite:///", "sqlite:x.db"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(BadInput, match="sqlite:///FILE or pubsub://PROJECT/NAME"):
        open_queues(address)


@pytest.mark.parametrize("seconds", [0.0, 0.6])
def test_a_pull_that_is_answered_at_once_or_cut_short_loses_nothing(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """How long the service lets a pull wait, nobody told: here less and more than the caller does."""
    bench = PubSubBench(stage, monkeypatch)
    monkeypatch.setattr("cdn_worker.queues.pubsub.PULL_S", 0.3)
    stage.ledger.change({"pubsub.pull_seconds": seconds})
    found: list[Leased] = []

    def came() -> bool:
        bench.end_leases()  # also of what a pull that was cut short had leased
        found.extend(bench.queues.copies.lease(1))
        return bool(found)

    with closing(bench.queues):
        assert bench.queues.copies.lease(5) == []
        bench.queues.copies.publish([b"a task"])
        stage.ledger.change({"pubsub.pull_seconds": 0.1})  # or else each pull that is cut short would be first at what comes
        wait_for(came)
        assert [one.body for one in found] == [b"a task"]
        bench.queues.copies.ack(found)
        assert drained(bench)
