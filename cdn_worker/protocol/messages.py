"""What crosses the queue: tasks and reports, as values; `codec` has them as bytes. Version 1.

No message holds a secret: signatures and tokens are made by the worker that needs them.

How a prefix adds up. A *shard* is a range of a prefix's keys. Whoever lists it draws a *run*, and numbers what the listing
gives rise to: copy tasks 0 … n-1. The list report names the run and n, and the shards that are left to others. A listing that is
repeated (its worker died, its message came twice) has another run; the manager believes the first report of a shard and counts
only the tasks of that run, each once. So nothing counts twice, and nothing is missing.

Who is meant. A task's spec names the ledger that waits for its reports; each report names that ledger, and the spec that its task
had. A report of another ledger's, or of a task of the same job with another spec, is none of its business.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import NamedTuple, TypedDict

from cdn_worker.domain.budget import is_huge
from cdn_worker.domain.overwrite import Replace
from cdn_worker.domain.verdict import KeyVerdict, Verdict

VERSION = 1
MESSAGE_BYTES_MAX = 8 << 20
"""Well under what Pub/Sub takes (10 MB)."""
KEYS_MAX = 10_000
KEY_BYTES_MAX = 1024
ROOT = "root"
"""The shard that is all of a prefix."""
ID = re.compile(r"[A-Za-z0-9_.~/-]{1,200}")
BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
KINDS = ("list", "copy", "huge")
"""Of which queue a task is."""
MARK = re.compile(r"[a-z0-9]{0,64}")
TOKEN = re.compile(r"[A-Za-z0-9_./:-]{0,500}")
ETAG = re.compile(r"[!#-~]{1,200}")


class Refused(ValueError):
    """A message that is not acted upon: why, and of which job it claims to be (empty where it cannot be told)."""

    def __init__(self, why: str, job: str = "") -> None:
        super().__init__(why)
        self.job = job


OTHER_BUCKET = "is none of this worker's"
"""In the reason of a dead letter: another worker may be for the bucket that its task names."""


class FromNewer(Refused):
    """A message of a newer version: a newer worker may understand it."""


class Mark(TypedDict):
    """What each report carries: for which ledger it is, and the fingerprint of the spec that its task had."""

    ledger: str
    spec: str


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """One attempt at one prefix: from where to where, and how. Every task of it carries it.

    job                      the name of the attempt, unique for ever
    ledger                   the id of the ledger that waits for its reports
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
    ledger: str = ""

    def __post_init__(self) -> None:
        if not ID.fullmatch(self.job):
            raise ValueError(f"job {self.job[:200]!r} is no name")
        if not MARK.fullmatch(self.ledger):
            raise ValueError(f"ledger {self.ledger[:200]!r} is no id")
        for name in ("source_bucket", "sink_bucket"):
            if not BUCKET.fullmatch(getattr(self, name)):
                raise ValueError(f"{name} {getattr(self, name)[:200]!r} is no bucket's name")
        for name in ("prefix", "source_root", "sink_root"):
            fits(name, getattr(self, name))
        for name in ("storage_class", "kms_key", "since", "before"):
            if not TOKEN.fullmatch(getattr(self, name).replace("+", "-")):
                raise ValueError(f"{name} {getattr(self, name)[:200]!r} will not do")
        if not self.prefix.startswith(self.source_root):
            raise ValueError(f"prefix {self.prefix!r} is not under {self.source_root!r}")

    @cached_property
    def fingerprint(self) -> str:
        """The same for the same spec, and for no other; also in a release that has more fields, where these say nothing."""
        plain = {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name) != one.default}
        return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def mark(self) -> Mark:
        return Mark(ledger=self.ledger, spec=self.fingerprint)


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
    ledger: str = ""
    spec: str = ""


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
    ledger: str = ""
    spec: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFailed:
    """A shard cannot be listed; `code` is constant, `why` is for a person."""

    job: str
    shard: str
    code: str
    why: str
    ledger: str = ""
    spec: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """A task of a job that is paused: handed back to the manager, which publishes it again when the job goes on."""

    job: str
    task: str
    kind: str
    body: str
    ledger: str = ""
    spec: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Nothing of a job goes on at a worker, for a cause that all its tasks share: what does not answer, and why.

    The tasks themselves are given back, as they are; this only tells. `code` is constant, `why` is for a person.
    """

    job: str
    code: str
    why: str
    ledger: str = ""
    spec: str = ""


Task = ListTask | CopyTask
Report = CopyReport | ListReport | ListFailed | Parked | Trouble


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
    return CopyReport(
        job=task.spec.job,
        shard=task.shard,
        run=task.run,
        sequence=task.sequence,
        counts=counts,
        failures=failures,
        **task.spec.mark,
    )


def has_huge(items: Iterable[Item]) -> bool:
    """Whether a copy task is one for the queue of the huge ones."""
    return any(is_huge(one.size) for one in items)


def fits(name: str, key: object) -> str:
    """A key, or a part of one. Raises ValueError for what is none."""
    if type(key) is not str or len(key.encode("utf-8", "surrogatepass")) > KEY_BYTES_MAX:
        raise ValueError(f"{name} is no key of at most {KEY_BYTES_MAX:,} bytes: {str(key)[:100]!r}")
    return key
