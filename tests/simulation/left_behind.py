"""What transfers pass over: the service takes no archived object, and says nothing; the real comparison of the listings finds it.

Where prefixes travel by URL lists (their lister compares, too) and none is followed, those of the transfer service have objects.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from cdn_worker.protocol.messages import JobSpec
from cdn_worker.protocol.url_list_ledger import ListLedger
from sts_manager.domain.model import JobStatus, PrefixJob, Route, StartJob
from sts_manager.domain.names import Prefix
from sts_manager.ports import JobStore
from sts_manager.routes.pool.route import PoolSettings, spec_of
from sts_manager.routes.url_list.missing_objects import left_behind_of
from sts_manager.routes.url_list.setup import UrlLists as Comparer
from sts_manager.settings import Settings
from tests.simulation.buckets import MODIFIED, SINK
from tests.simulation.timeline import Process
from tools.emulators.gcs.objects import Attributes
from tools.emulators.sts.service import Operation

if TYPE_CHECKING:
    from tests.simulation.world import World

ARCHIVED = 0.15


@dataclass
class LeftBehind:
    """Of one world. `keys` of each prefix of the transfer service, where it has any."""

    world: World
    keys: dict[Prefix, list[str]] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)

    def load(self, prefixes: list[Prefix]) -> None:
        world = self.world
        if not world.lists.travels or world.following.follows:
            return
        draw = random.Random(f"left behind {world.seed}")
        for prefix in prefixes:
            keys = self.keys[prefix] = [f"{prefix}{index}" for index in range(draw.randint(1, 6))]
            world.buckets.objects |= {key: draw.randbytes(draw.randint(0, 30)) for key in keys}
            world.buckets.archived |= {key for key in keys if draw.random() < ARCHIVED}

    def bring(self, operation: Operation) -> None:
        """An operation succeeds: all is at the sink but what is in an archive, restored or not."""
        buckets = self.world.buckets
        for prefix in operation.work.spec.object_conditions.include_prefixes:
            for key in self.keys.get(Prefix(prefix), ()):
                if key not in buckets.archived:
                    buckets.store.put(SINK, key, buckets.objects[key], Attributes())

    @property
    def pending(self) -> bool:
        """Whether something is still being compared, or told."""
        ledger = self.world.lists.ledger
        if ledger is None or not self.keys:
            return False
        return bool(ledger.comparing()[0])

    def truth(self) -> None:
        """What is done, and is not at the destination, is named; or it is told that the prefix could not be compared."""
        ledger = self.world.lists.ledger
        for prefix, keys in self.keys.items():
            row = self.world.store.rows[prefix]
            if ledger is None or row.status is not JobStatus.DONE or row.job_name is None or not _told_by_time(row):
                continue
            job = ledger.job(left_behind_of(str(row.job_name), prefix))
            assert job is not None, f"{prefix!r} is done, and nobody has begun to compare it"
            named = {one.key for one in self.world.store.failed if one.prefix == prefix}
            wanted = {key for key in keys if key in self.world.buckets.archived}
            self.seen["compared" if not job.error_code else "not compared"] += 1
            if not job.error_code:
                assert named == wanted, f"{prefix!r} is done, {wanted} stayed behind, and {named or 'nothing'} is named: {job}"


def _told_by_time(row: PrefixJob) -> bool:
    """Whether the clock was right when it started: what came since is not compared."""
    return row.started_at is not None and row.started_at.isoformat() > MODIFIED


class SimComparer(Comparer):
    """The real one; the lister is a process of the world's own."""

    _blind = ""

    def __init__(self, ledger: ListLedger, pooled: PoolSettings, store: Callable[[], JobStore], process: Process) -> None:
        settings = SimpleNamespace(
            compare=True, modified_before=None, sts_find_failures=False, sts_log_failures=False, list_ledger="-", bigquery="-"
        )
        super().__init__(cast("Settings", settings), store, dict)
        self._ledger, self._pooled = ledger, pooled
        self._process = process

    def _known(self) -> _Parts:  # type: ignore[override]
        return _Parts(self._ledger)

    def _made(self) -> _Parts:  # type: ignore[override]
        return self._known()

    def _keep(self) -> None:
        pass

    def _spec_compared(self, job: PrefixJob) -> JobSpec:
        assert job.job_name is not None
        order = StartJob(prefix=job.prefix, attempt=job.attempt, job_name=job.job_name, route=Route.STS_S3)
        return spec_of(order, self._pooled)


@dataclass(frozen=True)
class _Parts:
    ledger: ListLedger
