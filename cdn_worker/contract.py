"""What crosses the queue: tasks and reports, as values and as bytes. Version 1.

A message is JSON. Whatever does not fit is refused with a reason and never acted upon: a queue is an open door. No message
holds a secret: signatures and tokens are made by the worker that needs them.

How a prefix adds up. A *shard* is a range of a prefix's keys. Whoever lists it draws a *run*, and numbers what the listing
gives rise to: copy tasks 0 … n-1. The list report names the run and n, and the shards that are left to others. A listing that is
repeated (its worker died, its message came twice) has another run; the manager believes the first report of a shard and counts
only the tasks of that run, each once. So nothing counts twice, and nothing is missing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cdn_worker.domain.replace import Replace
from cdn_worker.domain.verdict import KeyVerdict, Verdict

VERSION = 1
MESSAGE_BYTES_MAX = 8 << 20
"""Well under what Pub/Sub takes (10 MB)."""
KEYS_MAX = 10_000
KEY_BYTES_MAX = 1024
ROOT = "root"
"""The shard that is all of a prefix."""
_ID = re.compile(r"[A-Za-z0-9_.~/-]{1,200}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_TOKEN = re.compile(r"[A-Za-z0-9_./:-]{0,500}")
_ETAG = re.compile(r"[!#-~]{1,200}")


class Refused(ValueError):
    """A message that is not acted upon: why, and of which job it claims to be (empty where it cannot be told)."""

    def __init__(self, why: str, job: str = "") -> None:
        super().__init__(why)
        self.job = job


class FromNewer(Refused):
    """A message of a newer version: a newer worker may understand it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """One attempt at one prefix: from where to where, and how. Every task of it carries it.

    job                      the name of the attempt, unique for ever
    prefix                   of the source's keys, under source_root; source_root is replaced by sink_root in names
    since, before            only objects last modified then (ISO 8601 with zone); storage_classes: only of these, any if empty
    """

    job: str
    prefix: str
    source_bucket: str
    sink_bucket: str
    source_root: str = ""
    sink_root: str = ""
    storage_class: str = ""
    kms_key: str = ""
    replace: Replace = Replace.RECORDED
    since: str = ""
    before: str = ""
    storage_classes: tuple[str, ...] = ()
    multipart_etags: bool = True

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.job):
            raise ValueError(f"job {self.job[:200]!r} is no name")
        for name in ("source_bucket", "sink_bucket"):
            if not _BUCKET.fullmatch(getattr(self, name)):
                raise ValueError(f"{name} {getattr(self, name)[:200]!r} is no bucket's name")
        for name in ("prefix", "source_root", "sink_root"):
            _fits(name, getattr(self, name))
        for name in ("storage_class", "kms_key", "since", "before"):
            if not _TOKEN.fullmatch(getattr(self, name).replace("+", "-")):
                raise ValueError(f"{name} {getattr(self, name)[:200]!r} will not do")
        if not self.prefix.startswith(self.source_root):
            raise ValueError(f"prefix {self.prefix!r} is not under {self.source_root!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListTask:
    """List a shard: the keys after `after` up to and with `until` (None: to the end). Or just `keys`, which failed before."""

    spec: JobSpec
    shard: str = ROOT
    after: str = ""
    until: str | None = None
    keys: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.spec.job}/{self.shard}"


class Item(NamedTuple):
    """One object of a copy task. generation: of the object that may be replaced at the sink; 0: nothing may be there."""

    key: str
    size: int
    etag: str
    modified: str = ""
    generation: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyTask:
    """Copy these objects; `sequence` of the run that listed the shard."""

    spec: JobSpec
    shard: str
    run: str
    sequence: int
    items: tuple[Item, ...]

    @property
    def id(self) -> str:
        return f"{self.spec.job}/{self.shard}/{self.run}/{self.sequence}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A key that is not at the sink, and why."""

    key: str
    size: int
    etag: str
    verdict: str
    error: str
    details: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Verdicts added up: objects and bytes of each; `verified`: how far what is good was proved."""

    objects: Mapping[str, int] = field(default_factory=dict)
    bytes: Mapping[str, int] = field(default_factory=dict)
    verified: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.objects.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledgered:
    """One object's line in the object ledger."""

    key: str
    size: int
    etag: str
    generation: int
    crc32c: str
    verified: str
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport:
    """Every key of a copy task has a verdict; `failures` are those that are not good. `objects`: all of them, where wanted."""

    job: str
    shard: str
    run: str
    sequence: int
    counts: Counts
    failures: tuple[Failure, ...] = ()
    objects: tuple[Ledgered, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A shard that another one left to whoever takes it."""

    shard: str
    after: str
    until: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListReport:
    """A shard is listed: `listed` keys, of which `counts` were settled at once (skipped), the others by `tasks` copy tasks."""

    job: str
    shard: str
    run: str
    listed: int
    listed_bytes: int
    tasks: int
    counts: Counts = field(default_factory=Counts)
    children: tuple[Child, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFailed:
    """A shard cannot be listed; `code` is constant, `why` is for a person. denied: it would meet every prefix alike."""

    job: str
    shard: str
    code: str
    why: str
    denied: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """A task of a job that is paused: handed back to the manager, which publishes it again when the job goes on."""

    job: str
    task: str
    kind: str
    body: str


Task = ListTask | CopyTask
Report = CopyReport | ListReport | ListFailed | Parked


def child_of(shard: str, run: str, index: int) -> str:
    """The name of a shard's child; it differs for each run, so that the children of a dead run are never counted."""
    return hashlib.sha256(f"{shard}\0{run}\0{index}".encode()).hexdigest()[:20]


def counts_of(verdicts: Iterable[KeyVerdict]) -> Counts:
    objects: dict[str, int] = {}
    sizes: dict[str, int] = {}
    verified: dict[str, int] = {}
    for one in verdicts:
        name = one.verdict.value
        objects[name] = objects.get(name, 0) + 1
        sizes[name] = sizes.get(name, 0) + one.size
        if not one.error:
            verified[one.verified.value] = verified.get(one.verified.value, 0) + 1
    return Counts(objects=objects, bytes=sizes, verified=verified)


def failures_of(verdicts: Iterable[KeyVerdict]) -> tuple[Failure, ...]:
    return tuple(
        Failure(
            key=one.key,
            size=one.size,
            etag=one.etag,
            verdict=one.verdict.value,
            error=one.error,
            details=one.details[:2000],
        )
        for one in verdicts
        if one.error
    )


def ledgered(verdicts: Iterable[KeyVerdict]) -> tuple[Ledgered, ...]:
    return tuple(
        Ledgered(
            key=one.key,
            size=one.size,
            etag=one.etag,
            generation=one.generation,
            crc32c=base64.b64encode(one.crc32c).decode(),
            verified=one.verified.value,
            verdict=one.verdict.value,
        )
        for one in verdicts
    )


def undone(task: CopyTask, error: str, details: str) -> CopyReport:
    """The report of a copy task that came to nothing: each of its keys failed."""
    failures = tuple(
        Failure(key=one.key, size=one.size, etag=one.etag, verdict=Verdict.FAILED.value, error=error, details=details)
        for one in task.items
    )
    counts = Counts(
        objects={Verdict.FAILED.value: len(failures)}, bytes={Verdict.FAILED.value: sum(one.size for one in failures)}
    )
    return CopyReport(job=task.spec.job, shard=task.shard, run=task.run, sequence=task.sequence, counts=counts, failures=failures)


# As bytes


def encoded(message: Task | Report) -> bytes:
    """The message as it crosses the queue."""
    return json.dumps(_plain(message), ensure_ascii=False, separators=(",", ":")).encode()


def decoded_task(body: bytes) -> Task:
    """A task. Raises Refused, FromNewer."""
    found = _decoded(body)
    if not isinstance(found, (ListTask, CopyTask)):
        raise Refused("it is a report where a task should be", found.job)
    return found


def decoded_report(body: bytes) -> Report:
    """A report. Raises Refused, FromNewer."""
    found = _decoded(body)
    if isinstance(found, (ListTask, CopyTask)):
        raise Refused("it is a task where a report should be", found.spec.job)
    return found


def _plain(message: Task | Report) -> dict[str, Any]:
    match message:
        case CopyTask():
            head = {"v": VERSION, "kind": "copy", "spec": _spec_plain(message.spec)}
            where = {"shard": message.shard, "run": message.run, "sequence": message.sequence}
            return {**head, **where, "items": message.items}
        case ListTask():
            head = {"v": VERSION, "kind": "list", "spec": _spec_plain(message.spec)}
            return {**head, "shard": message.shard, "after": message.after, "until": message.until, "keys": message.keys}
        case CopyReport():
            plain = _report_plain("copied", message)
            plain["failures"] = [[one.key, one.size, one.etag, one.verdict, one.error, one.details] for one in message.failures]
            plain["objects"] = [
                [one.key, one.size, one.etag, one.generation, one.crc32c, one.verified, one.verdict] for one in message.objects
            ]
        case ListReport():
            plain = _report_plain("listed", message)
            plain["children"] = [[one.shard, one.after, one.until] for one in message.children]
        case ListFailed():
            return {"v": VERSION, "kind": "list-failed"} | {name: getattr(message, name) for name in message.__slots__}
        case Parked():
            # Its own field of that name would hide what kind of message this is.
            return {
                "v": VERSION,
                "kind": "parked",
                "job": message.job,
                "task": message.task,
                "of": message.kind,
                "body": message.body,
            }
    return plain


def _report_plain(kind: str, message: CopyReport | ListReport) -> dict[str, Any]:
    plain = {"v": VERSION, "kind": kind} | {name: getattr(message, name) for name in message.__slots__}
    counts = message.counts
    plain["counts"] = [dict(counts.objects), dict(counts.bytes), dict(counts.verified)]
    return plain


def _spec_plain(spec: JobSpec) -> dict[str, Any]:
    """Only what differs from the defaults: a spec travels with every message."""
    plain = {}
    for name, one in JobSpec.__dataclass_fields__.items():
        value = getattr(spec, name)
        if value != one.default:
            plain[name] = value
    return plain


def _decoded(body: bytes) -> Task | Report:
    if len(body) > MESSAGE_BYTES_MAX:
        raise Refused(f"it is {len(body):,} bytes long, and {MESSAGE_BYTES_MAX:,} are the most")
    try:
        plain = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(f"it is not JSON: {str(error)[:100]}") from None
    if not isinstance(plain, dict):
        raise Refused("it is not a JSON object")
    job = _job_named(plain)
    version = plain.get("v")
    if type(version) is int and version > VERSION:
        raise FromNewer(f"it is of version {version}, and this program speaks {VERSION}: upgrade it", job)
    if type(version) is not int or version != VERSION:
        raise Refused(f"its version is {str(version)[:20]!r}, not {VERSION}", job)
    kind = plain.get("kind")
    read = _READERS.get(kind) if isinstance(kind, str) else None
    if read is None:
        raise Refused(f"its kind is {str(kind)[:40]!r}, which nobody knows", job)
    try:
        return read(plain)
    except KeyError as error:
        raise Refused(f"its field {error.args[0]!r} is missing", job) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise Refused(str(error)[:500], job) from None


def _job_named(plain: Mapping[str, Any]) -> str:
    """Which job a message claims to be of, for whoever has to name it."""
    spec = plain.get("spec")
    job = spec.get("job") if isinstance(spec, dict) else plain.get("job")
    return job if isinstance(job, str) and _ID.fullmatch(job) else ""


def _fits(name: str, key: object) -> str:
    if type(key) is not str or len(key.encode("utf-8", "surrogatepass")) > KEY_BYTES_MAX:
        raise ValueError(f"{name} is no key of at most {KEY_BYTES_MAX:,} bytes: {str(key)[:100]!r}")
    return key


def _text(plain: Mapping[str, Any], name: str, most: int = 4000) -> str:
    value = plain[name]
    if type(value) is not str or len(value) > most:
        raise ValueError(f"{name} is no text of at most {most:,} characters")
    return value


def _id(plain: Mapping[str, Any], name: str) -> str:
    value = plain[name]
    if type(value) is not str or not _ID.fullmatch(value):
        raise ValueError(f"{name} {str(value)[:100]!r} is no name")
    return value


def _number(name: str, value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{name} is no number from 0 on: {str(value)[:40]!r}")
    return value


def _spec_of(plain: Mapping[str, Any]) -> JobSpec:
    found = plain["spec"]
    if not isinstance(found, dict):
        raise ValueError("spec is no JSON object")
    unknown = sorted(set(found) - set(JobSpec.__dataclass_fields__))
    if unknown:
        raise ValueError(f"spec has {unknown[0][:40]!r}, which nobody knows")
    values = dict(found)
    for name, value in values.items():
        wanted = bool if name == "multipart_etags" else list if name == "storage_classes" else str
        if type(value) is not wanted:
            raise ValueError(f"spec: {name} is {str(value)[:40]!r}")
    if "replace" in values:
        values["replace"] = Replace(values["replace"])
    if "storage_classes" in values:
        values["storage_classes"] = tuple(str(one) for one in values["storage_classes"])
    return JobSpec(**values)


def _list_task(plain: Mapping[str, Any]) -> ListTask:
    keys = plain["keys"]
    until = plain["until"]
    if not isinstance(keys, list) or len(keys) > KEYS_MAX:
        raise ValueError(f"keys are no list of at most {KEYS_MAX:,}")
    spec = _spec_of(plain)
    for key in keys:
        if not _fits("a key", key).startswith(spec.prefix):
            raise ValueError(f"key {key!r} is not under {spec.prefix!r}")
    return ListTask(
        spec=spec,
        shard=_id(plain, "shard"),
        after=_fits("after", plain["after"]),
        until=None if until is None else _fits("until", until),
        keys=tuple(keys),
    )


def _copy_task(plain: Mapping[str, Any]) -> CopyTask:
    spec = _spec_of(plain)
    rows = plain["items"]
    if not isinstance(rows, list) or not 0 < len(rows) <= KEYS_MAX:
        raise ValueError(f"items are no list of 1 to {KEYS_MAX:,}")
    items = tuple(_item(row, spec) for row in rows)
    if len({one.key for one in items}) != len(items):
        raise ValueError("a key stands in it twice")
    return CopyTask(
        spec=spec,
        shard=_id(plain, "shard"),
        run=_id(plain, "run"),
        sequence=_number("sequence", plain["sequence"]),
        items=items,
    )


def _item(row: object, spec: JobSpec) -> Item:
    if not isinstance(row, list) or len(row) != 5:
        raise ValueError("an item is no list of 5")
    key, size, etag, modified, generation = row
    if not _fits("a key", key).startswith(spec.prefix):
        raise ValueError(f"key {key!r} is not under {spec.prefix!r}")
    if type(etag) is not str or not _ETAG.fullmatch(etag):
        raise ValueError(f"etag {str(etag)[:100]!r} of {key!r} will not do")
    if type(modified) is not str or not _TOKEN.fullmatch(modified):
        raise ValueError(f"modified {str(modified)[:100]!r} of {key!r} will not do")
    return Item(key, _number("size", size), etag, modified, _number("generation", generation))


def _counts_of(plain: Mapping[str, Any]) -> Counts:
    objects, sizes, verified = (
        {str(name)[:40]: _number("a count", number) for name, number in dict(one).items()} for one in plain["counts"]
    )
    unknown = set(objects) | set(sizes)
    if not unknown <= {one.value for one in Verdict}:
        raise ValueError(f"counts name a verdict that nobody knows: {sorted(unknown)[:5]}")
    return Counts(objects=objects, bytes=sizes, verified=verified)


def _rows(plain: Mapping[str, Any], name: str, width: int) -> Sequence[Sequence[Any]]:
    rows = plain[name]
    if not isinstance(rows, list) or any(not isinstance(row, list) or len(row) != width for row in rows):
        raise ValueError(f"{name} is no list of lists of {width}")
    return rows


def _copy_report(plain: Mapping[str, Any]) -> CopyReport:
    failures = tuple(
        Failure(
            key=_fits("a key", row[0]),
            size=_number("size", row[1]),
            etag=str(row[2])[:200],
            verdict=Verdict(row[3]).value,
            error=str(row[4])[:64],
            details=str(row[5])[:4000],
        )
        for row in _rows(plain, "failures", 6)
    )
    objects = tuple(
        Ledgered(
            key=_fits("a key", row[0]),
            size=_number("size", row[1]),
            etag=str(row[2])[:200],
            generation=_number("generation", row[3]),
            crc32c=str(row[4])[:16],
            verified=str(row[5])[:16],
            verdict=Verdict(row[6]).value,
        )
        for row in _rows(plain, "objects", 7)
    )
    return CopyReport(
        job=_id(plain, "job"),
        shard=_id(plain, "shard"),
        run=_id(plain, "run"),
        sequence=_number("sequence", plain["sequence"]),
        counts=_counts_of(plain),
        failures=failures,
        objects=objects,
    )


def _list_report(plain: Mapping[str, Any]) -> ListReport:
    children = tuple(
        Child(
            shard=_id({"child": row[0]}, "child"),
            after=_fits("after", row[1]),
            until=None if row[2] is None else _fits("until", row[2]),
        )
        for row in _rows(plain, "children", 3)
    )
    return ListReport(
        job=_id(plain, "job"),
        shard=_id(plain, "shard"),
        run=_id(plain, "run"),
        listed=_number("listed", plain["listed"]),
        listed_bytes=_number("listed_bytes", plain["listed_bytes"]),
        tasks=_number("tasks", plain["tasks"]),
        counts=_counts_of(plain),
        children=children,
    )


def _list_failed(plain: Mapping[str, Any]) -> ListFailed:
    return ListFailed(
        job=_id(plain, "job"),
        shard=_id(plain, "shard"),
        code=_text(plain, "code", 64),
        why=_text(plain, "why"),
        denied=plain["denied"] is True,
    )


def _parked(plain: Mapping[str, Any]) -> Parked:
    return Parked(
        job=_id(plain, "job"), task=_id(plain, "task"), kind=_text(plain, "of", 10), body=_text(plain, "body", MESSAGE_BYTES_MAX)
    )


_READERS: dict[str, Callable[[Mapping[str, Any]], Task | Report]] = {
    "list": _list_task,
    "copy": _copy_task,
    "copied": _copy_report,
    "listed": _list_report,
    "list-failed": _list_failed,
    "parked": _parked,
}
