"""Wire samples: answers of the real services as public documents and traces show them, each with where it was found.

A sample is a text file. Before a line `---` stands what is known of it, after it the answer itself:

    source: where it was found: an address, or the number of a stored public file; `source` may come again
    mark: observed (a trace of the service), documented (its reference shows it) or composed (from a reference, never seen whole)
    changed: what was shortened, or replaced by an obviously false value; only where something was
    must: one sentence: what our side must make of it
    clock: the time at which our side reads it, where that matters (2026-11-21T03:00:00Z)
    expect PARSER: what that parser must say, as JSON
    ---
    HTTP/1.1 200 OK
    ETag: "…"

    the body; the file's last line break is not part of it

`PARSER` is a name in `parsers.PARSERS`. Of an object in the expectation only the keys that stand there are compared, of a
list every item; `{"says": […], "never": […]}` stands for a text that has these parts and not those. An expectation
`{"given": …, "is": …}` hands `given` to the parser. A sample in a file `*.grpc` is a status code on the first line (OK for an
answer), then its message or, after OK, the answer as JSON (protobuf's JSON mapping).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from cdn_worker.domain.http import Answer, status_of

FOLDER = Path(__file__).parent
MARKS = ("observed", "documented", "composed")
ENDS = (".http", ".grpc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What a parser must say. given: what it is told besides the sample."""

    parser: str
    given: Mapping[str, Any]
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One answer. name: its path inside this folder; head, body: as they came."""

    name: str
    sources: tuple[str, ...]
    mark: str
    must: str
    changed: str
    clock: datetime | None
    expectations: tuple[Expectation, ...]
    head: tuple[str, ...]
    body: bytes

    @property
    def lines(self) -> list[bytes]:
        """The head as an HTTP library gives it: a line each, and the empty one."""
        return [line.encode() + b"\r\n" for line in self.head] + [b"\r\n"]

    @property
    def answer(self) -> Answer:
        lines = self.lines
        return Answer(status_of(lines), lines, [self.body] if self.body else [])

    @property
    def code(self) -> str:
        """Of a gRPC sample: the status code's name."""
        return self.head[0]

    @property
    def message(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def load(path: Path) -> Sample:
    """A sample. Raises ValueError that names the file for one that is not in the form above."""
    name = path.relative_to(FOLDER).as_posix()
    known, divided, answer = path.read_bytes().partition(b"\n---\n")
    if not divided:
        raise ValueError(f"{name}: it has no line '---' between what is known of it and the answer")
    fields: dict[str, list[str]] = {}
    for line in known.decode().split("\n"):
        field, colon, text = line.partition(": ")
        if not colon:
            raise ValueError(f"{name}: {line!r} is no `field: text`")
        fields.setdefault(field, []).append(text.strip())
    expectations = tuple(
        _expectation(name, field.removeprefix("expect "), text)
        for field in fields
        if field.startswith("expect ")
        for text in fields[field]
    )
    unknown = {one for one in fields if not one.startswith("expect ")} - {"source", "mark", "changed", "must", "clock"}
    if unknown:
        raise ValueError(f"{name}: there is no field {', '.join(sorted(unknown))}")
    head, body = _head(path.suffix, answer.removesuffix(b"\n"))
    clock = fields.get("clock")
    return Sample(
        name=name,
        sources=tuple(fields.get("source", ())),
        mark=" ".join(fields.get("mark", ())),
        must=" ".join(fields.get("must", ())),
        changed=" ".join(fields.get("changed", ())),
        clock=None if clock is None else datetime.fromisoformat(clock[0]),
        expectations=expectations,
        head=head,
        body=body,
    )


@cache
def samples() -> Mapping[str, Sample]:
    """All samples by name."""
    found = sorted(path for path in FOLDER.rglob("*") if path.suffix in ENDS)
    return {sample.name: sample for sample in map(load, found)}


def _expectation(name: str, parser: str, text: str) -> Expectation:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{name}: what {parser} must say is no JSON: {error}") from error
    if isinstance(value, dict) and "given" in value:
        return Expectation(parser=parser, given=value["given"], value=value["is"])
    return Expectation(parser=parser, given={}, value=value)


def _head(suffix: str, answer: bytes) -> tuple[tuple[str, ...], bytes]:
    if suffix == ".grpc":
        code, _, message = answer.partition(b"\n")
        return (code.decode(),), message
    head, _, body = answer.partition(b"\n\n")
    return tuple(head.decode().split("\n")), body


def mismatches(expected: Any, said: Any, at: str = "it") -> list[str]:
    """Where what a parser said is not what was expected; empty when it is. The rules stand at the top of this module."""
    if isinstance(expected, dict):
        if expected.keys() <= {"says", "never"} and isinstance(said, str):
            wrong = [f"{at} does not say {part!r}: {said!r}" for part in expected.get("says", ()) if part not in said]
            return wrong + [f"{at} says {part!r}: {said!r}" for part in expected.get("never", ()) if part in said]
        if not isinstance(said, Mapping):
            return [f"{at} is {said!r}, not {expected!r}"]
        missing = [f"{at} has no {key!r}: {said!r}" for key in expected if key not in said]
        return missing + [
            wrong for key in expected if key in said for wrong in mismatches(expected[key], said[key], f"{at}[{key!r}]")
        ]
    if isinstance(expected, list):
        if not isinstance(said, list) or len(said) != len(expected):
            return [f"{at} is {said!r}, not {expected!r}"]
        pairs = enumerate(zip(expected, said, strict=True))
        return [wrong for number, (one, other) in pairs for wrong in mismatches(one, other, f"{at}[{number}]")]
    same = expected == said and isinstance(expected, bool) == isinstance(said, bool)
    return [] if same else [f"{at} is {said!r}, not {expected!r}"]
