"""Names: transfer jobs, operations, and the rules for prefixes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NewType, Self, TypeVar

Item = TypeVar("Item")

Prefix = NewType("Prefix", str)
"""A key prefix that passed `prefix_fault`."""

PREFIX_BYTES_MAX = 1024
"""UTF-8 bytes of one include prefix (Storage Transfer Service, `ObjectConditions`)."""

JOB_NAME_STEM = "transferJobs/stsm-"
"""Every transfer job that this program makes is called so; the utility commands touch no other."""

_REPAIR = re.compile(r"(?P<job>.+)-r[0-9a-f]{12}-\d+")
_JOB_NAME = re.compile(r"(?=.{1,128}$)transferJobs/(?!OPI)[A-Za-z0-9\-._~]*[A-Za-z0-9]")


class JobName(str):
    """A legal `transferJobs/<id>`: at most 128 characters of `[A-Za-z0-9-._~]`, ending alphanumeric, not starting `OPI`.

    Raises ValueError for anything else (Storage Transfer Service, `TransferJob.name`).
    """

    __slots__ = ()

    def __new__(cls, value: str) -> Self:
        if not _JOB_NAME.fullmatch(value):
            raise ValueError(f"not the name of a transfer job: {value!r}")
        return super().__new__(cls, value)


class OperationName(str):
    """A non-empty `transferOperations/<id>`: a call can never be sent without a name.

    Raises ValueError for anything else.
    """

    __slots__ = ()

    def __new__(cls, value: str) -> Self:
        stem, _, rest = value.partition("/")
        if stem != "transferOperations" or not rest:
            raise ValueError(f"not the name of a transfer operation: {value!r}")
        return super().__new__(cls, value)


def job_name(migration: str, prefix: Prefix, attempt: int) -> JobName:
    """The one name of (migration, prefix, attempt): a create repeated after a crash answers ALREADY_EXISTS.

    `migration` is the store's own id, made once by prepare-tables; it stands in the name readably, so that one
    migration's jobs can be told from another's in the console and in a list filter.
    """
    if attempt < 1:
        raise ValueError(f"attempts are numbered from 1, not {attempt}")
    digest = hashlib.sha256(f"{migration}\0{prefix}".encode()).hexdigest()[:32]
    return JobName(f"{JOB_NAME_STEM}{migration}-{digest}-a{attempt}")


def repair_name(job: JobName, operation: OperationName, number: int) -> JobName:
    """The one name of a followed job's try `number` to bring what failed in one of its operations."""
    if number < 1:
        raise ValueError(f"tries are numbered from 1, not {number}")
    return JobName(f"{job}-r{hashlib.sha256(operation.encode()).hexdigest()[:12]}-{number}")


def repaired_job(name: str) -> JobName | None:
    """The followed job that a transfer job repairs; None for any other name."""
    found = _REPAIR.fullmatch(name)
    return None if found is None or not is_ours(name) else JobName(found["job"])


def prefix_fault(text: str) -> str | None:
    """Say what makes `text` unfit as an include prefix, or None when it is fit.

    The rules are the service's (Storage Transfer Service, `ObjectConditions.include_prefixes`).
    """
    if not text:
        return "is empty; it would stand for the whole bucket, so name what you mean"
    if text[0] == "/":
        return f"starts with '/'; object names do not: write {text.lstrip('/')!r}"
    if "\n" in text or "\r" in text:
        return "contains a line break (CR or LF), which the Storage Transfer Service refuses"
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        return "contains a lone surrogate, which has no UTF-8 form"
    if size > PREFIX_BYTES_MAX:
        return f"is {size:,} bytes long in UTF-8; the Storage Transfer Service takes at most {PREFIX_BYTES_MAX:,}"
    return None


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two entries (positions in the input) of which the first is a prefix of, or equal to, the second."""

    outer: int
    inner: int


def overlaps(ordered: Sequence[tuple[str, int]]) -> Iterator[Overlap]:
    """Name each entry that lies under another one.

    `ordered`: (prefix, position) sorted by prefix. In that order everything under a prefix follows it at once, so one
    walk with the innermost enclosing prefix in hand finds every case.
    """
    enclosing: list[tuple[str, int]] = []
    for text, position in ordered:
        while enclosing and not text.startswith(enclosing[-1][0]):
            enclosing.pop()
        if enclosing:
            yield Overlap(enclosing[-1][1], position)
        enclosing.append((text, position))


def is_ours(name: str) -> bool:
    """Whether a transfer job of this name was made by this program."""
    return name.startswith(JOB_NAME_STEM)


def whole_of(name: str) -> str:
    """The transfer job that one of ours is a part of (route sts-url-list: `…-p0`, `…-p1`, …); else itself."""
    whole, mark, number = name.rpartition("-p")
    return whole if mark and number.isdigit() and is_ours(name) else name


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Split `items` into runs of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def checked_prefixes(texts: Iterable[str]) -> tuple[Prefix, ...]:
    """Every text as a Prefix; raises ValueError on the first unfit one (for code and tests, not for user input)."""
    found = []
    for text in texts:
        if fault := prefix_fault(text):
            raise ValueError(f"prefix {text!r} {fault}")
        found.append(Prefix(text))
    return tuple(found)
