"""The copying itself: a few threads take turns at the operations in progress, one object a turn."""

from __future__ import annotations

import bisect
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from traceback import format_exc

from google.cloud import storage_transfer_v1 as sts

from tools.emulators.ledger import Ledger
from tools.emulators.sts.ends import ArchivedError, EndError, GcsSink, Listed, Source, same


class Status(IntEnum):
    """`TransferOperation.Status`, with the official numbers (a test compares them)."""

    IN_PROGRESS = 1
    PAUSED = 2
    SUCCESS = 3
    FAILED = 4
    ABORTED = 5
    QUEUED = 6
    SUSPENDING = 7


ACTIVE = (Status.IN_PROGRESS, Status.PAUSED, Status.QUEUED, Status.SUSPENDING)
SAMPLES_MAX = 5
WALK_FROM = 10
OBJECT_BYTES_MAX = 5 * 1024**4


@dataclass
class Counts:
    """The counters of one operation (objects, bytes; of what is archived and was left out: objects)."""

    found: list[int] = field(default_factory=lambda: [0, 0])
    skipped: list[int] = field(default_factory=lambda: [0, 0])
    copied: list[int] = field(default_factory=lambda: [0, 0])
    failed: list[int] = field(default_factory=lambda: [0, 0])
    glacier: int = 0
    deep_archive: int = 0


@dataclass
class Work:
    """One operation's copying: where it reads and writes, how far it got, what went wrong."""

    name: str
    spec: sts.TransferSpec
    open_ends: Callable[[], tuple[Source, GcsSink]]
    storage_classes: frozenset[str] = frozenset()  # objectConditions.includeStorageClasses, which the client's types do not have
    status: int = Status.QUEUED  # any number, so that a test can make the service say what this client does not know
    counts: Counts = field(default_factory=Counts)
    errors: dict[str, tuple[int, list[tuple[str, str]]]] = field(default_factory=dict)
    todo: Iterator[Listed] | None = None
    ends: tuple[Source, GcsSink] | None = None
    suspend_until: float = 0.0
    logged: Callable[[str | None, str, str], None] | None = None  # writes (key, None for the listing; code, message) to the log
    events: Callable[[], str | None] | None = None  # the next key that changed, for an operation that follows
    closing: bool = False  # of one that follows: it takes no more events, and ends
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def source_path(self) -> str:
        spec = self.spec
        if "http_data_source" in spec:
            return ""
        return str(spec.aws_s3_data_source.path if "aws_s3_data_source" in spec else spec.gcs_data_source.path)

    def close(self) -> None:
        """Hang up on both ends."""
        for end in self.ends or ():
            end.close()

    def fail(self, code: str, url: str, details: str) -> None:
        count, samples = self.errors.get(code, (0, []))
        if len(samples) < SAMPLES_MAX:
            samples.append((url, details))
        self.errors[code] = (count + 1, samples)


class Copier:
    """Runs `Work` until it ends; `ended` is called once for each, from a copying thread."""

    def __init__(self, ledger: Ledger, ended: Callable[[Work], None], *, threads: int = 4) -> None:
        self._ledger, self._ended = ledger, ended
        self._queue: deque[Work] = deque()
        self._ready = threading.Condition()
        self._stopping = False
        self._next_slot = 0.0
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        with self._ready:
            self._stopping = True
            self._ready.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=10)

    def reset(self) -> None:
        """Nobody's turn is taken any more."""
        with self._ready:
            self._next_slot = 0.0

    def add(self, work: Work) -> None:
        with self._ready:
            self._queue.append(work)
            self._ready.notify()

    def _run(self) -> None:
        while True:
            with self._ready:
                while not self._queue and not self._stopping:
                    self._ready.wait()
                if self._stopping:
                    return
                work = self._queue.popleft()
            try:
                again = self._turn(work)
            except Exception:  # noqa: BLE001 - a defect of the stage ends this operation, not the thread all others need
                print(f"stage: {work.name}:\n{format_exc()}", file=sys.stderr)
                work.fail("INTERNAL", work.source_path, "a defect of the stage; its log says more")
                self._end(work, Status.FAILED)
                again = False
            if again:
                self.add(work)

    def _turn(self, work: Work) -> bool:
        """One step of an operation; whether it wants another turn."""
        with work.lock:
            if work.status == Status.SUSPENDING:
                if time.monotonic() < work.suspend_until:
                    waiting = True
                else:
                    work.status, waiting = Status.PAUSED, False
            elif work.status != Status.IN_PROGRESS:
                if work.status == Status.ABORTED:
                    work.close()
                return False
            else:
                waiting = False
        if waiting:
            time.sleep(0.01)
            return True
        if work.status == Status.PAUSED:
            return False
        return self._step(work)

    def _step(self, work: Work) -> bool:
        try:
            if work.ends is None:
                work.ends = work.open_ends()
                for end in work.ends:
                    end.check()
                work.todo = iter(list(_listing(work, work.ends[0]))) if work.events is None else None
            listed = next(work.todo or iter(()), None) if work.events is None else _told(work, work.ends[0])
        except EndError as error:
            work.fail(error.code, error.url or work.source_path, error.details)
            if work.logged is not None:
                work.logged(None, error.code, error.details)
            self._end(work, Status.FAILED)
            return False
        if listed is None and work.events is not None and not work.closing:
            time.sleep(0.02)
            return True
        if listed is None:
            end_of_failed = Status[self._ledger.setting("sts.failed_objects_end")]
            self._end(work, end_of_failed if work.counts.failed[0] else Status.SUCCESS)
            return False
        self._pace(work, listed.size)
        if work.status in (Status.IN_PROGRESS, Status.SUSPENDING):
            _copy(work, work.ends, listed, self._ledger.setting("sts.archived_tiering"))
        return True

    def _end(self, work: Work, status: Status) -> None:
        work.close()
        with work.lock:
            if work.status == Status.ABORTED:
                return
            work.status = status
        self._ended(work)

    def _pace(self, work: Work, size: int) -> None:
        """Wait for this object's turn under the rates as they are set by now, as long as the operation is at work."""
        cost = self._cost(size)
        if cost <= 0:
            return
        with self._ready:
            begin = max(time.monotonic(), self._next_slot)
            end = self._next_slot = begin + cost
        while (left := self._cost(size)) > 0 and time.monotonic() < begin + left and not self._stopping:
            if work.status not in (Status.IN_PROGRESS, Status.SUSPENDING):
                break
            time.sleep(min(0.02, max(0.0, begin + cost - time.monotonic())))
        with self._ready:
            if self._next_slot == end:
                self._next_slot = min(end, time.monotonic())  # it needs no more than it took: the next one's turn is now

    def _cost(self, size: int) -> float:
        """Seconds that an object takes."""
        per_object = self._ledger.setting("sts.objects_per_second")
        per_byte = self._ledger.setting("sts.bytes_per_second")
        return (1 / per_object if per_object else 0.0) + (size / per_byte if per_byte else 0.0)


def _included(path: str, includes: list[str], source: Source) -> Iterator[Listed]:
    """Everything under some prefixes, none of which lies under another: many are looked for in one walk over the source."""
    if len(includes) <= WALK_FROM:
        for include in includes:
            yield from source.list(path + include)
        return
    for listed in source.list(path):
        at = bisect.bisect_right(includes, listed.key[len(path) :]) - 1
        if at >= 0 and listed.key.startswith(path + includes[at]):
            yield listed


def _listing(work: Work, source: Source) -> Iterator[Listed]:
    """The source objects of an operation; what is counted as found is decided when each one's turn comes."""
    conditions = work.spec.object_conditions
    if "http_data_source" in work.spec:
        conditions = sts.ObjectConditions()  # they have no effect on a URL list
    for listed in _included(work.source_path, sorted(conditions.include_prefixes) or [""], source):
        relative = listed.key[len(work.source_path) :]
        if any(relative.startswith(exclude) for exclude in conditions.exclude_prefixes):
            continue
        if conditions.last_modified_since and listed.modified < conditions.last_modified_since:
            continue
        if conditions.last_modified_before and listed.modified >= conditions.last_modified_before:
            continue
        if not _left_out(work, listed):
            yield listed


def _left_out(work: Work, listed: Listed) -> bool:
    """Whether the service passes an object over for its storage class, silently (its page filtering-by-storage-class).

    Documented: what the list of classes does not name; DEEP_ARCHIVE unless it is restored; GLACIER even if it is, unless it is
    named; the two counters. Assumed: what is not named at all is counted nowhere.
    """
    wanted, storage_class = work.storage_classes, listed.storage_class
    if wanted and storage_class not in wanted:
        return True
    if storage_class == "GLACIER" and not (listed.restored and wanted):
        work.counts.glacier += 1
        return True
    if storage_class == "DEEP_ARCHIVE" and not listed.restored:
        work.counts.deep_archive += 1
        return True
    return False


def _told(work: Work, source: Source) -> Listed | None:
    """The object of the next event, if it is still there and one of the wanted; none for one that ends."""
    with work.lock:  # an operation that was aborted meanwhile takes nothing away from the next one
        listens = work.events is not None and not work.closing and work.status == Status.IN_PROGRESS
        key = work.events() if listens and work.events is not None else None
    if key is None:
        return None
    return next((one for one in _listing(work, source) if one.key == key), None)


def _copy(work: Work, ends: tuple[Source, GcsSink], listed: Listed, archived: str) -> None:
    """Bring one object over, or count why not. archived: what becomes of one in an archive tier of Intelligent-Tiering."""
    source, sink = ends
    name = str(work.spec.gcs_data_sink.path) + listed.key[len(work.source_path) :]
    try:
        if listed.size > OBJECT_BYTES_MAX:
            raise EndError("INVALID_ARGUMENT", "the object is larger than 5 TiB")
        if _kept(work.spec, sink, name, listed):
            _add(work.counts.skipped, listed.size)
            return
        _add(work.counts.found, listed.size)
        storage_class = _storage_class(work.spec, listed)
        sink.put(name, source.fetch(listed), storage_class)
        _add(work.counts.copied, listed.size)
    except ArchivedError as error:
        if archived == "skip":
            _add(work.counts.found, -listed.size, -1)
            return
        _fail(work, source, listed, EndError(archived, error.details))
    except EndError as error:
        _fail(work, source, listed, error)


def _fail(work: Work, source: Source, listed: Listed, error: EndError) -> None:
    if work.counts.found[0] < work.counts.copied[0] + work.counts.failed[0] + 1:
        _add(work.counts.found, listed.size)
    _add(work.counts.failed, listed.size)
    work.fail(error.code, source.url(listed.key), error.details)
    if work.logged is not None:
        named = source.url(listed.key) if "http_data_source" in work.spec else listed.key
        work.logged(named, error.code, error.details)


def _kept(spec: sts.TransferSpec, sink: GcsSink, name: str, listed: Listed) -> bool:
    """Whether the sink's object stays as it is."""
    options = spec.transfer_options
    when = sts.TransferOptions.OverwriteWhen
    if options.overwrite_objects_already_existing_in_sink or options.overwrite_when == when.ALWAYS:
        return False
    if "\n" in name or "\r" in name:
        return False
    found = sink.head(name)
    if found is None:
        return False
    return options.overwrite_when == when.NEVER or same(listed, found)


def _storage_class(spec: sts.TransferSpec, listed: Listed) -> str | None:
    chosen = str(spec.transfer_options.metadata_options.storage_class.name).removeprefix("STORAGE_CLASS_")
    if chosen in ("UNSPECIFIED", "DESTINATION_BUCKET_DEFAULT"):
        return None
    return listed.storage_class if chosen == "PRESERVE" else chosen


def _add(pair: list[int], size: int, objects: int = 1) -> None:
    pair[0] += objects
    pair[1] += size
