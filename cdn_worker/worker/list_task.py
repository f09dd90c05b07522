"""A list task at work: pages of a shard become copy tasks, what remains becomes shards of its own, and a report tells both."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from cdn_worker.domain.budget import is_huge
from cdn_worker.domain.ranges import KeyRange
from cdn_worker.domain.verdict import GOOD, KeyVerdict, Verdict
from cdn_worker.listing.diff import Planned, Planner
from cdn_worker.object_copy.commands import Task
from cdn_worker.protocol.codec import encoded
from cdn_worker.protocol.messages import (
    Child,
    CopyReport,
    CopyTask,
    Counts,
    Item,
    ListFailed,
    ListReport,
    ListTask,
    child_of,
    counts_of,
    failures_of,
    ledgered,
)
from cdn_worker.worker.job_context import Desk
from cdn_worker.worker.queue_client import Claim, Parcel

REPORTED_TOGETHER = 500
CODES = {"listing_refused": "PERMISSION_DENIED", "listing_missing": "NOT_FOUND", "listing_busy": "UNAVAILABLE"}
BUSY_MAX = 5
"""Deliveries of a list task whose listing nobody answers as it should (each tries ten times, in minutes)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much goes into one message, and how many pages into one list task: an item of work is minutes, not hours."""

    keys: int = 50
    bytes: int = 64 << 20
    pages: int = 20


class Listing:
    """One list task. `send` takes the parcels; the last one acknowledges the claim. ledger: good objects are reported too.

    spoiled   says whether it came to nothing (with this code) by what meets everything alike here
    """

    def __init__(
        self,
        claim: Claim,
        task: ListTask,
        desk: Desk,
        sizes: Sizes,
        *,
        send: Callable[[Parcel], None],
        full: Callable[[], bool],
        spoiled: Callable[[str], bool],
        ledger: bool,
    ) -> None:
        self._spoiled = spoiled
        self.claim, self.task, self.desk = claim, task, desk
        self._sizes, self._send, self._ledger = sizes, send, ledger
        self._run = secrets.token_hex(6)
        self._sequence = 0
        self._batch: list[Item] = []
        self._batch_bytes = 0
        self._settled: list[KeyVerdict] = []
        self._skipped: dict[str, list[int]] = {}
        self._kept = Parcel()
        self._planner = Planner(desk.player, desk.ground(), deliver=self._deliver, full=full, lanes=1, pages_max=sizes.pages)

    def begin(self) -> None:
        if self.task.keys:
            self._planner.begin_keys(self.task.keys)
        else:
            self._planner.begin(KeyRange(self.task.after, self.task.until))

    @property
    def listed(self) -> int:
        return self._planner.listed

    def ended(self) -> bool:
        """Send what is ready. Whether the task has come to its end."""
        desk = self.desk
        if desk.wrong is not None:
            self._planner.stop()
        if not self._planner.idle:
            if desk.tried:
                self._flush()
            return False
        if self._planner.error is not None:
            self._fail(self._planner.error.code, str(self._planner.error))
            return True
        return self._close()

    def _deliver(self, planned: list[Planned]) -> None:
        for one in planned:
            if isinstance(one, Task):
                self.desk.try_with(one)
                item = Item(one.key, one.size, one.etag, one.modified, one.generation)
                if is_huge(one.size):
                    self._kept.huge.append(encoded(self._task_of([item])))
                    continue
                self._batch.append(item)
                self._batch_bytes += one.size
                if len(self._batch) >= self._sizes.keys or self._batch_bytes >= self._sizes.bytes:
                    self._close_batch()
            elif one.verdict in GOOD and not self._ledger:
                seen = self._skipped.setdefault(one.verified.value, [0, 0])
                seen[0] += 1
                seen[1] += one.size
            else:
                self._settled.append(one)
                if len(self._settled) >= REPORTED_TOGETHER:
                    self._close_settled()

    def _close_batch(self) -> None:
        if self._batch:
            self._kept.copies.append(encoded(self._task_of(self._batch)))
            self._batch, self._batch_bytes = [], 0

    def _task_of(self, items: list[Item]) -> CopyTask:
        return CopyTask(spec=self.task.spec, shard=self.task.shard, run=self._run, sequence=self._numbered(), items=tuple(items))

    def _close_settled(self) -> None:
        """Keys that have their verdict already are reported as a task of the run would be."""
        if self._settled:
            report = CopyReport(
                job=self.task.spec.job,
                shard=self.task.shard,
                run=self._run,
                sequence=self._numbered(),
                counts=counts_of(self._settled),
                failures=failures_of(self._settled),
                objects=ledgered(self._settled) if self._ledger else (),
                **self.task.spec.mark,
            )
            self._kept.reports.append(encoded(report))
            self._settled = []

    def _numbered(self) -> int:
        self._sequence += 1
        return self._sequence - 1

    def _flush(self) -> None:
        if self._kept.copies or self._kept.huge or self._kept.reports:
            kept, self._kept = self._kept, Parcel()
            self._send(kept)

    def _close(self) -> bool:
        """Send the last parcel. False: the canary is still out. One that no object of this shard could be is not waited for."""
        self._close_batch()
        if (self._kept.copies or self._kept.huge) and self.desk.trying:
            return False
        if self.desk.wrong is not None:
            self._fail(*self.desk.wrong)
            return True
        self._close_settled()
        self._flush()
        spec, shard = self.task.spec, self.task.shard
        children = [
            Child(shard=child_of(shard, self._run, index), after=one.after, until=one.until)
            for index, one in enumerate(self._planner.rest)
        ]
        tasks = [ListTask(spec=spec, shard=one.shard, after=one.after, until=one.until) for one in children]
        skipped = Verdict.SKIPPED.value
        counts = Counts(
            objects={skipped: sum(one[0] for one in self._skipped.values())} if self._skipped else {},
            bytes={skipped: sum(one[1] for one in self._skipped.values())} if self._skipped else {},
            verified={level: one[0] for level, one in self._skipped.items()},
        )
        report = ListReport(
            job=spec.job,
            shard=shard,
            run=self._run,
            listed=self._planner.listed,
            listed_bytes=self._planner.bytes_listed,
            tasks=self._sequence,
            counts=counts,
            children=tuple(children),
            **spec.mark,
        )
        self._send(Parcel(lists=[encoded(one) for one in tasks], reports=[encoded(report)], done=[self.claim]))
        return True

    def _fail(self, code: str, why: str) -> None:
        if self._spoiled(code):
            self._send(Parcel(given_back=[self.claim]))
            return
        if code == "listing_busy" and self.claim.lease.attempt < BUSY_MAX:
            # It may pass: another try, some time later, but not for ever.
            self._send(Parcel(failed=[self.claim]))
            return
        named = CODES.get(code, code)
        spec = self.task.spec
        failed = ListFailed(job=spec.job, shard=self.task.shard, code=named, why=why[:4000], **spec.mark)
        self._send(Parcel(reports=[encoded(failed)], done=[self.claim]))
