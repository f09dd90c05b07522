"""A job store in memory, for the simulation. Held by the same conformance suite as the SQL store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from itertools import islice
from types import MappingProxyType

from sts_manager.domain.errors import LeaseLost
from sts_manager.domain.model import (
    COUNTED_BY_SERVICE,
    EMPTY,
    LIVE,
    Chosen,
    Counters,
    FailedObject,
    Hold,
    JobStatus,
    KnownObject,
    Limit,
    PrefixJob,
    Route,
)
from sts_manager.domain.names import JobName, Prefix
from sts_manager.domain.pacing import is_due
from sts_manager.domain.service_answers import ServiceAnswers
from sts_manager.ports import Batch, Control, ErrorGroup, HistoryRow, LeftBehind, Loaded, PrefixClash
from sts_manager.stores.lease import epoch_of


class MemoryStore:
    def __init__(self) -> None:
        self.rows: dict[Prefix, PrefixJob] = {}
        self.events: list[HistoryRow] = []
        self._control = Control(migration="0badcafe")
        self._lease: str | None = None
        self.batches = 0
        self.failed: list[FailedObject] = []
        self.known: dict[tuple[Prefix, str], KnownObject] = {}

    def counts(self) -> Mapping[JobStatus, int]:
        return {status: sum(job.status is status for job in self.rows.values()) for status in JobStatus}

    def live(self) -> tuple[PrefixJob, ...]:
        return tuple(job for _, job in sorted(self.rows.items()) if job.status in LIVE)

    def startable(self, now: datetime, most: Mapping[Limit, int], default: Route) -> tuple[PrefixJob, ...]:
        left = dict(most)
        found = []
        for job in sorted(self.rows.values(), key=lambda job: (job.attempt, job.prefix)):
            limit = Limit.of(job.route or default)
            if job.status is JobStatus.WAITING and is_due(job.not_before, now) and left.get(limit, 0) > 0:
                left[limit] -= 1
                found.append(job)
        return tuple(found)

    def record(self, batch: Batch) -> frozenset[Prefix]:
        if batch.fence is not None and (self._lease is None or epoch_of(self._lease) != batch.fence):
            raise LeaseLost("another daemon took over this store")
        self.batches += 1
        stale = set()
        for change in batch.changes:
            stored = self.rows.get(change.before.prefix)
            if stored is None or stored.generation != change.before.generation:
                stale.add(change.before.prefix)
                continue
            after = replace(change.after, last_updated=batch.at)
            self.rows[after.prefix] = after
            self.events.append(HistoryRow(job=after, timestamp=batch.at, operation_results=change.results))
        if batch.writes_state:
            self._control = replace(self._control, breaker=batch.breaker, report=batch.report)
        return frozenset(stale)

    def control(self) -> Control:
        return self._control

    def set_hold(self, hold: Hold | None) -> None:
        self._control = replace(self._control, hold=hold)

    def note_ledger(self, ledger: str, fence: int | None) -> None:
        if fence is not None and (self._lease is None or epoch_of(self._lease) != fence):
            raise LeaseLost("another daemon took over this store")
        self._control = replace(self._control, ledger=ledger)

    def set_answers(self, answers: ServiceAnswers | None) -> None:
        self._control = replace(self._control, answers=answers)

    def bind(self, source: str, sink: str) -> Control:
        if not self._control.source or not any(job.attempt for job in self.rows.values()):
            self._control = replace(self._control, source=source, sink=sink)
        return self._control

    def load(
        self,
        prefixes: Sequence[Prefix],
        at: datetime,
        progress: Callable[[int], None],
        chosen: Mapping[Prefix, Chosen] = MappingProxyType({}),
    ) -> Loaded:
        new = [prefix for prefix in prefixes if prefix not in self.rows]
        for prefix in new:
            own = chosen.get(prefix, Chosen())
            self.rows[prefix] = PrefixJob(
                prefix=prefix, last_updated=at, route=own.route, source=own.source, destination=own.destination, egress=own.egress
            )
        progress(len(prefixes))
        return Loaded(added=len(new), present=len(prefixes) - len(new))

    def prefixes(self) -> Iterator[Prefix]:
        return iter(sorted(self.rows))

    def own_destinations(self) -> Iterator[tuple[Prefix, str]]:
        return iter([(prefix, self.rows[prefix].destination) for prefix in sorted(self.rows) if self.rows[prefix].destination])

    def own_places(self) -> Iterator[tuple[str, str]]:
        return iter({(row.source, row.destination) for row in self.rows.values() if row.source or row.destination})

    def clashes(self, prefixes: Sequence[Prefix], limit: int) -> tuple[PrefixClash, ...]:
        def found() -> Iterator[PrefixClash]:
            for prefix in prefixes:
                for stored in sorted(self.rows):
                    if stored != prefix and (stored.startswith(prefix) or prefix.startswith(stored)):
                        yield PrefixClash(prefix=prefix, stored=stored)
                        break

        return tuple(islice(found(), limit))

    def job(self, prefix: Prefix) -> PrefixJob | None:
        return self.rows.get(prefix)

    def jobs_named(self, names: Collection[JobName]) -> Mapping[JobName, PrefixJob]:
        return {job.job_name: job for job in self.rows.values() if job.job_name is not None and job.job_name in names}

    def with_status(self, status: JobStatus) -> Iterator[PrefixJob]:
        return iter(sorted((job for job in self.rows.values() if job.status is status), key=lambda job: job.prefix))

    def history(self, prefix: Prefix) -> Iterator[HistoryRow]:
        return iter([event for event in self.events if event.job.prefix == prefix])

    def put_failures(self, prefix: Prefix, failures: Sequence[FailedObject], at: datetime) -> None:
        self.failed = [one for one in self.failed if one.prefix != prefix] + list(failures)

    def failures(self, prefix: Prefix | None, limit: int) -> tuple[FailedObject, ...]:
        found = [one for one in self.failed if prefix is None or one.prefix == prefix]
        return tuple(sorted(found, key=lambda one: (one.prefix, one.key))[:limit])

    def put_objects(self, objects: Iterable[KnownObject], at: datetime) -> None:
        self.known |= {(one.prefix, one.key): one for one in objects}

    def objects(self, prefix: Prefix, limit: int) -> tuple[KnownObject, ...]:
        return tuple(one for key, one in sorted(self.known.items()) if key[0] == prefix)[:limit]

    def error_groups(self, limit: int) -> tuple[ErrorGroup, ...]:
        groups: dict[tuple[JobStatus, str], list[PrefixJob]] = {}
        for _, job in sorted(self.rows.items()):
            if job.error_code and (job.status is not JobStatus.DONE or job.error_code == EMPTY):
                groups.setdefault((job.status, job.error_code), []).append(job)
        ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0][1], item[0][0]))
        return tuple(
            ErrorGroup(status=status, code=code, prefixes=len(jobs), example=jobs[0].prefix, message=jobs[0].error_message)
            for (status, code), jobs in ordered[:limit]
        )

    def left_behind(self, limit: int) -> tuple[LeftBehind, ...]:
        found: dict[Prefix, list[FailedObject]] = {}
        for one in self.failed:
            if one.prefix in self.rows and self.rows[one.prefix].status is JobStatus.DONE:
                found.setdefault(one.prefix, []).append(one)
        ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
        return tuple(
            LeftBehind(
                prefix=prefix,
                objects=len(rows),
                bytes=sum(one.size for one in rows),
                counted_by_service=any(one.error == COUNTED_BY_SERVICE for one in rows),
            )
            for prefix, rows in ordered[:limit]
        )

    def totals(self) -> Counters:
        jobs = self.rows.values()
        return Counters(**{one.name: sum(getattr(job.counters, one.name) for job in jobs) for one in fields(Counters)})

    def lease_text(self) -> str | None:
        return self._lease

    def swap_lease(self, old: str | None, new: str) -> bool:
        if self._lease != old:
            return False
        self._lease = new
        return True

    def close(self) -> None:
        pass
