"""Messages as bytes, and bytes as messages: JSON of version 1, read field by field. See `messages` for what they mean.

Whatever does not fit is refused with a reason and never acted upon: a queue is an open door.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cdn_worker.domain.overwrite import Replace
from cdn_worker.domain.verdict import Verdict
from cdn_worker.protocol.messages import (
    ETAG,
    ID,
    KEYS_MAX,
    KINDS,
    MARK,
    MESSAGE_BYTES_MAX,
    TOKEN,
    VERSION,
    Child,
    CopyReport,
    CopyTask,
    Counts,
    Failure,
    FromNewer,
    Item,
    JobSpec,
    Ledgered,
    ListFailed,
    ListReport,
    ListTask,
    Mark,
    Parked,
    Refused,
    Report,
    Task,
    Trouble,
    fits,
)

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


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
        case Trouble():
            return {"v": VERSION, "kind": "trouble"} | {name: getattr(message, name) for name in message.__slots__}
        case Parked():
            # Its own field of that name would hide what kind of message this is.
            return {
                "v": VERSION,
                "kind": "parked",
                "job": message.job,
                "task": message.task,
                "of": message.kind,
                "body": message.body,
                "ledger": message.ledger,
                "spec": message.spec,
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
    if _SURROGATE.search(body) and not _is_unicode(plain):
        raise Refused("it holds half of a surrogate pair, which is no character")
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


def _is_unicode(plain: object) -> bool:
    try:
        json.dumps(plain, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _job_named(plain: Mapping[str, Any]) -> str:
    """Which job a message claims to be of, for whoever has to name it."""
    spec = plain.get("spec")
    job = spec.get("job") if isinstance(spec, dict) else plain.get("job")
    return job if isinstance(job, str) and ID.fullmatch(job) else ""


def _text(plain: Mapping[str, Any], name: str, most: int = 4000) -> str:
    value = plain[name]
    if type(value) is not str or len(value) > most:
        raise ValueError(f"{name} is no text of at most {most:,} characters")
    return value


def _id(plain: Mapping[str, Any], name: str) -> str:
    value = plain[name]
    if type(value) is not str or not ID.fullmatch(value):
        raise ValueError(f"{name} {str(value)[:100]!r} is no name")
    return value


def _mark(plain: Mapping[str, Any]) -> Mark:
    """Whose report it is; one of an earlier release does not say."""
    for name in ("ledger", "spec"):
        value = plain.get(name, "")
        if type(value) is not str or not MARK.fullmatch(value):
            raise ValueError(f"{name} {str(value)[:100]!r} is no id")
    return Mark(ledger=plain.get("ledger", ""), spec=plain.get("spec", ""))


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
        if not fits("a key", key).startswith(spec.prefix):
            raise ValueError(f"key {key!r} is not under {spec.prefix!r}")
    return ListTask(
        spec=spec,
        shard=_id(plain, "shard"),
        after=fits("after", plain["after"]),
        until=None if until is None else fits("until", until),
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
    if not fits("a key", key).startswith(spec.prefix):
        raise ValueError(f"key {key!r} is not under {spec.prefix!r}")
    if type(etag) is not str or not ETAG.fullmatch(etag):
        raise ValueError(f"etag {str(etag)[:100]!r} of {key!r} will not do")
    if type(modified) is not str or not TOKEN.fullmatch(modified):
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
            key=fits("a key", row[0]),
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
            key=fits("a key", row[0]),
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
        **_mark(plain),
    )


def _list_report(plain: Mapping[str, Any]) -> ListReport:
    children = tuple(
        Child(
            shard=_id({"child": row[0]}, "child"),
            after=fits("after", row[1]),
            until=None if row[2] is None else fits("until", row[2]),
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
        **_mark(plain),
    )


def _list_failed(plain: Mapping[str, Any]) -> ListFailed:
    return ListFailed(
        job=_id(plain, "job"),
        shard=_id(plain, "shard"),
        code=_text(plain, "code", 64),
        why=_text(plain, "why"),
        **_mark(plain),
    )


def _trouble(plain: Mapping[str, Any]) -> Trouble:
    return Trouble(job=_id(plain, "job"), code=_text(plain, "code", 64), why=_text(plain, "why"), **_mark(plain))


def _parked(plain: Mapping[str, Any]) -> Parked:
    if plain["of"] not in KINDS:
        raise ValueError(f"a task is of one of {', '.join(KINDS)}, not of {str(plain['of'])[:40]!r}")
    return Parked(
        job=_id(plain, "job"),
        task=_id(plain, "task"),
        kind=_text(plain, "of", 10),
        body=_text(plain, "body", MESSAGE_BYTES_MAX),
        **_mark(plain),
    )


_READERS: dict[str, Callable[[Mapping[str, Any]], Task | Report]] = {
    "list": _list_task,
    "copy": _copy_task,
    "copied": _copy_report,
    "listed": _list_report,
    "list-failed": _list_failed,
    "parked": _parked,
    "trouble": _trouble,
}
