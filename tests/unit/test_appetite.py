"""What may be claimed, what may lie in buffers, and which servers are away: the rules alone."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from cdn_worker.copier.process_pool import KEY_WEIGHT, weight_of
from cdn_worker.domain.budget import HUGE_BYTES, HUGE_NEED, QUEUE_FULL, QUEUE_LEAST, Budget, need_of, streams_of
from cdn_worker.domain.outage import FORGET_S, MISSES, OUTAGE_S, Contacts, outages
from cdn_worker.domain.verdict import KeyVerdict, Verdict
from cdn_worker.object_copy.commands import BUFFER_MAX
from cdn_worker.worker.claim_limits import HUGE_AT_ONCE, KEYS_A_PROCESS, LISTINGS_MAX, Appetite, Load
from cdn_worker.worker.shared_causes import ALIKE, Hope, cause_of

MIB = 1 << 20
NOTHING = Load(keys=0, weight=0, weight_max=512 * MIB, huge_room=128, listings=0)


def test_an_object_weighs_what_it_holds_in_buffers_not_its_size() -> None:
    assert weight_of(5 << 40) == HUGE_NEED + KEY_WEIGHT
    assert weight_of(BUFFER_MAX + 1) == 2 * QUEUE_FULL + KEY_WEIGHT
    assert weight_of(BUFFER_MAX) == 2 * BUFFER_MAX + KEY_WEIGHT
    assert need_of(0, BUFFER_MAX) == 0
    assert max(need_of(size, BUFFER_MAX) for size in (HUGE_BYTES - 1, HUGE_BYTES, 1 << 40)) <= 16 * MIB


def test_streams_are_as_many_as_the_connections_and_half_of_the_buffers_allow() -> None:
    assert streams_of(512, 256 * MIB) == 128
    assert streams_of(64, 256 * MIB) == 32
    assert streams_of(512, 16 * MIB) == 8
    assert streams_of(1, 16 * MIB) == 1


def test_an_idle_worker_claims_what_it_can_begin() -> None:
    appetite = Appetite(2, 50, 64 * MIB)
    for _ in range(100):
        appetite.taken(50 * (2000 + KEY_WEIGHT))
    wanted = appetite.wanted(replace(NOTHING, weight_max=1024 * MIB))
    assert wanted.copies == 2 * KEYS_A_PROCESS // 50
    assert (wanted.lists, wanted.huge) == (LISTINGS_MAX, 2 * HUGE_AT_ONCE)


def test_tasks_of_large_objects_are_claimed_by_their_weight_not_by_their_number() -> None:
    appetite = Appetite(1, 50, 64 * MIB)
    for _ in range(100):
        appetite.taken(128 * MIB)
    assert 1 <= appetite.wanted(NOTHING).copies <= 5
    full = appetite.wanted(replace(NOTHING, weight=512 * MIB))
    assert (full.copies, full.lists) == (0, 0)
    assert full.huge == HUGE_AT_ONCE, "they have a place of their own"
    assert appetite.wanted(replace(NOTHING, huge_room=0)).huge == 0


def test_who_gives_back_what_it_could_not_begin_claims_less_until_things_end() -> None:
    appetite = Appetite(1, 50, 64 * MIB)
    appetite.taken(0)
    before = appetite.keys_max
    for _ in range(20):
        appetite.given_back()
    assert appetite.keys_max == 50
    assert appetite.wanted(NOTHING).copies == 1
    appetite.ended(2 * KEYS_A_PROCESS)
    assert appetite.keys_max == before


@pytest.mark.parametrize("seed", range(20))
def test_the_budget_is_kept_and_nobody_is_kept_out(seed: int) -> None:
    draw, budget = random.Random(seed), Budget(64 * MIB)
    held: list[tuple[str, int]] = []
    waited = 0
    for _ in range(3000):
        kind = draw.choice(["other", "huge", "ahead"])
        size = {"other": draw.randrange(1, 16 * MIB), "huge": HUGE_NEED, "ahead": 8 * MIB}[kind]
        take = {"other": budget.take, "huge": budget.take_huge, "ahead": budget.take_ahead}[kind]
        if take(size):
            held.append((kind, size))
        elif kind == "huge":
            waited += 1
        assert budget.taken <= 64 * MIB or not budget.others or budget.huge <= HUGE_NEED
        assert budget.huge <= 32 * MIB
        while held and draw.random() < 0.4:
            kind, size = held.pop(draw.randrange(len(held)))
            (budget.give if kind == "other" else budget.give_huge)(size)
    assert waited
    for kind, size in held:
        (budget.give if kind == "other" else budget.give_huge)(size)
    assert budget.taken == 0


def test_what_is_small_fills_the_budget_only_until_a_huge_one_waits() -> None:
    budget = Budget(64 * MIB)
    assert budget.take_huge(HUGE_NEED)
    taken = 0
    while budget.take(MIB):
        taken += 1
    assert taken == 63
    assert not budget.take_huge(HUGE_NEED)
    budget.give(2 * MIB)
    assert not budget.take(MIB), "the next free bytes are the huge one's"
    assert not budget.take_ahead(MIB)
    assert budget.take_huge(HUGE_NEED)
    assert budget.take(MIB)
    assert not budget.take_huge(HUGE_NEED)
    budget.relax()
    budget.give(MIB)
    assert budget.take(MIB), "nobody waits any more"
    with pytest.raises(ValueError, match="given back"):
        budget.give_huge(100 * MIB)


def test_many_streams_hold_less_each() -> None:
    budget = Budget(256 * MIB)
    assert budget.queue_full(1) == budget.queue_full(32) == QUEUE_FULL
    assert budget.queue_full(128) == QUEUE_LEAST
    assert all(2 * count * budget.queue_full(count) <= 128 * MIB for count in range(1, 129))


def contacts(*events: tuple[float, bool]) -> Contacts:
    made = Contacts()
    for at, heard in events:
        if heard:
            made.heard("https://a.example/x?secret", at)
        else:
            made.missed("https://a.example/y", at, "Could not resolve host: a.example")
    return made


def test_a_server_that_nobody_hears_for_a_while_is_away() -> None:
    missed = [(float(second), False) for second in range(MISSES)]
    one = contacts((0.0, True), *((at + 1, heard) for at, heard in missed))
    assert outages([one.known], 1 + OUTAGE_S - 0.1) == []
    (found,) = outages([one.known], 1 + OUTAGE_S)
    assert (found.server, found.tries) == ("a.example", MISSES)
    assert found.text() == f"a.example: Could not resolve host: a.example ({MISSES} tries in 20 s, no answer to any)"
    one.heard("https://a.example/", 40.0)
    assert outages([one.known], 100.0) == []


def test_a_server_that_another_loop_hears_is_there() -> None:
    deaf = contacts(*((float(second), False) for second in range(MISSES)))
    hears = contacts((30.0, True))
    assert outages([deaf.known], 60.0)
    assert outages([deaf.known, hears.known], 60.0) == []
    later = contacts(*((31.0 + second, False) for second in range(MISSES)))
    assert outages([later.known, hears.known], 60.0)


def test_a_server_that_was_heard_once_by_a_loop_that_rests_can_be_away_for_one_that_missed_it_before() -> None:
    deaf = contacts(*((float(second), False) for second in range(10, 61)))
    rests = contacts((30.0, True))
    assert outages([deaf.known, rests.known], 30 + OUTAGE_S - 1) == []
    assert outages([deaf.known, rests.known], 60.0)


def test_a_server_that_nobody_tries_any_more_is_no_outage() -> None:
    """The job that needed it is over: it would keep all others from being claimed, for ever."""
    one = contacts(*((float(second), False) for second in range(100)))
    assert outages([one.known], 99 + FORGET_S - 1)
    assert outages([one.known], 99 + FORGET_S) == []


def test_a_few_misses_are_no_outage() -> None:
    assert outages([contacts(*((float(second), False) for second in range(MISSES - 1))).known], 1000.0) == []


def test_missing_credentials_come_first_and_trying_shows_nothing() -> None:
    (found,) = outages([contacts(*((float(second), False) for second in range(MISSES))).known], 60.0)
    cause = cause_of("no AWS credentials", [found])
    assert cause is not None
    assert (cause.code, cause.probes, "sink_forbidden" in cause.errors) == ("UNAUTHENTICATED", False, True)
    away = cause_of("", [found])
    assert away is not None
    assert (away.code, away.probes, "unreachable" in away.errors) == ("UNREACHABLE", True, True)
    assert cause_of("", []) is None


def verdict(error: str) -> KeyVerdict:
    return KeyVerdict(key="k", size=1, etag="e", verdict=Verdict.FAILED, error=error, details="403 AccessDenied")


def test_hope_is_lost_when_the_first_objects_fail_alike_and_not_when_one_went_well() -> None:
    hope = Hope()
    found = [hope.look(verdict("sink_forbidden")) for _ in range(2 * ALIKE)]
    assert [place for place, one in enumerate(found, start=1) if one] == [ALIKE, 2 * ALIKE]
    assert found[ALIKE - 1] == ("PERMISSION_DENIED", "20 objects failed alike, and none went well: 403 AccessDenied")
    good = Hope()
    good.look(KeyVerdict(key="k", size=1, etag="e", verdict=Verdict.SKIPPED, generation=1, verified="md5"))  # type: ignore[arg-type]
    assert not any(good.look(verdict("sink_forbidden")) for _ in range(100))
    assert not any(Hope().look(verdict("exists")) for _ in range(100)), "that is each one's own"
