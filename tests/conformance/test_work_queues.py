"""Every work queue, over one suite."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cdn_worker.domain.errors import BadInput
from cdn_worker.ports import Queues, QueueUnavailable
from cdn_worker.queues.memory import MemoryBoard, MemoryQueue
from cdn_worker.queues.places import open_queues, prepare_queues
from cdn_worker.queues.sqlite import sqlite_queues
from tests.conformance.work_queue import *  # noqa: F403
from tests.conformance.work_queue import DELIVERIES_MAX, Bench
from tests.stages import gcs_client
from tools.emulators.stage import PROJECT, Stage


class MemoryBench:
    def __init__(self) -> None:
        self.now = 0.0
        dead = MemoryQueue(clock=lambda: self.now)
        lists, copies, reports = (MemoryQueue(dead=dead, deliveries_max=DELIVERIES_MAX, clock=lambda: self.now) for _ in range(3))
        self.queues = Queues(lists=lists, copies=copies, reports=reports, dead=dead, board=MemoryBoard())

    def end_leases(self) -> None:
        self.now += 61


class SqliteBench:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.queues = sqlite_queues(path, deliveries_max=DELIVERIES_MAX)

    def end_leases(self) -> None:
        with closing(sqlite3.connect(self.path, timeout=10)) as other, other:
            other.execute("UPDATE message SET due = 0")


class PubSubBench:
    """Against the stage, over gRPC."""

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
