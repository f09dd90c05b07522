"""A daemon's part in following: the real route, repairs and names of failures; the world finds what the lister would find."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from sts_manager.domain.model import PrefixJob
from sts_manager.domain.names import OperationName, Prefix
from sts_manager.ports import JobStore
from sts_manager.routes.event_driven.route import FollowRoute
from sts_manager.routes.event_driven.setup import Mending
from sts_manager.routes.sts.repairs import Behind, Compared, NotCompared, NothingCompared, Repairs, Wanted
from sts_manager.routes.sts.route import StsClient
from sts_manager.routes.sts.spec import TransferSettings
from sts_manager.routes.url_list.followed_failures import FollowedFailures, Means
from tests.simulation.buckets import SINK
from tests.simulation.following import Following
from tests.simulation.timeline import START, Process

COMPARING_S = 300.0
TRIES_MAX = 3


class SimComparisons(FollowedFailures):
    """What the service names is found by the real code; the lister's part takes its time, and may not be had at all."""

    def __init__(
        self, following: Following, settings: TransferSettings, host: str, store: Callable[[], JobStore], process: Process
    ):
        sinks = SimpleNamespace(source=settings.source, sink=settings.sink)
        means = Means(
            finds=lambda: True,
            ledger=_no_ledger,
            known_ledger=lambda: None,
            keep=lambda: None,
            logged=lambda _project, _operation: {},
            open_store=store,
        )
        super().__init__(sinks, means, process.clock)  # type: ignore[arg-type]
        self._following, self._host = following, host

    def compare(self, wanted: Wanted) -> Compared | None:
        following, key = self._following, (self._host, str(wanted.name))
        now = following.world.timeline.now
        if key not in following.comparisons:
            if hash_share(wanted.name) < 0.4:
                raise NotCompared("listings cannot be compared on this machine")
            following.comparisons[key] = (now, None)
            return None
        began, found = following.comparisons[key]
        if found is None and now - began >= COMPARING_S:
            found = self._find(wanted)
            following.comparisons[key] = (began, found)
        return found

    def _find(self, wanted: Wanted) -> Compared:
        moves = self._following.moves
        until = self._following.world.timeline.now if wanted.before is None else (wanted.before - START) / timedelta(seconds=1)
        keys = [key for key in moves.missing(moves.under(list(wanted.prefixes))) if moves.changed_at.get(key, 0.0) <= until]
        manifest = f"gs://{SINK}/.{self._host}/{wanted.name}.csv"
        moves.manifests[manifest] = tuple(keys)
        behind: Mapping[Prefix, Behind] = {
            prefix: Behind(objects=len(under), example=under[0])
            for prefix in wanted.prefixes
            if (under := [key for key in keys if key.startswith(prefix)])
        }
        return Compared(manifest=manifest, behind=behind)


def hash_share(name: str) -> float:
    """A number in [0, 1) that goes with a name, in whichever process."""
    return random.Random(name).random()


def _no_ledger() -> Any:
    raise AssertionError("nothing is listed here")


def follow_route(
    following: Following | None,
    clients: Mapping[str, StsClient],
    settings: TransferSettings,
    process: Process,
    host: str,
    store: JobStore,
) -> tuple[FollowRoute, Mending, bool]:
    """(the route; what is done after each look; whether this daemon knows the queue)."""
    queue = "" if following is None else following.queue_of(process)

    def row_of(name: OperationName) -> PrefixJob | None:
        return next((job for job in store.live() if job.operation_name == name), None)

    comparisons: Any = NothingCompared()
    if following is not None and following.follows:
        comparisons = SimComparisons(following, settings, host, lambda: _Open(store), process)
    repairs = Repairs(settings, comparisons, process.clock, tries_max=TRIES_MAX, retry_delay=timedelta(minutes=1))
    route = FollowRoute(
        clients, settings, queue, process.clock, repairs, row_of, lambda prefix: [event.job for event in store.history(prefix)]
    )
    return route, Mending(route), bool(queue)


class _Open:
    """The store, which whoever opens it may close."""

    def __init__(self, store: JobStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def close(self) -> None:
        pass
