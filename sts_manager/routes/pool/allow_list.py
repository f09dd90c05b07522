"""Which buckets the daemon's own worker takes tasks of: who may publish to the queue can name any."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from sts_manager.domain.errors import StoreUnavailable
from sts_manager.routes.local.supervisor import Crew

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Buckets:
    """Buckets of both ends, without their schemes."""

    sources: frozenset[str] = frozenset()
    sinks: frozenset[str] = frozenset()

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> Buckets:
        """Those of (source, destination) pairs."""
        known = list(pairs)
        return cls(frozenset(source for source, _ in known), frozenset(sink for _, sink in known))

    def __or__(self, other: Buckets) -> Buckets:
        return Buckets(self.sources | other.sources, self.sinks | other.sinks)

    def covers(self, other: Buckets) -> bool:
        return other.sources <= self.sources and other.sinks <= self.sinks

    def words(self) -> list[str]:
        """The flags of `cdn-worker run` that allow these buckets, and no others."""
        assert self.sources, "a worker without the flag takes tasks of any bucket"
        assert self.sinks, "as above"
        flags = (("--allow-source", self.sources), ("--allow-destination", self.sinks))
        return [word for flag, buckets in flags for bucket in sorted(buckets) for word in (flag, bucket)]


class AllowList:
    """A worker takes its list when it starts. So before a task names a bucket that the running one does not allow, that one
    drains, and the next one has the longer list: a task of ours is never refused. Safe to use from several threads.

    words     how the worker is started, but for the flags of its buckets
    first     the daemon's own buckets
    of_rows   those of all rows of the job table. Asked for ahead, so that one start serves them all; raises StoreUnavailable
    """

    def __init__(self, words: Sequence[str], first: Buckets, of_rows: Callable[[], Buckets]) -> None:
        self._words, self._of_rows = words, of_rows
        self._known = self._allowed = first
        self._crew: Crew | None = None
        self._adding, self._starting = threading.Lock(), threading.Lock()

    def crew(self, live: Buckets) -> Crew:
        """A worker that takes tasks of what is known so far. live: the buckets of tasks that may be in the queue already."""
        with self._starting:
            self._crew = Crew(self._grown(live))
            return self._crew

    def admit(self, wanted: Buckets) -> None:
        """Return once no worker of ours runs that would refuse these. What several threads ask for takes one start."""
        with self._adding:
            self._known |= wanted
        with self._starting:
            if self._crew is None or self._allowed.covers(wanted):
                return
            before = self._allowed
            words = self._grown(wanted)
            new = replace(self._allowed, sources=self._allowed.sources - before.sources, sinks=self._allowed.sinks - before.sinks)
            fields = {"new_sources": sorted(new.sources), "new_destinations": sorted(new.sinks)}
            log.info("worker_starts_anew", extra={"fields": {**fields, "effect": "it drains, and goes on with a longer list"}})
            self._crew.renew(words)

    def _grown(self, more: Buckets) -> list[str]:
        try:
            more |= self._of_rows()
        except StoreUnavailable as error:
            effect = "each of its buckets that is new when a prefix starts costs a start of the worker"
            log.warning("buckets_of_rows_unknown", extra={"fields": {"cause": str(error), "effect": effect}})
        with self._adding:
            self._known |= more
            self._allowed = self._known
        return [*self._words, *self._allowed.words()]
