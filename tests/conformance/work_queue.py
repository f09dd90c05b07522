"""What every WorkQueue and Board must do. A module that tests an implementation gives a `bench` fixture."""

from __future__ import annotations

import random
import threading
from typing import Protocol

import pytest

from cdn_worker.ports import JobState, Leased, Queues, Superseded
from tests.stages import wait_for

DELIVERIES_MAX = 5
BODIES = [b"one", "zwei, größer".encode(), b"three\n\0\xff", b"x" * 100_000]


class Bench(Protocol):
    """Queues whose messages are buried after DELIVERIES_MAX deliveries in vain.

    tells_lost: whether a holder is told that its lease has ended.
    """

    queues: Queues
    tells_lost: bool

    def end_leases(self) -> None:
        """Let the time pass after which every lease has ended."""
        ...


def taken(bench: Bench, number: int, most: int = 100) -> list[Leased]:
    """Lease until so many are there."""
    found: list[Leased] = []

    def enough() -> bool:
        found.extend(bench.queues.copies.lease(most, 0.2))
        return len(found) >= number

    wait_for(enough)
    return found


def drained(bench: Bench) -> bool:
    """Whether no copy task is left, leased or not."""
    bench.end_leases()
    return not bench.queues.copies.lease(10, 0.5)


def test_what_is_published_is_leased_byte_for_byte_and_gone_when_acknowledged(bench: Bench) -> None:
    bench.queues.copies.publish(BODIES)
    leases = taken(bench, len(BODIES))
    assert sorted(one.body for one in leases) == sorted(BODIES)
    bench.queues.copies.ack(leases)
    assert drained(bench)


def test_nothing_published_is_nothing_to_do(bench: Bench) -> None:
    bench.queues.copies.publish([])
    bench.queues.copies.ack([])
    bench.queues.copies.release([])
    bench.queues.copies.extend([])
    assert bench.queues.copies.lease(5) == []


def test_a_leased_message_is_nobody_elses(bench: Bench) -> None:
    bench.queues.copies.publish([b"a"])
    held = taken(bench, 1)
    assert bench.queues.copies.lease(5, 0.3) == []
    bench.queues.copies.ack(held)


def test_queues_are_apart(bench: Bench) -> None:
    bench.queues.lists.publish([b"list"])
    bench.queues.reports.publish([b"report"])
    bench.queues.huge.publish([b"huge"])
    assert bench.queues.copies.lease(5, 0.3) == []
    for queue, body in ((bench.queues.lists, b"list"), (bench.queues.reports, b"report"), (bench.queues.huge, b"huge")):
        found: list[Leased] = []
        wait_for(lambda queue=queue, found=found: bool(found.extend(queue.lease(5, 0.2)) or found))  # type: ignore[misc]
        assert [one.body for one in found] == [body]
        queue.ack(found)


def test_at_most_as_many_as_asked_for(bench: Bench) -> None:
    bench.queues.copies.publish([str(index).encode() for index in range(10)])
    first = taken(bench, 1, most=3)
    assert 1 <= len(first) <= 3


def test_no_more_once_there_are_so_many_bytes(bench: Bench) -> None:
    """A backlog of reports on what failed is hundreds of MiB: whoever takes five hundred of them has no memory for it."""
    bodies = [b"%d" % index * 100_000 for index in range(6)]
    bench.queues.copies.publish(bodies)
    found: list[Leased] = []

    def are_there(number: int, bytes_max: int) -> bool:
        some = bench.queues.copies.lease(100, 0.2, bytes_max=bytes_max)
        assert sum(len(one.body) for one in some[:-1]) < bytes_max
        found.extend(some)
        return len(found) == number

    wait_for(lambda: are_there(6, 250_000))
    assert sorted(one.body for one in found) == bodies
    bench.queues.copies.publish([b"x" * 1000])
    wait_for(lambda: are_there(7, 1))
    assert len(found[6].body) == 1000, "one is taken however long it is"


def test_a_lease_that_ends_brings_the_message_again_and_says_so(bench: Bench) -> None:
    bench.queues.copies.publish([b"a"])
    first = taken(bench, 1)[0]
    bench.end_leases()
    again = taken(bench, 1)[0]
    assert (again.body, first.attempt) == (b"a", 1)
    assert again.attempt > first.attempt


def test_a_late_acknowledgement_takes_nothing_from_whoever_has_it_now(bench: Bench) -> None:
    bench.queues.copies.publish([b"a"])
    late = taken(bench, 1)
    bench.end_leases()
    now = taken(bench, 1)
    bench.queues.copies.ack(late)
    bench.queues.copies.release(now)
    assert taken(bench, 1)[0].body == b"a"


def test_what_is_released_comes_again_at_once(bench: Bench) -> None:
    bench.queues.copies.publish([b"a"])
    bench.queues.copies.release(taken(bench, 1))
    again = taken(bench, 1)
    assert again[0].body == b"a"
    bench.queues.copies.ack(again)
    assert drained(bench)


def test_what_is_given_back_was_not_delivered_in_vain_however_often(bench: Bench) -> None:
    bench.queues.copies.publish([b"slow"])
    (first,) = taken(bench, 1)
    assert (first.attempt, first.again) == (1, False)
    bench.queues.copies.release([first])
    for _ in range(4 * DELIVERIES_MAX):
        (one,) = taken(bench, 1)
        assert (one.body, one.attempt, one.again) == (b"slow", 1, True)
        bench.queues.copies.release([one])
    bench.queues.copies.ack(taken(bench, 1))
    assert drained(bench)
    assert bench.queues.dead.lease(5, 0.2) == []


def test_what_was_tried_and_came_to_nothing_counts_where_its_taker_says_so(bench: Bench) -> None:
    bench.queues.copies.publish([b"a"])
    bench.queues.copies.release(taken(bench, 1), counted=True)
    (again,) = taken(bench, 1)
    assert (again.attempt, again.again) == (2, True)


def test_that_a_lease_ended_while_its_holder_lives_counts_for_nothing(bench: Bench) -> None:
    bench.queues.copies.publish([b"a"])
    held = taken(bench, 1)
    bench.end_leases()
    (theirs,) = taken(bench, 1)
    assert theirs.attempt == 2, "nobody knows better yet"
    lost = bench.queues.copies.extend(held)
    if not bench.tells_lost:
        pytest.skip("the service tells nobody")
    assert lost == held
    assert bench.queues.copies.extend([theirs]) == []
    bench.queues.copies.release([theirs], counted=True)
    assert taken(bench, 1)[0].attempt == 2, "one of the two died or failed with it, not both"


def test_what_is_delivered_in_vain_too_often_is_buried_with_a_reason(bench: Bench) -> None:
    bench.queues.copies.publish([b"poison"])
    deliveries = 0
    dead: list[Leased] = []

    def is_dead() -> bool:
        nonlocal deliveries
        deliveries += len(bench.queues.copies.lease(5, 0.1))
        bench.end_leases()
        dead.extend(bench.queues.dead.lease(5, 0.1))
        return bool(dead)

    wait_for(is_dead)
    assert [one.body for one in dead] == [b"poison"]
    assert DELIVERIES_MAX <= deliveries <= 2 * DELIVERIES_MAX
    assert drained(bench)


def test_what_is_buried_is_only_among_the_dead_with_its_reason(bench: Bench) -> None:
    bench.queues.copies.publish([b"bad", b"good"])
    leases = {one.body: one for one in taken(bench, 2)}
    bench.queues.copies.bury(leases[b"bad"], "it is hostile: ü")
    dead: list[Leased] = []
    wait_for(lambda: bool(dead.extend(bench.queues.dead.lease(5, 0.2)) or dead))  # type: ignore[func-returns-value]
    assert [(one.body, one.reason) for one in dead] == [(b"bad", "it is hostile: ü")]
    bench.queues.copies.ack([leases[b"good"]])
    bench.queues.dead.ack(dead)
    assert drained(bench)


def test_many_takers_share_what_there_is(bench: Bench) -> None:
    bodies = [str(index).encode() for index in range(300)]
    random.Random(1).shuffle(bodies)
    bench.queues.copies.publish(bodies)
    got: list[bytes] = []

    def take() -> None:
        while len(got) < len(bodies):
            leases = bench.queues.copies.lease(20, 0.1)
            bench.queues.copies.ack(leases)
            got.extend(one.body for one in leases)

    takers = [threading.Thread(target=take) for _ in range(4)]
    for one in takers:
        one.start()
    for one in takers:
        one.join(timeout=30)
    assert sorted(got) == sorted(bodies)


def test_the_board_shows_what_was_posted_last(bench: Bench) -> None:
    board = bench.queues.board
    assert board.read() == {}
    board.post({"transferJobs/a": JobState.PAUSED, "transferJobs/b": JobState.OVER})
    assert board.read() == {"transferJobs/a": JobState.PAUSED, "transferJobs/b": JobState.OVER}
    board.post({"transferJobs/b": JobState.OVER})
    assert board.read() == {"transferJobs/b": JobState.OVER}
    board.post({})
    assert board.read() == {}


def test_queues_are_for_the_migration_that_named_them_first(bench: Bench) -> None:
    board = bench.queues.board
    assert board.bind("0badcafe") == "0badcafe"
    board.post({"transferJobs/a": JobState.PAUSED}, epoch=3)
    assert board.bind("another") == "0badcafe"
    assert board.bind("0badcafe") == "0badcafe"
    assert board.read() == {"transferJobs/a": JobState.PAUSED}


def test_a_leader_of_the_past_posts_nothing(bench: Bench) -> None:
    board = bench.queues.board
    board.post({"transferJobs/a": JobState.PAUSED}, epoch=4)
    board.post({"transferJobs/b": JobState.PAUSED}, epoch=5)
    with pytest.raises(Superseded, match=r"epoch 5.*epoch 4"):
        board.post({}, epoch=4)
    assert board.read() == {"transferJobs/b": JobState.PAUSED}
    board.post({}, epoch=5)
    assert board.read() == {}
