from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sts_manager.domain.errors import LeaseLost
from sts_manager.stores.lease import StoreLease, record_of
from tests.fakes.clock import FakeClock
from tests.fakes.memory_store import MemoryStore


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def lease(store: MemoryStore, clock: FakeClock, lock: Path | None = None) -> StoreLease:
    return StoreLease(store, clock, lock_path=lock, lease_s=60)


def test_a_second_daemon_is_told_who_holds_it(store: MemoryStore, clock: FakeClock) -> None:
    first, second = lease(store, clock), lease(store, clock)
    assert first.acquire() is None
    holder = second.acquire()
    assert holder is not None
    assert "pid" in holder.who
    with pytest.raises(LeaseLost):
        _ = second.fence


def test_a_beat_that_stands_still_for_the_lease_time_is_taken_over(store: MemoryStore, clock: FakeClock) -> None:
    first, second = lease(store, clock), lease(store, clock)
    first.acquire()
    assert second.acquire() is not None
    clock.advance(59)
    first.renew()
    clock.advance(59)
    assert second.acquire() is not None  # it moved since the last look
    clock.advance(60)
    assert second.acquire() is None
    assert second.fence == first.fence + 1
    with pytest.raises(LeaseLost, match="took over"):
        first.renew()


def test_clocks_of_two_hosts_do_not_matter(store: MemoryStore) -> None:
    slow, fast = FakeClock(), FakeClock()
    fast.jump(10 * 365 * 86_400)
    first, second = lease(store, slow), lease(store, fast)
    first.acquire()
    assert second.acquire() is not None
    slow.advance(30)
    fast.advance(30)
    first.renew()
    assert second.acquire() is not None


def test_a_lease_given_back_is_free_at_once(store: MemoryStore, clock: FakeClock) -> None:
    first, second = lease(store, clock), lease(store, clock)
    first.acquire()
    first.release()
    assert second.acquire() is None


def test_a_dead_process_of_this_host_is_followed_at_once(store: MemoryStore, clock: FakeClock, tmp_path: Path) -> None:
    lock = tmp_path / "store.db.lock"
    first, second = lease(store, clock, lock), lease(store, clock, lock)
    first.acquire()
    assert second.acquire() is not None  # the file is locked: the first one lives
    first._unlock()  # what the kernel does when a process is killed
    assert second.acquire() is None


def test_a_holder_on_another_host_is_not_judged_by_this_hosts_lock(store: MemoryStore, clock: FakeClock, tmp_path: Path) -> None:
    first = lease(store, clock)
    first.acquire()
    text = store.lease_text()
    assert text is not None
    store.swap_lease(text, replace(record_of(text), boot="another kernel", host="elsewhere").text())
    second = lease(store, clock, tmp_path / "lock")
    holder = second.acquire()
    assert holder is not None
    assert holder.host == "elsewhere"
    clock.advance(60)
    assert second.acquire() is None


def test_a_lock_file_of_another_container_proves_nothing(store: MemoryStore, clock: FakeClock, tmp_path: Path) -> None:
    """Two containers of one host share the kernel, but each has a temporary folder, so a lock file, of its own."""
    first, second = lease(store, clock, tmp_path / "one.lock"), lease(store, clock, tmp_path / "two.lock")
    assert first.acquire() is None
    assert second.acquire() is not None
    clock.advance(59)
    assert second.acquire() is not None


def test_a_beat_whose_answer_was_lost_is_not_a_lost_lease(store: MemoryStore, clock: FakeClock) -> None:
    first = lease(store, clock)
    first.acquire()
    real = store.swap_lease

    def lost(old: str | None, new: str) -> bool:
        real(old, new)
        raise ConnectionError

    store.swap_lease = lost  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        first.renew()
    store.swap_lease = real  # type: ignore[method-assign]
    first.renew()
    first.renew()


def test_a_lease_that_was_taken_and_said_not_to_be_is_ours(store: MemoryStore, clock: FakeClock) -> None:
    first = lease(store, clock)
    real = store.swap_lease

    def denied(old: str | None, new: str) -> bool:
        real(old, new)
        return False

    store.swap_lease = denied  # type: ignore[method-assign]
    assert first.acquire() is None
    store.swap_lease = real  # type: ignore[method-assign]
    first.renew()


def test_two_that_see_it_free_get_it_once(store: MemoryStore, clock: FakeClock) -> None:
    first, second = lease(store, clock), lease(store, clock)
    real = store.lease_text
    store.lease_text = lambda: None  # type: ignore[method-assign]
    assert first.acquire() is None
    assert second.acquire() is not None
    store.lease_text = real  # type: ignore[method-assign]
