"""What counts as a delivery in vain: only that who had a task died with it. The real post over the real queue of a file."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from cdn_worker.ports import JobState, Leased, Queues, QueueUnavailable, WorkQueue
from cdn_worker.queues.sqlite import SqliteQueue, sqlite_queues
from cdn_worker.worker.queue_client import Kind, Parcel, Post
from tests.fakes.memory_queue import MemoryBoard, MemoryQueue
from tests.stages import wait_for


@pytest.fixture
def queues(tmp_path: Path) -> Iterator[Queues]:
    with closing(sqlite_queues(tmp_path / "queue.db", lease_s=0.3)) as made:
        yield made


def copies(queues: Queues) -> WorkQueue:
    return queues.copies


def test_a_thousand_polite_restarts_bury_nothing(queues: Queues) -> None:
    """The eleventh gave a slow task to the dead letters: its objects were poison (C7)."""
    bodies = [b"slow", b"slower"]
    queues.copies.publish(bodies)
    for _ in range(1000):
        post = Post(queues)
        post.want(lists=0, copies=5)
        assert post._claim(Kind.COPY) == 2
        post.claim_no_more()
        post.send(Parcel(given_back=post.claimed()))
        assert post._send_all()
    left = queues.copies.lease(5)
    assert sorted((one.body, one.attempt, one.again) for one in left) == [(b"slow", 1, True), (b"slower", 1, True)]
    assert queues.dead.lease(5) == []


def test_a_thousand_failures_that_count_are_no_more_than_ten_deliveries(queues: Queues) -> None:
    """What was tried and came to nothing does count, where its taker says so: else it would go round for ever."""
    queues.copies.publish([b"hopeless"])
    tries = 0
    while True:
        post = Post(queues)
        post.want(lists=0, copies=5)
        if not post._claim(Kind.COPY):
            break
        tries += 1
        post.send(Parcel(failed=post.claimed()))
        post._send_all()
    assert tries == 10
    assert [one.body for one in queues.dead.lease(5)] == [b"hopeless"]


class Watched:
    """Counts extensions."""

    def __init__(self, inner: SqliteQueue) -> None:
        self._inner, self.extended = inner, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def extend(self, leases: Sequence[Leased]) -> list[Leased]:
        self.extended += bool(leases)
        return self._inner.extend(leases)


class Away(MemoryBoard):
    """`hang`: until it is set, whoever reads waits; then it says that it is away."""

    def __init__(self, hang: threading.Event) -> None:
        super().__init__()
        self._hang = hang

    def read(self) -> Mapping[str, JobState]:
        self._hang.wait(60)
        raise QueueUnavailable("403: the board may not be read")


@pytest.mark.parametrize("hangs", [False, True])
def test_leases_are_extended_while_the_board_is_away(queues: Queues, hangs: bool) -> None:
    """One object that cannot be read, and every task was delivered again and again, and copied by all at once (C7)."""
    hang = threading.Event()
    if not hangs:
        hang.set()
    assert isinstance(queues.copies, SqliteQueue)
    watched = Watched(queues.copies)
    own = replace(queues, copies=watched, board=Away(hang))  # type: ignore[arg-type]
    queues.copies.publish([b"in hand"])
    told: list[str] = []
    post = Post(own, failed=told.append)
    post.start()
    post.want(lists=0, copies=1)
    wait_for(lambda: bool(post._held))
    wait_for(lambda: watched.extended >= 12)
    assert queues.copies.lease(5) == [], "it is ours still"
    if not hangs:
        assert told == ["403: the board may not be read"]
    (claim,) = post.claimed()
    assert claim.lease.attempt == 1
    hang.set()
    post.send(Parcel(done=[claim]))
    post.close(5)
    assert queues.copies.backlog() == 0


def test_a_lease_that_somebody_else_has_by_now_is_not_extended_any_more() -> None:
    now = [0.0]
    queue = MemoryQueue(clock=lambda: now[0])
    made = sqlite_free(queue)
    queue.publish([b"a"])
    post = Post(made)
    post.want(lists=0, copies=1)
    post._claim(Kind.COPY)
    now[0] += 100.0  # this process was frozen
    (theirs,) = queue.lease(1)
    assert theirs.attempt == 2
    post._extended_at = float("-inf")
    post._keep()
    assert not post._held
    queue.release([theirs], counted=True)
    assert queue.lease(1)[0].attempt == 2, "that this one was frozen is no death"


def sqlite_free(queue: MemoryQueue) -> Queues:
    return Queues(
        lists=MemoryQueue(), copies=queue, huge=MemoryQueue(), reports=MemoryQueue(), dead=MemoryQueue(), board=MemoryBoard()
    )
