"""From settings to the worker pool's objects; none of them is made before a prefix travels that way."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

from cdn_worker.domain.errors import BadInput as WorkerBadInput
from cdn_worker.ports import Queues, QueueUnavailable
from cdn_worker.queues.factory import SQLITE, open_queues
from sts_manager.clock import SystemClock
from sts_manager.domain.errors import BadInput, Permanent, Retryable, StoreUnavailable
from sts_manager.domain.location import Scheme, places_of
from sts_manager.domain.model import OperationSnapshot, StartJob
from sts_manager.domain.names import OperationName
from sts_manager.ports import JobStore, Started
from sts_manager.routes.local.lifecycle import OwnRoute
from sts_manager.routes.local.supervisor import Crew
from sts_manager.routes.pool.allow_list import AllowList, Buckets
from sts_manager.routes.pool.controller import PoolKeeper, Told
from sts_manager.routes.pool.copy_spec import beside_store, cdn_words, pool_settings
from sts_manager.routes.pool.leading import take_over
from sts_manager.routes.pool.ledger import PoolLedger
from sts_manager.routes.pool.route import CdnRoute
from sts_manager.settings import Settings

LOAD_ROWS, LOAD_EVERY_S = 1_000_000, 90.0
"""1,500 load jobs a table and day (BigQuery, quotas): so many lines are 1,400 million objects in a day."""
log = logging.getLogger(__name__)


def queue_address(settings: Settings) -> str:
    return settings.queue or f"{SQLITE}{beside_store(settings, 'queue')}"


def ledger_path(settings: Settings) -> Path:
    return Path(settings.pool_ledger) if settings.pool_ledger else beside_store(settings, "pool")


def worker_words(settings: Settings) -> list[str]:
    """How the daemon starts its worker: what follows `cdn-worker`, but for its buckets; nothing with --workers 0."""
    count = os.cpu_count() or 1 if settings.workers is None else settings.workers
    if not count:
        return []
    words = ["run", "--queue", queue_address(settings), "--processes", str(count), "--lease", f"{settings.queue_lease:g}"]
    words += cdn_words(settings)
    words += ["--state", str(beside_store(settings, "worker").with_suffix(".resume"))]
    words += ["--object-ledger"] if settings.object_ledger else []
    return words


@dataclass(frozen=True, slots=True)
class _Parts:
    queues: Queues
    ledger: PoolLedger
    route: CdnRoute

    def busy(self) -> bool:
        return self.ledger.busy()

    def close(self) -> None:
        self.queues.close()
        self.ledger.close()


class Pool(OwnRoute[_Parts]):
    """The route `cdn`, and what keeps it going while this daemon leads (as a context)."""

    name, waits = "pool", "prefixes on route cdn wait"

    def __init__(self, settings: Settings, open_store: Callable[[], JobStore]) -> None:
        super().__init__(ledger_path(settings), open_store)
        self._settings = settings
        self.fence: Callable[[], int] | None = None  # the epoch of the lease, for whoever leads
        self.leads: Callable[[], bool] = lambda: True
        self._keeper: PoolKeeper | None = None
        words = worker_words(settings)
        own = Buckets.of([(settings.source.bucket, settings.sink.bucket)])
        self._allows = AllowList(words, own, self._buckets_of_rows) if words else None

    def _told(self) -> Told:
        if self._settings.bigquery is None:
            return Told(store=self._own_store)
        return Told(store=self._own_store, objects_at_once=LOAD_ROWS, objects_every_s=LOAD_EVERY_S)

    def catch_up(self) -> None:
        """For one pass without threads or workers: take in what was reported, post what changed. Nothing where no pool is."""
        parts = self._known()
        if parts is not None:
            self._lead(parts)
            self._keeper_of(parts, None).catch_up()

    def has_news(self) -> bool:
        """Whether something came up since that the next pass should look at soon."""
        keeper = self._keeper
        news = keeper is not None and keeper.news
        if keeper is not None:
            keeper.news = False
        return news

    def open(self) -> None:
        """Open queue and ledger now, so that what is wrong with them is told before anything begins. Raises BadInput."""
        self._made()

    # The route

    def start(self, order: StartJob) -> Started:
        wanted = pool_settings(self._settings, order, "cdn")  # before anything is made for it
        try:
            self._keep()
            if self._allows is not None:
                self._allows.admit(Buckets.of([(wanted.source.bucket, wanted.sink.bucket)]))
            return self._made().route.start(order)
        except BadInput as error:
            raise Permanent(f"route cdn is not to be had: {error}", code="ROUTE_UNFIT") from error

    def operations(self, names: Sequence[OperationName]) -> Mapping[OperationName, OperationSnapshot]:
        try:
            self._keep()
            return self._made().route.operations(names)
        except BadInput as error:
            raise Retryable(f"the pool cannot be asked: {error}") from error

    def pause(self, name: OperationName) -> None:
        self._made().route.pause(name)

    def resume(self, name: OperationName) -> None:
        self._made().route.resume(name)

    def _make(self) -> _Parts:
        try:
            queues = open_queues(queue_address(self._settings), lease_s=self._settings.queue_lease)
        except WorkerBadInput as error:
            raise BadInput(str(error)) from error
        for told in queues.warnings:
            log.warning("queue", extra={"fields": {"cause": told}})
        try:
            self._bind(queues)
            ledger = PoolLedger(ledger_path(self._settings))
        except BaseException:
            queues.close()  # it is tried again at each pass: the connections of each try would add up
            raise
        clock = SystemClock()
        route = CdnRoute(queues, ledger, lambda order: pool_settings(self._settings, order, "cdn"), clock)
        return _Parts(queues, ledger, route)

    def _bind(self, queues: Queues) -> None:
        """Raises BadInput when these queues are another migration's: each would take the other's reports."""
        ours = self._own_store().control().migration
        try:
            theirs = queues.board.bind(ours)
        except QueueUnavailable as error:
            raise StoreUnavailable(str(error)) from error
        if theirs != ours:
            raise BadInput(
                f"--queue {queue_address(self._settings)} is the queue of migration {theirs}, and "
                f"{self._settings.store_shown} is migration {ours}: give this one a --queue of its own, or delete that one, "
                "if its migration is over"
            )

    def _lead(self, parts: _Parts) -> None:
        if self.fence is not None:
            take_over(parts.ledger, self._own_store(), self.fence(), SystemClock().now())

    def _keep_going(self, parts: _Parts, leading: ExitStack) -> None:
        self._lead(parts)
        crew = None if self._allows is None else self._allows.crew(Buckets.of(parts.ledger.buckets()))
        self._keeper = self._keeper_of(parts, crew)
        leading.enter_context(self._keeper)

    def _buckets_of_rows(self) -> Buckets:
        """From whichever thread starts a prefix, so with a store that is opened for it. Raises StoreUnavailable."""
        ours, found = (self._settings.source, self._settings.sink), []
        with closing(self._open_store()) as store:
            for own in store.own_places():
                with suppress(ValueError):  # no place; it is refused when its row starts
                    source, sink = places_of(*own, otherwise=ours)
                    if source.scheme is Scheme.S3:
                        found.append((source.bucket, sink.bucket))
        return Buckets.of(found)

    def _keeper_of(self, parts: _Parts, crew: Crew | None) -> PoolKeeper:
        fence = self.fence or (lambda: 0)
        return PoolKeeper(parts.queues, parts.ledger, SystemClock(), crew, self._told(), leading=self.leads, epoch=fence)
