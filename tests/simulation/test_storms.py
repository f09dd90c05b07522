"""Liveness and safety by seed. A seed that fails fails every time: put its number in a test of its own."""

from __future__ import annotations

import pytest

from tests.simulation.world import World, truthful


@pytest.mark.parametrize("seed", range(200))
def test_every_prefix_ends_once_faults_stop(seed: int) -> None:
    world = World(seed)
    world.storm(passes=60)
    world.calm(passes=100)
    assert world.all_ended, {job.prefix: (job.status, job.error_message) for job in world.store.rows.values()}
    assert truthful(world)


@pytest.mark.parametrize("seed", range(200))
def test_so_do_prefixes_that_share_transfer_jobs(seed: int) -> None:
    world = World(seed, prefixes=40, prefixes_per_job=35)
    world.storm(passes=60)
    world.calm(passes=100)
    assert world.all_ended, {job.prefix: (job.status, job.error_message) for job in world.store.rows.values()}
    assert truthful(world)


def test_a_storm_really_crashes_and_fails() -> None:
    """The simulation proves nothing if nothing ever goes wrong in it."""
    seen: set[str] = set()
    for seed in range(20):
        world = World(seed)
        world.storm(passes=60)
        seen.update(note.job.error_code for note in world.store.events if note.job.error_code)
        seen.update(note.job.status.value for note in world.store.events)
    assert {"CANCELLED", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "INTERNAL", "error", "paused"} <= seen
