"""Reads the transfer service's log of attempts that ended badly, tells the job store, and looks again while names are missing."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cdn_worker.protocol.messages import Failure
from sts_manager.domain.errors import Permanent, Retryable, StoreUnavailable, Throttled
from sts_manager.domain.model import Change, FailedObject, JobStatus, changed
from sts_manager.domain.names import OperationName, Prefix
from sts_manager.ports import Batch, Clock, JobStore
from sts_manager.routes.local.background import Keeping
from sts_manager.routes.sts.failure_log_ledger import Reading, ReadingLedger
from sts_manager.routes.sts.transfer_log import LoggedFailure, LoggedFailures

log = logging.getLogger(__name__)

LATE = timedelta(minutes=10)
"""Entries of an operation are waited for so long after its end: how late they may come is not documented."""
FIRST_WAIT, LAST_WAIT, TOO_EARLY = timedelta(seconds=5), timedelta(minutes=1), timedelta(seconds=5)
SLACK = timedelta(hours=1)
"""Our clock may be fast: where the service did not say when an operation began, older entries are searched, too."""
REST_S, LAST_S = 2.0, 1.0
"""One reading in two seconds: 60 requests a minute are a project's quota (Cloud Logging, quotas and limits)."""
AT_THE_END = 3
AT_ONCE = 20

Read = Callable[[str, OperationName, datetime], LoggedFailures]
Compared = Callable[[str], Sequence[Failure] | None]


class LogReader:
    """Nothing is made before something is wanted. A context while the daemon leads: then it reads in a thread of its own.

    read       what is logged by now of an operation of a project (empty: the first one) that began at some time
    compared   the objects that a comparison of the listings found missing after a transfer job; None while they are being found
    most       failed objects that are told of one prefix
    """

    def __init__(
        self, path: Path, read: Read, compared: Compared, open_store: Callable[[], JobStore], clock: Clock, *, most: int
    ) -> None:
        self._path, self._read, self._compared, self._most = path, read, compared, most
        self._open_store, self._clock = open_store, clock
        self._made: ReadingLedger | None = None
        self._leading: ExitStack | None = None
        self._kept = False
        self._lock = threading.RLock()
        self._warned: set[str] = set()
        self._said: dict[Prefix, tuple[str, int]] = {}

    def __enter__(self) -> Self:
        self._leading = ExitStack()
        try:
            if self._path.exists() and self._ledger().due(None) is not None:
                self._keep()  # an earlier run did not live to read it all
        except StoreUnavailable as error:
            log.error("failure_log_away", extra={"fields": {"cause": str(error)}})
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._leading is not None:
            self._leading.__exit__(kind, error, trace)
        self._leading, self._kept = None, False

    def close(self) -> None:
        if self._made is not None:
            self._made.close()
        self._made = None

    def want(self, change: Change) -> None:
        """An attempt came to a bad end: have its log read. Without a thread for that it is looked at once, at once."""
        reading = reading_of(change, self._clock.now())
        if reading is None:
            return
        with self._lock:
            self._ledger().want(reading)
        if self._leading is None:
            self._look(reading)
        else:
            self._keep()

    def forget(self, change: Change) -> None:
        """The prefix is there: what failed of an earlier attempt is of no interest any more."""
        if self._path.exists():
            with self._lock:
                self._ledger().forget(change.after.prefix)

    def catch_up(self) -> None:
        """For one pass without threads: read what is due by now."""
        for _ in range(AT_ONCE if self._path.exists() else 0):
            reading = self._ledger().due(self._clock.now())
            if reading is None:
                return
            self._look(reading)

    def read_next(self) -> bool:
        """One turn: read what is due. There is a rest after each, for the quota's sake."""
        reading = self._ledger().due(self._clock.now())
        if reading is not None:
            self._look(reading)
        return False

    def read_unread(self) -> bool:
        """Before this daemon ends: what nobody has looked at, as far as there is time."""
        for reading in self._ledger().unread(AT_THE_END):
            self._look(reading)
        return False

    def _ledger(self) -> ReadingLedger:
        with self._lock:
            if self._made is None:
                self._made = ReadingLedger(self._path, StoreUnavailable)
            return self._made

    def _keep(self) -> None:
        with self._lock:
            if self._leading is None or self._kept:
                return
            keeping = Keeping("failure_log", (self.read_next,), rest_s=REST_S)
            self._leading.callback(keeping.guarded, self.read_unread)
            self._leading.callback(keeping.end, LAST_S)
            keeping.begin()
            self._kept = True

    def _look(self, reading: Reading) -> None:
        ledger, now = self._ledger(), self._clock.now()
        compared = self._compared(reading.transfer_job)
        if compared is None:
            ledger.look_again(reading, now + TOO_EARLY, looked=False)
            return
        found = None
        try:
            found = self._read(reading.project, reading.operation, reading.since)
        except Throttled:
            ledger.look_again(reading, now + LAST_WAIT, looked=False)
            return
        except (Retryable, Permanent) as error:
            self._warn(str(error))
        if found is not None:
            self._tell(reading, found, compared)
        if found is not None and _complete(reading, found, self._most):
            self._end(reading)
        elif now >= reading.until:
            self._end(reading)
            named = 0 if found is None else len(found.objects)
            fields = {"prefix": reading.prefix, "failed": reading.expected, "named": named, "operation": reading.operation}
            log.warning("failed_objects_not_named", extra={"fields": fields})
        else:
            ledger.look_again(reading, now + min(LAST_WAIT, FIRST_WAIT * 2**reading.looks))

    def _end(self, reading: Reading) -> None:
        self._ledger().over(reading)
        self._said.pop(reading.prefix, None)

    def _warn(self, cause: str) -> None:
        """Once, although each prefix meets it at each look."""
        if cause not in self._warned:
            self._warned.add(cause)
            effect = "each object is shown with the operation's commonest cause, or not at all; it is looked for again"
            log.warning("transfer_log_not_read", extra={"fields": {"cause": cause, "effect": effect}})

    def _tell(self, reading: Reading, found: LoggedFailures, compared: Sequence[Failure]) -> None:
        if not found.objects and not found.listings:
            return
        failures, now = list(_failures(reading, found, compared))[: self._most], self._clock.now()
        told = reading.transfer_job, hash((tuple(failures), tuple(found.listings.items())))
        if self._said.get(reading.prefix) == told:
            return  # a look that found nothing more: a statement less, of which BigQuery bills ten megabytes
        with self._lock:
            if not self._ledger().wanted(reading):
                return
            with closing(self._open_store()) as store:
                store.put_failures(reading.prefix, failures, now)
                for one in found.listings.values():
                    _explain(store, reading, one, now)
            self._said[reading.prefix] = told


def reading_of(change: Change, now: datetime) -> Reading | None:
    """What is to be read of an attempt that came to an end; None where no operation had begun, so that there is no log."""
    row, seen = change.after, _seen(change.results)
    name = change.before.operation_name or row.operation_name or seen.get("name")
    if not name:
        return None
    began = seen.get("startTime")
    since = datetime.fromisoformat(began) if began else (row.started_at or now) - SLACK
    return Reading(
        prefix=row.prefix,
        transfer_job=str(row.job_name),
        operation=OperationName(name),
        project=row.project,
        since=since,
        expected=row.counters.objects_failed,
        until=now + LATE,
        next_at=now,
    )


def _seen(results: str) -> Mapping[str, Any]:
    """The operation as it was last seen."""
    try:
        found = json.loads(results or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _complete(reading: Reading, found: LoggedFailures, most: int) -> bool:
    """Whether no entry is missing: of each object that failed there is one, or of the listing where none did."""
    return len(found.objects) >= min(reading.expected, most) if reading.expected else bool(found.listings)


def _failures(reading: Reading, found: LoggedFailures, compared: Sequence[Failure]) -> Iterator[FailedObject]:
    """What is missing at the sink, each with its own cause where the log has it; without a comparison, what the log names."""
    for listing in found.listings.values():
        yield _failed(reading, replace(_failure(listing), details=f"it could not be listed: {listing.details}"))
    for one in compared:
        logged = found.objects.get(one.key)
        yield _failed(reading, one if logged is None else replace(one, error=logged.error, details=logged.details))
    for logged in found.objects.values() if not compared else ():
        yield _failed(reading, _failure(logged))


def _failure(logged: LoggedFailure) -> Failure:
    return Failure(key=logged.key, size=0, etag="", verdict="failed", error=logged.error, details=logged.details)


def _failed(reading: Reading, one: Failure) -> FailedObject:
    return FailedObject(
        prefix=reading.prefix,
        key=one.key,
        size=one.size,
        etag=one.etag,
        verdict=one.verdict,
        error=one.error,
        details=one.details,
        job_name=reading.transfer_job,
    )


def _explain(store: JobStore, reading: Reading, listing: LoggedFailure, now: datetime) -> None:
    """Let the prefix's own message say what could not be listed, unless it has gone on meanwhile."""
    row = store.job(reading.prefix)
    told = f"the service could not list {listing.key}: {listing.details}"
    if row is None or str(row.job_name) != reading.transfer_job or told in row.error_message:
        return
    if row.status in (JobStatus.ERROR, JobStatus.WAITING):
        after = replace(row, error_message=f"{told}; {row.error_message}")
        store.record(Batch(changes=(changed(row, after, now),), at=now))
