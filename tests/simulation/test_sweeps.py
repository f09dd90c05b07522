"""Convergence: wherever a run is interrupted once, it ends as one that was not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from sts_manager.ports import JobStore
from sts_manager.stores.sql.store import open_store
from tests.proofs import sized
from tests.simulation.sweep import MODES, NOWHERE, Outcome, Sweep
from tests.warehouses import NAMES, bigquery_store
from tools.emulators.stage import Stage

EVERY = sized(120, 1)
SEEDS = range(1, sized(2, 3))
Make = Callable[[Path], JobStore]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def swept(make: Make, folder: Path, at: tuple[int, str], seed: int) -> tuple[Outcome, list[str]]:
    here = folder / f"{seed}-{at[0]}-{at[1].replace(' ', '-')}"
    here.mkdir()
    with closing(make(here)) as store:
        sweep = Sweep(store, here, at, seed)
        return sweep.run(), sweep.calls


def sweep(make: Make, folder: Path, seed: int, wanted: Callable[[str], bool], every: int) -> int:
    """How many interruptions there were; each `every`-th of those that are wanted."""
    plain, calls = swept(make, folder, NOWHERE, seed)
    places = [index for index, call in enumerate(calls) if wanted(call)]
    for turn, mode in enumerate(MODES):
        # Each call is interrupted in one way at least, whatever is left out.
        for index in places[turn % every :: every]:
            found, _ = swept(make, folder, (index, mode), seed)
            assert found == plain, f"seed {seed}: call {index}, {calls[index]}: {mode}"
    return len(places)


def sqlite(folder: Path) -> JobStore:
    return open_store(f"sqlite:///{folder}/store.db", create=True)


def bigquery(folder: Path) -> JobStore:
    return bigquery_store(replace(NAMES, dataset=f"sweep_{folder.name}".replace("-", "_")))


@pytest.mark.parametrize("seed", SEEDS)
def test_every_commit_and_every_call_on_sqlite(tmp_path: Path, seed: int) -> None:
    assert sweep(sqlite, tmp_path, seed, lambda _call: True, EVERY) > 300


@pytest.mark.skipif(EVERY == 1, reason="the test above interrupts each of them")
@pytest.mark.parametrize("seed", SEEDS)
def test_calls_that_change_something_on_sqlite(tmp_path: Path, seed: int) -> None:
    changes = (
        "store.record",
        "sts.create",
        "sts.run",
        "ledger.",
        "reports.ack",
        "copies.ack",
        "copies.publish",
        "reports.publish",
    )
    assert sweep(sqlite, tmp_path, seed, lambda call: any(one in call for one in changes), EVERY // 5) > 20


def test_every_commit_on_bigquery(stage: Stage, tmp_path: Path) -> None:
    assert sweep(bigquery, tmp_path, 1, lambda call: "store.record" in call, sized(30, 1)) > 5


@pytest.mark.skipif(EVERY != 1, reason="each run of it takes seconds: `make test-long`")
def test_calls_on_bigquery(stage: Stage, tmp_path: Path) -> None:
    assert sweep(bigquery, tmp_path, 2, lambda call: call.startswith("daemon "), 8) > 300
