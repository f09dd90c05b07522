"""Files that hold names of objects are their owner's alone, and nobody else can hold the lock of a daemon."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdn_worker.protocol.sqlite_file import SqliteFile
from sts_manager.domain.errors import StoreUnavailable
from sts_manager.stores.lease import StoreLease
from sts_manager.stores.sql.store import open_store
from tests.fakes.clock import FakeClock
from tests.fakes.memory_store import MemoryStore


def rights(folder: Path) -> dict[str, str]:
    return {one.name: oct(one.stat().st_mode & 0o777) for one in folder.iterdir()}


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_a_store_is_its_owners_alone(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/store.db", create=True)
    assert set(rights(tmp_path).values()) == {"0o600"}, rights(tmp_path)
    assert "store.db-wal" in rights(tmp_path)
    store.close()


def test_queues_and_ledgers_are_too(tmp_path: Path) -> None:
    file = SqliteFile(tmp_path / "queue.db", "the queue", StoreUnavailable)
    file.script("CREATE TABLE x (y)")
    assert set(rights(tmp_path).values()) == {"0o600"}, rights(tmp_path)
    assert len(rights(tmp_path)) > 1
    file.close()


def test_a_file_that_is_there_keeps_the_rights_that_somebody_gave_it(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    path.touch()
    path.chmod(0o640)
    SqliteFile(path, "the queue", StoreUnavailable).close()
    assert rights(tmp_path)["queue.db"] == "0o640"


def test_a_folder_that_is_not_there_is_told_as_before(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="unable to open"):
        SqliteFile(tmp_path / "missing" / "queue.db", "the queue", StoreUnavailable)


def test_only_its_owner_may_open_the_lock_also_one_that_an_older_version_made(tmp_path: Path) -> None:
    lock = tmp_path / "store.lock"
    lock.touch()
    lock.chmod(0o644)
    lease = StoreLease(MemoryStore(), FakeClock(), lock_path=lock, lease_s=60)
    assert lease.acquire() is None
    assert rights(tmp_path) == {"store.lock": "0o600"}


def test_a_lock_of_somebody_else_is_no_proof_and_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, store, clock = tmp_path / "store.lock", MemoryStore(), FakeClock()
    first = StoreLease(store, clock, lock_path=lock, lease_s=60)
    assert first.acquire() is None
    monkeypatch.setattr(os, "geteuid", lambda: lock.stat().st_uid + 1)
    second = StoreLease(store, clock, lock_path=lock, lease_s=60)
    assert second.acquire() is not None, "the first one's beat is watched"
    clock.advance(61)
    assert second.acquire() is None, "which stood still"
