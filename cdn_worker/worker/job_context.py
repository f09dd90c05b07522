"""What a worker knows of one prefix job while it has tasks of it: how it is reached, with what access, and its lane."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from datetime import datetime
from functools import partial

from cdn_worker.config import Reach
from cdn_worker.copier.process_pool import Processes
from cdn_worker.domain.errors import BadInput
from cdn_worker.domain.keys import KeyMapping
from cdn_worker.domain.listing_page import Filter
from cdn_worker.domain.verdict import KeyVerdict
from cdn_worker.http.driver import Player
from cdn_worker.http.engine import Engine
from cdn_worker.listing.diff import Ground
from cdn_worker.object_copy.cdn_probe import CANARIES_MAX, STALE_MAX, Trial, canary
from cdn_worker.object_copy.commands import Resume, Task
from cdn_worker.ports import Access
from cdn_worker.protocol.messages import JobSpec
from cdn_worker.storage.setup import s3_of, way_of
from cdn_worker.worker.shared_causes import Hope


class Desk:
    """One job's. `verdicts` gets those of its lane, with their tickets; `noted` how far large objects are, and where they go;
    `withdrawn` the tickets of what was asked back before it had begun.

    Raises BadInput when there are no credentials.
    """

    def __init__(
        self,
        spec: JobSpec,
        reach: Reach,
        engine: Engine,
        processes: Processes,
        *,
        verdicts: Callable[[list[tuple[int, KeyVerdict]]], None],
        noted: Callable[[str, Task, Resume], None],
        withdrawn: Callable[[list[int]], None],
        said: Callable[[str], None],
    ) -> None:
        self.hope = Hope()
        self.spec, self._say = spec, said
        self._engine, self._processes = engine, processes
        self._setup = reach.setup(
            spec.source_bucket,
            spec.sink_bucket,
            KeyMapping(source_root=spec.source_root, sink_root=spec.sink_root, substitutions=reach.substitutions),
            storage_class=spec.storage_class,
            kms_key=spec.kms_key,
            multipart_etags=spec.multipart_etags,
        )
        self._keyring = reach.keyring(spec.source_bucket, spec.prefix)
        self._access = self._keyring.access()
        self._bucket, self._way = s3_of(self._setup), way_of(self._setup)
        self.player = Player(engine, renew=lambda: self._renew(self._access.version))
        self._use_here(self._access)
        self.lane = processes.open(
            self._setup,
            self._access,
            verdicts=verdicts,
            noted=lambda task, resume: noted(self.place(task.key), task, resume),
            renew=self._renew,
            withdrawn=withdrawn,
        )
        self.tasks = 0
        self.used_at = time.monotonic()
        self.wrong: tuple[str, str] | None = None
        self.trying = False
        self._candidates: deque[Task] = deque()
        self._spoiled = self._stale = 0
        self.tried = not self._setup.cdn_url

    def place(self, key: str) -> str:
        """Where a key's object goes, and as what: an upload that was begun for something else is none of its."""
        name = f"{self.spec.sink_bucket}/{self._setup.mapping.sink_name(key)}"
        return " ".join(filter(None, (name, self.spec.storage_class, self.spec.kms_key)))

    def ground(self) -> Ground:
        spec = self.spec
        filters = Filter(
            storage_classes=spec.storage_classes,
            since=datetime.fromisoformat(spec.since) if spec.since else None,
            before=datetime.fromisoformat(spec.before) if spec.before else None,
        )
        return Ground(
            source=self._bucket,
            bucket=self._bucket,
            sink=self._way.sink,
            mapping=self._setup.mapping,
            prefix=spec.prefix,
            filter=filters,
            replace=spec.replace,
            backoff_s=self._setup.backoff_s,
        )

    def try_with(self, task: Task) -> None:
        """Fetch a byte of this through the CDN, once for each job: `tried` is set then, and `wrong` if it cannot be done.

        An object that cannot be read for a reason of its own says nothing of the CDN, and the next one is tried; when that goes
        for CANARIES_MAX of them, nothing is tried any more. Nor does one of which its cache may have kept an older version.
        """
        if self.tried:
            return
        if not self.trying:
            self._try(task)
        elif len(self._candidates) < CANARIES_MAX:
            self._candidates.append(task)

    def _try(self, task: Task) -> None:
        self.trying = True
        self.player.play(canary(task, self._way, self._setup.cdn_url), self._told)

    def _told(self, trial: Trial) -> None:
        self._spoiled += trial.spoiled or trial.stale
        self._stale += trial.stale
        if (trial.spoiled and self._spoiled < CANARIES_MAX) or (trial.stale and self._stale < STALE_MAX):
            self.trying = False
            if self._candidates:
                self._try(self._candidates.popleft())
            return
        self._candidates.clear()
        self.wrong, self.tried, self.trying = trial.wrong, True, False

    def stay_signed(self) -> None:
        if self._keyring.due(self._access):
            self._hand_round(self._made_anew(self._keyring.access))

    def close(self) -> None:
        self._processes.close_lane(self.lane)

    def _renew(self, refused: int) -> None:
        access = self._made_anew(partial(self._keyring.renewed, refused))
        if access is not self._access or not self._keyring.awaited:
            self._hand_round(access)

    def _made_anew(self, make: Callable[[], Access | None]) -> Access:
        try:
            return make() or self._access
        except BadInput as error:
            self._say(f"access could not be renewed, and the old one is used on: {error}")
            return self._access

    def _hand_round(self, access: Access) -> None:
        self._access = access
        self._use_here(access)
        self._processes.use(self.lane, access)
        self._engine.after(0, self.player.go_on)

    def _use_here(self, access: Access) -> None:
        for side in (self._bucket, self._way.source, self._way.sink):
            side.use(access)
