"""Reading a file of prefixes: a JSON array of strings or objects, or one prefix a line. Every unfit one is named with its line.

An object has a prefix, and what that prefix has of its own: {"prefix": …, "route": …, "source": …, "destination": …,
"egress": …}.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sts_manager.domain.errors import BadInput
from sts_manager.domain.location import Scheme, place
from sts_manager.domain.model import Chosen, Egress, Route
from sts_manager.domain.names import Prefix, overlaps, prefix_fault
from sts_manager.domain.routing import AUTO

FAULTS_SHOWN = 20
KEYS = ("prefix", "route", "source", "destination", "egress")
ROUTES = tuple(route.value for route in Route if route is not Route.STS_FOLLOW)


@dataclass(frozen=True, slots=True)
class PrefixFile:
    """The prefixes, sorted, and what some of them have of their own."""

    prefixes: list[Prefix]
    chosen: dict[Prefix, Chosen]


def read_prefixes(path: Path) -> PrefixFile:
    """The prefixes of a file. Raises BadInput that names each fault with its line (the first 20 of them)."""
    text = _text(path)
    if not text.strip():
        raise BadInput(f"{path} is empty; it should hold a JSON array of strings or objects, or one prefix a line")
    is_array = text.lstrip()[0] == "["
    chosen: dict[Prefix, Chosen] = {}
    values = _array(path, text, chosen) if is_array else _lines(text)
    if not values:
        raise BadInput(f"{path} holds no prefixes: the array is empty")
    faults = list(islice(_faults(values), FAULTS_SHOWN + 1))
    if not faults:
        ordered = sorted(zip(values, range(len(values)), strict=True))
        faults = list(islice(_overlaps(ordered, values), FAULTS_SHOWN + 1))
        if not faults:
            return PrefixFile([Prefix(value) for value, _ in ordered], chosen)
    lines = _lines_of_values(text) if is_array else None
    told = [f"  line {_line(fault.at, lines)}: {fault.told(lines)}" for fault in faults[:FAULTS_SHOWN]]
    if len(faults) > FAULTS_SHOWN:
        told.append("  … and more")
    raise BadInput("\n".join([f"{path}: nothing was loaded, because:", *told]))


@dataclass(frozen=True, slots=True)
class _Fault:
    """What is wrong with the entry at a position; `other` is the position of the entry it collides with."""

    at: int
    words: str
    other: int | None = None
    after: str = ""

    def told(self, lines: Sequence[int] | None) -> str:
        return self.words if self.other is None else f"{self.words} {_line(self.other, lines)}{self.after}"


def _line(at: int, lines: Sequence[int] | None) -> int:
    return lines[at] if lines else at + 1


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BadInput(f"{path} is not UTF-8 text: byte {error.start:,} (line {line}) is {raw[error.start]:#04x}") from error


def _array(path: Path, text: str, chosen: dict[Prefix, Chosen]) -> list[str]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} starts like a JSON array but is not one: {error}") from error
    if all(type(value) is str for value in values):
        return values  # type: ignore[no-any-return]
    prefixes = []
    for at, value in enumerate(values):
        try:
            prefix, own = _entry(value)
        except ValueError as error:
            raise BadInput(f"{path}: line {_lines_of_values(text)[at]}: {error}") from None
        prefixes.append(prefix)
        if own is not None:
            chosen[Prefix(prefix)] = own
    return prefixes


def _entry(value: object) -> tuple[str, Chosen | None]:
    """One element of the array. Raises ValueError that says what is wrong with it."""
    if isinstance(value, str):
        return value, None
    if not isinstance(value, dict):
        raise ValueError(f"{json.dumps(value)[:80]} is neither a string nor an object")
    for key, one in value.items():
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(KEYS)}"
            raise ValueError(f"unknown key {key!r}; {hint}")
        if not isinstance(one, str):
            raise ValueError(f"{key} is {json.dumps(one)[:80]}, and must be a string")
    if "prefix" not in value:
        raise ValueError(f"{json.dumps(value)[:80]} has no prefix")
    prefix = value["prefix"]
    route = value.get("route", AUTO)
    if route not in (AUTO, *ROUTES):
        raise ValueError(f"the route of {prefix!r} is {route!r}; there are {AUTO}, {', '.join(ROUTES)}")
    own = Chosen(
        route=None if route == AUTO else Route(route),
        source=value.get("source", ""),
        destination=value.get("destination", ""),
        egress=value.get("egress", ""),
    )
    _check(prefix, own)
    return prefix, own


def _check(prefix: str, own: Chosen) -> None:
    if own.egress and own.egress not in tuple(Egress) and not own.egress.startswith("https://"):
        raise ValueError(
            f"the egress of {prefix!r} is {own.egress!r}; it is {', '.join(Egress)}, or a CloudFront domain (https://…)"
        )
    if own.egress and own.route not in (None, Route.STS_S3):
        raise ValueError(f"the egress of {prefix!r} is for route sts-s3, and its route is {own.route}")
    source = place(own.source) if own.source else None
    sink = place(own.destination) if own.destination else None
    if sink is not None and sink.scheme is not Scheme.GCS:
        raise ValueError(f"the destination of {prefix!r} is {sink}, which is not in Cloud Storage")
    if source is not None and own.route is not None and (source.scheme is Scheme.GCS) != (own.route is Route.STS_GCS):
        raise ValueError(f"the route of {prefix!r} is {own.route}, which does not read {source}")
    if source is not None and sink is not None and source.overlaps(sink):
        raise ValueError(f"the source {source} and the destination {sink} of {prefix!r} are one place")


def _lines(text: str) -> list[str]:
    """One prefix a line. A CR before the line break belongs to the line break; blank lines at the end do not count."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _faults(values: Sequence[str]) -> Iterator[_Fault]:
    for at, value in enumerate(values):
        if fault := prefix_fault(value):
            yield _Fault(at, f"{_shown(value)} {fault}")
        elif at == 0 and value[0] in '{"' and _is_json(value):
            yield _Fault(at, f"{_shown(value)} is JSON, but the file is not a JSON array")


def _overlaps(ordered: Sequence[tuple[str, int]], values: Sequence[str]) -> Iterator[_Fault]:
    for overlap in overlaps(ordered):
        inner, outer = values[overlap.inner], values[overlap.outer]
        if inner == outer:
            yield _Fault(overlap.inner, f"{_shown(inner)} is a duplicate of line", overlap.outer)
        else:
            words = f"{_shown(inner)} lies under {_shown(outer)} of line"
            yield _Fault(overlap.inner, words, overlap.outer, ": its objects would be copied twice")


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _lines_of_values(text: str) -> list[int]:
    """The line on which each element of a JSON array begins. Slow, and only used to name faults."""
    decoder, at, lines = json.JSONDecoder(), text.index("[") + 1, list[int]()
    line = 1 + text.count("\n", 0, at)
    while True:
        start = at
        while text[at] in " \t\r\n,":
            at += 1
        line += text.count("\n", start, at)
        if text[at] == "]":
            return lines
        lines.append(line)
        _, end = decoder.raw_decode(text, at)
        line += text.count("\n", at, end)
        at = end


def _shown(value: str) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]}…{text[-1]}"
