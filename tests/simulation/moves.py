"""What operations of the transfer service do with objects, in worlds where objects change: each has a version, and no bytes.

A one-time operation lists what it is to move and takes the objects one after the other. One of a job with an event stream takes
what the queue tells it, until its time is over.
"""

from __future__ import annotations

import random
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.simulation.buckets import SOURCE
from tools.emulators.sts.copier import Counts, Status
from tools.emulators.sts.service import Operation

if TYPE_CHECKING:
    from tests.simulation.transfers import Transfers

SIZE = 1000
AT_A_STEP = 3
WHOLE, IN_PART, AS_A_WHOLE, DENIED = range(4)


@dataclass
class _Run:
    """A one-time operation: what it has listed and not taken yet, and how it is to end."""

    todo: list[str]
    how: int
    fails: frozenset[str] = frozenset()


@dataclass
class Moves:
    """`source`, `sink`: versions by key; `changed_at`: the time of the last change of each.

    failed      by followed job, what failed in its operations
    manifests   the keys of each manifest, by its address
    """

    transfers: Transfers
    source: dict[str, int] = field(default_factory=dict)
    sink: dict[str, int] = field(default_factory=dict)
    changed_at: dict[str, float] = field(default_factory=dict)
    failed: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    manifests: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _runs: dict[str, _Run] = field(default_factory=dict)

    def change(self, key: str) -> None:
        """An object is written, and S3 tells the queue of it."""
        self.source[key] = self.source.get(key, 0) + 1
        self.changed_at[key] = self.transfers.timeline.now
        self.transfers.ledger.events.setdefault(SOURCE, deque()).append(key)

    @property
    def untold(self) -> int:
        """How many events wait in the queue."""
        return len(self.transfers.ledger.events.get(SOURCE, ()))

    def under(self, prefixes: list[str]) -> list[str]:
        return sorted(key for key in self.source if key.startswith(tuple(prefixes)))

    def missing(self, keys: set[str] | list[str]) -> list[str]:
        """Which of them are not at the sink as they are at the source."""
        return sorted(key for key in keys if self.sink.get(key) != self.source.get(key))

    def progress(self, operation: Operation, draw: random.Random, fail: float) -> bool:
        """Go on with an operation that is in progress; whether it has come to its end."""
        if operation.work.events is not None:
            return self._follow(operation, draw, fail)
        return self._go_through(operation, draw, fail)

    # Event streams

    def _follow(self, operation: Operation, draw: random.Random, fail: float) -> bool:
        work, chance = operation.work, self.transfers.chance
        assert work.events is not None
        prefixes = tuple(work.spec.object_conditions.include_prefixes)
        for _ in range(0 if work.closing else draw.randint(0, AT_A_STEP)):
            key = work.events()
            if key is None or not key.startswith(prefixes):
                continue
            _add(work.counts, "found")
            if draw.random() < fail:
                chance.count("followed object failed", key)
                self.failed[operation.job].add(key)
                _add(work.counts, "failed")
                work.fail("UNAVAILABLE", f"s3://{SOURCE}/{key}", "the source was away")
            else:
                self._take(operation, key)
        if draw.random() < fail / 100:
            chance.count("followed operation failed", operation.name)
            key = work.events()
            if key is not None and key.startswith(prefixes):
                self.failed[operation.job].add(key)  # it was at that one, and nobody counts it
            work.fail("INTERNAL", f"s3://{SOURCE}", "an internal error")
            work.status = Status.FAILED
            return True
        if not work.closing or draw.random() < 0.5:
            return False
        chance.count("followed day ended", operation.name)
        told = self.transfers.ledger.setting("sts.failed_objects_end")
        work.status = Status[told] if work.counts.failed[0] else Status.SUCCESS
        return True

    # One-time operations

    def _go_through(self, operation: Operation, draw: random.Random, fail: float) -> bool:
        run = self._runs.get(operation.name)
        if run is None:
            run = self._runs[operation.name] = self._list(operation, draw, fail)
        work = operation.work
        if run.how == DENIED:
            work.status = Status.FAILED
            work.fail("PERMISSION_DENIED", f"s3://{SOURCE}", "the role may not read the bucket")
            return True
        for key in run.todo[:AT_A_STEP]:
            if key in run.fails:
                _add(work.counts, "failed")
                work.fail("UNAVAILABLE", f"s3://{SOURCE}/{key}", "the source was away")
            else:
                self._take(operation, key)
        del run.todo[:AT_A_STEP]
        if run.todo and run.how == AS_A_WHOLE:
            work.status = Status.FAILED
            work.fail("INTERNAL", f"s3://{SOURCE}", "an internal error")
            return True
        if run.todo or draw.random() < 0.7:
            return False
        work.status = Status.SUCCESS
        if work.counts.failed[0]:
            work.status = Status[self.transfers.ledger.setting("sts.failed_objects_end")]
        return True

    def _list(self, operation: Operation, draw: random.Random, fail: float) -> _Run:
        spec, chance = operation.work.spec, self.transfers.chance
        if "transfer_manifest" in spec:
            keys = list(self.manifests[spec.transfer_manifest.location])
        else:
            keys = self.under(list(spec.object_conditions.include_prefixes))
        how = draw.randint(IN_PART, DENIED) if draw.random() < fail else WHOLE
        if how == IN_PART and not keys:
            how = WHOLE
        if how != DENIED:
            for _ in keys:
                _add(operation.work.counts, "found")
        if how != WHOLE:
            name = {IN_PART: "objects failed", AS_A_WHOLE: "operation failed", DENIED: "operation denied"}[how]
            chance.count(name, operation.name)
        fails = frozenset(draw.choices(keys, k=2)) if how == IN_PART else frozenset[str]()
        return _Run(keys, how, fails)

    def _take(self, operation: Operation, key: str) -> None:
        version = self.source[key]
        _add(operation.work.counts, "skipped" if self.sink.get(key) == version else "copied")
        self.sink[key] = version


def _add(counts: Counts, name: str) -> None:
    counter = getattr(counts, name)
    counter[0] += 1
    counter[1] += SIZE
