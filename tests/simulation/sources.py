"""What sources, and what stands before them, say and do that no error tells: listings, caches, archives; and rows that collide.

A world calls `happen` now and then while the storm lasts, and `calm` when it is over.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from cdn_worker.domain.metadata import SOURCE_ETAG
from sts_manager import admin
from sts_manager.domain.errors import BadInput
from sts_manager.domain.model import Chosen, JobStatus, Route
from sts_manager.domain.names import Prefix
from tests.simulation.buckets import SINK, etag_of

if TYPE_CHECKING:
    from tests.simulation.world import World

HOUR = 3600.0
ARCHIVES, STALE = 0.3, 0.3
"""The shares of worlds with objects in an archive, and of changes that a cache does not know of."""


@dataclass
class Sources:
    """Of one world: chance of its own, so that the course of everything else stays what it was."""

    world: World

    def __post_init__(self) -> None:
        self.draw = random.Random(f"sources {self.world.seed}")

    def load(self) -> None:
        """Some objects are in an archive, and of some a cache keeps what was there before."""
        draw, buckets = self.draw, self.world.buckets
        keys = sorted(buckets.objects)
        if keys and draw.random() < ARCHIVES:
            buckets.archived = set(draw.choices(keys, k=draw.randint(1, 3))) - buckets.tiered
        for key in keys:
            if draw.random() < STALE / 5:
                self.change(key, draw.randbytes(len(buckets.objects[key]) + draw.choice([0, 0, 1])))

    def change(self, key: str, before: bytes) -> None:
        """An object has replaced another one: for some hours a cache may go on with that."""
        if self.draw.random() >= STALE:
            return
        world, cached = self.world, self.world.buckets.cached
        world.chance.count("cache is stale", key)
        cached[key] = before
        world.timeline.after(self.draw.uniform(600, 24 * HOUR), partial(self._expire, key))

    def _expire(self, key: str) -> None:
        self.world.buckets.cached.pop(key, None)

    # What happens

    def happen(self) -> None:
        world, draw, buckets = self.world, self.draw, self.world.buckets
        if not world.chance.storming:
            return
        match draw.randrange(6):
            case 0:
                self._load_colliding_rows()
            case 1:
                world.chance.count("ledger full")
                world.chance.full.add("ledger")
                world.timeline.after(draw.uniform(60, 1800), self._make_room)
            case 2 | 3 if buckets.archived:
                world.chance.count("restored")
                buckets.restored |= set(draw.choices(sorted(buckets.archived), k=2))
            case 4 if buckets.restored:
                world.chance.count("restored copy gone")
                buckets.restored.discard(draw.choice(sorted(buckets.restored)))

    def calm(self) -> None:
        """Whoever is told that something is archived has it restored in the end."""
        self._make_room()
        buckets = self.world.buckets
        buckets.restored = set(buckets.archived)

    def _make_room(self) -> None:
        self.world.chance.full.discard("ledger")

    def _load_colliding_rows(self) -> None:
        """Two rows that would write the same names: one beside a row that is there, or both at once."""
        world, draw = self.world, self.draw
        world.chance.count("rows that collide")
        there = sorted(prefix for prefix in world.store.rows if not prefix.startswith("sts"))
        if there and draw.random() < 0.5:
            chosen = {Prefix("late/"): Chosen(route=Route.CDN, destination=f"gs://{SINK}/{draw.choice(there)[:-1]}")}
        else:
            chosen = {
                Prefix("team/"): Chosen(route=Route.CDN, destination=f"gs://{SINK}/both"),
                Prefix("both/team/"): Chosen(route=Route.CDN),
            }
        try:
            admin.prepare(world.store, sorted(chosen), world._now(), lambda _: None, chosen)
        except BadInput:
            return
        raise AssertionError(f"rows that write the same names were loaded: {chosen}")

    def retry(self) -> None:
        """What was archived is tried again."""
        store = self.world.store
        wanted = {key for key in self.world.buckets.archived if not key.startswith("sts-")}
        rows = [job for job in store.rows.values() if job.status is JobStatus.ERROR]
        again = [job.prefix for job in rows if any(key.startswith(job.prefix) for key in wanted)]
        list(admin.retry(store, again, self.world._now()))

    # What must hold

    def truth(self) -> None:
        """What is recorded at an object of ours is never newer than its bytes (route cdn, and URL lists)."""
        done = tuple(
            job.prefix
            for job in self.world.store.rows.values()
            if job.status is JobStatus.DONE and job.route in (Route.CDN, Route.STS_URL_LIST)
        )
        wrong = [
            name
            for name, stored in self.world.buckets.store.bucket(SINK).objects.items()
            if name.startswith(done or ("-",)) and _recorded(stored.attributes.metadata) not in ("", etag_of(stored.read()))
        ]
        assert not wrong, f"called done, and recorded as a copy of something else: {wrong}"

    def compare(self) -> None:
        """Restored, and run again without faults: nothing is archived any more."""
        restored = self.world.buckets.archived
        told = {one.key: one.details for one in self.world.store.failed if one.error == "archived" and one.key in restored}
        told = {key: details for key, details in told.items() if not key.startswith("sts-")}
        assert not told, f"they were restored, and are still called archived: {told}"


def _recorded(metadata: Mapping[str, str]) -> str:
    return metadata.get(SOURCE_ETAG, "").strip('"')


FAULTS = (
    "cache is stale",
    "ledger full",
    "listing out of order",
    "listing with a key less",
    "page without keys",
    "restored",
    "restored copy gone",
    "rows that collide",
)
