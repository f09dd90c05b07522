"""`cdn-worker lists`: does the lister's part of every job in a ledger, until told to stop. One at a time for each ledger."""

from __future__ import annotations

import fcntl
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cdn_worker.config import Reach
from cdn_worker.domain.errors import BadInput
from cdn_worker.http.engine import Engine
from cdn_worker.protocol.url_list_ledger import ListLedger, is_listers
from cdn_worker.url_lists.runner import Lister, Sizes

log = logging.getLogger(__name__)

JOBS_MAX = 8
AHEAD = 32
"""Jobs that are looked for at once: there may be one for each prefix of a migration, and what is urgent comes behind these."""
LOOK_S = 0.2
AGAIN_S = 2.0
"""Until a state that did not come to its end is begun anew."""


class Listers:
    """All the jobs of a ledger that have something to list, to look at or to move."""

    def __init__(self, ledger: ListLedger, reach: Reach, sizes: Sizes, *, stopping: Callable[[], bool]) -> None:
        self._ledger, self._reach, self._sizes, self._stopping = ledger, reach, sizes, stopping
        self._engine = Engine(reach.limits)
        self._at_work: dict[str, Lister] = {}
        self._not_before: dict[str, float] = {}
        self._waiting: deque[str] = deque()
        self._look_at = 0.0

    def run(self) -> None:
        try:
            while not self._stopping():
                self._engine.turn(0.05)
                self.tend()
        finally:
            self._engine.close()

    def tend(self) -> None:
        """See who has ended, and begin what there is to do."""
        now = time.monotonic()
        for name, lister in list(self._at_work.items()):
            if lister.ended():
                del self._at_work[name]
                self._look_at = 0.0
                if lister.waits:
                    self._not_before[name] = now + AGAIN_S
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            for lister in self._at_work.values():
                lister.stay_signed()
            if not self._waiting:
                self._not_before = {name: due for name, due in self._not_before.items() if due > now}
                found = self._ledger.work(AHEAD, (*self._at_work, *self._not_before))
                self._waiting.extend(job.name for job in found)
        while self._waiting and len(self._at_work) < JOBS_MAX:
            self._begin(self._waiting.popleft())

    def _begin(self, name: str) -> None:
        job = self._ledger.job(name)
        if job is None or not is_listers(job):
            return  # it was paused, or is over, since it was looked for
        try:
            lister = Lister(job, self._ledger, self._reach, self._engine, self._sizes)
        except BadInput as error:
            log.error("no_access", extra={"fields": {"cause": str(error), "job": name}})
            self._not_before[name] = time.monotonic() + AGAIN_S
            return
        self._at_work[name] = lister
        lister.begin()


@contextmanager
def alone(path: Path, stopping: Callable[[], bool]) -> Iterator[bool]:
    """Wait until nobody else does a ledger's work; False when told to stop meanwhile."""
    with path.with_name(f"{path.name}.lister").open("w") as lock:
        while not stopping():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                time.sleep(LOOK_S)
                continue
            yield True
            return
        yield False
