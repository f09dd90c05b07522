"""Rows that would write the same names are refused: when they are loaded, and when a daemon begins."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from itertools import combinations

import pytest

from sts_manager import admin
from sts_manager.destinations import refuse_shared_names
from sts_manager.domain.collisions import find_collision, target
from sts_manager.domain.errors import BadInput
from sts_manager.domain.location import place
from sts_manager.domain.model import Chosen
from sts_manager.domain.names import Prefix, checked_prefixes
from tests.fakes.memory_store import MemoryStore

NOW = datetime(2026, 11, 24, tzinfo=UTC)
SINK = place("gs://sink")


def prepare(store: MemoryStore, rows: dict[str, str]) -> None:
    """rows: each prefix's own destination; empty for none."""
    prefixes = sorted(checked_prefixes(list(rows)))
    chosen = {Prefix(prefix): Chosen(destination=text) for prefix, text in rows.items() if text}
    admin.prepare(store, prefixes, NOW, lambda _: None, chosen)


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    made.bind("s3://source", str(SINK))
    return made


COLLIDING = [
    ({"a/b/": "gs://other", "b/": "gs://other/a"}, "two of their own, the same names"),
    ({"a/": "gs://other", "b/": "gs://other/a"}, "one under the other"),
    ({"b/": "gs://sink/a", "a/b/": ""}, "one of its own, and one without"),
    ({"b/": "gs://sink/a/x", "a/": ""}, "under one without"),
    ({"b/": "gs://sink", "a/": "gs://sink/b/c"}, "the default destination, spelled out"),
    ({"x/": "gs://sink/a", "a/": ""}, "a row that takes the whole of what another one writes"),
]
APART = [
    {"a/": "", "b/": ""},
    {"a/": "gs://one", "b/": "gs://two"},
    {"a/": "gs://one/a", "b/": "gs://one/b"},
    {"a/": "gs://sink", "b/": ""},
    {"a/": "gs://other/x", "b/": "", "x/": ""},
    {"a/": "gs://sink/archive", "b/": ""},
]


@pytest.mark.parametrize(("rows", "why"), COLLIDING, ids=[why for _, why in COLLIDING])
def test_rows_that_would_write_the_same_names_are_refused_when_they_are_loaded(
    store: MemoryStore, rows: dict[str, str], why: str
) -> None:
    with pytest.raises(BadInput, match="would write the same names") as refused:
        prepare(store, rows)
    assert all(repr(prefix) in str(refused.value) for prefix in rows), why
    assert not store.rows, "nothing was loaded"


@pytest.mark.parametrize(("rows", "why"), COLLIDING, ids=[why for _, why in COLLIDING])
def test_also_when_one_of_them_is_there_already(store: MemoryStore, rows: dict[str, str], why: str) -> None:
    for first, destination in rows.items():
        store.rows.clear()
        prepare(store, {first: destination})
        with pytest.raises(BadInput, match="would write the same names"):
            prepare(store, rows)
        assert set(store.rows) == {first}, why


@pytest.mark.parametrize("rows", APART, ids=str)
def test_rows_that_write_names_of_their_own_are_loaded(store: MemoryStore, rows: dict[str, str]) -> None:
    prepare(store, rows)
    refuse_shared_names(store, SINK)
    assert set(store.rows) == set(rows)


def test_a_row_that_is_stored_keeps_its_destination_whatever_the_file_says(store: MemoryStore) -> None:
    prepare(store, {"a/": "gs://one", "b/": ""})
    prepare(store, {"a/": "gs://sink/b", "b/": "gs://sink/c", "c/": ""})
    assert store.rows[Prefix("a/")].destination == "gs://one"


def test_a_daemon_with_another_destination_is_refused(store: MemoryStore) -> None:
    prepare(store, {"a/": "gs://other/x", "b/": ""})
    refuse_shared_names(store, place("gs://other"))
    with pytest.raises(BadInput, match="as all rows without a destination of their own"):
        refuse_shared_names(store, place("gs://other/x/a"))


def test_before_a_destination_is_known_rows_with_their_own_are_compared(store: MemoryStore) -> None:
    unbound = MemoryStore()
    prepare(unbound, {"b/": "gs://sink/a", "a/b/": ""})
    with pytest.raises(BadInput, match="would write the same names"):
        refuse_shared_names(unbound, SINK)


def test_what_is_found_is_what_comparing_every_two_finds() -> None:
    draw = random.Random(20261124)
    found = 0
    for _ in range(3000):
        rows = {
            target(Prefix("".join(draw.choices("ab/", k=draw.randint(1, 4)))), place(f"gs://bbb/{draw.choice(['', 'a', 'a/b'])}"))
            for _ in range(draw.randint(1, 5))
        }
        expected = any(
            one.bucket == other.bucket and (one.under.startswith(other.under) or other.under.startswith(one.under))
            for one, other in combinations(rows, 2)
        )
        assert (find_collision(sorted(rows)) is not None) is expected, rows
        found += expected
    assert 500 < found < 2900
