"""The Logging query language, as far as a program of ours may lean on it: comparisons, AND, OR, NOT, parentheses.

Documented (https://docs.cloud.google.com/logging/docs/view/logging-query-language): at most 20,000 characters; NOT binds closest,
then OR, then AND; AND may be left out; `-` stands for NOT; operators are in capitals; values are compared without regard to case;
a first name that no log entry has is an error; a comparison with a field that an entry lacks fails, `!=` too.
Not modelled, and refused: functions (`log_id`, `SEARCH`, `sample`), NULL_VALUE.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

CHARACTERS_MAX = 20_000
SEVERITIES = ("DEFAULT", "DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "CRITICAL", "ALERT", "EMERGENCY")
SCALARS = ("insertId", "logName", "receiveTimestamp", "severity", "spanId", "textPayload", "timestamp", "trace", "traceSampled")
OPEN = ("jsonPayload", "protoPayload", "labels", "metadata", "httpRequest", "operation", "sourceLocation")
TIMES = ("timestamp", "receiveTimestamp")
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PLAIN = r'[^\s()"=!<>:~,]+'
_TOKEN = re.compile(
    r"\s+|--[^\n]*|(?P<op>=~|!~|!=|>=|<=|=|>|<|:)|(?P<bracket>[()])"
    r'|(?P<minus>-(?=[A-Za-z"(]))'
    rf"|(?P<quoted>{_QUOTED})|(?P<text>{_PLAIN}(?:(?<=\.){_QUOTED}(?:{_PLAIN})?)*)"
)
_PART = re.compile(rf'{_QUOTED}|[^."]+')
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}

Entry = dict[str, Any]
Matches = Callable[[Entry], bool]


class BadFilter(ValueError):
    """The service refuses the filter: INVALID_ARGUMENT."""


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str


ANYTHING = _Token("text", "*")


def parse_filter(text: str) -> Matches:
    """What a filter selects; an empty one selects everything. Raises BadFilter."""
    if len(text) > CHARACTERS_MAX:
        raise BadFilter(f"the filter has {len(text):,} characters; {CHARACTERS_MAX:,} are the most")
    parser = _Parser(list(_tokens(text)))
    return parser.parse() if parser.more else lambda _entry: True


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise BadFilter(f"Unparseable filter: syntax error at line 1, column {at + 1}, token {text[at : at + 10]!r}")
        at = found.end()
        if found.lastgroup is not None:
            yield _Token(found.lastgroup, found[found.lastgroup])


class _Parser:
    """One filter, from left to right."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens, self._at = tokens, 0

    @property
    def more(self) -> bool:
        return self._at < len(self._tokens)

    def parse(self) -> Matches:
        matches = self._conjunction(self._comparison)
        if self.more:
            raise BadFilter(f"Unparseable filter: unexpected {self._peek().text!r}")
        return matches

    def _peek(self) -> _Token:
        return self._tokens[self._at] if self.more else _Token("end", "the end of the filter")

    def _take(self, wanted: str) -> _Token:
        """The next token, which must be a text, quoted or not, that is no operator."""
        token = self._peek()
        if token.kind not in ("text", "quoted") or token in (_Token("text", "AND"), _Token("text", "OR")):
            raise BadFilter(f"Unparseable filter: {wanted} was expected, not {token.text!r}")
        self._at += 1
        return token

    def _took(self, text: str) -> bool:
        token = self._peek()
        if token.text != text or token.kind == "quoted":
            return False
        self._at += 1
        return True

    def _conjunction(self, leaf: Callable[[], Matches]) -> Matches:
        parts = [self._disjunction(leaf)]
        while self.more and self._peek() != _Token("bracket", ")"):
            self._took("AND")
            parts.append(self._disjunction(leaf))
        return lambda entry: all(part(entry) for part in parts)

    def _disjunction(self, leaf: Callable[[], Matches]) -> Matches:
        parts = [self._negation(leaf)]
        while self._took("OR"):
            parts.append(self._negation(leaf))
        return lambda entry: any(part(entry) for part in parts)

    def _negation(self, leaf: Callable[[], Matches]) -> Matches:
        if self._took("NOT") or self._took("-"):
            inner = self._negation(leaf)
            return lambda entry: not inner(entry)
        if self._took("("):
            inside = self._conjunction(leaf)
            if not self._took(")"):
                raise BadFilter(f"Unparseable filter: ')' was expected, not {self._peek().text!r}")
            return inside
        return leaf()

    def _comparison(self) -> Matches:
        token = self._take("a comparison")
        if token.kind == "text" and self._peek() == _Token("bracket", "("):
            raise BadFilter(f"the function {token.text}() is not modelled on this stage")
        if self._peek().kind != "op":
            part = _value(token)
            return lambda entry: _has(entry, part)  # a global restriction: in any field
        path, compared = _path(token), self._tokens[self._at].text
        self._at += 1
        if self._peek() == _Token("bracket", "("):
            # The field and the operator are applied to each value between the parentheses.
            return self._negation(lambda: _compare(path, compared, self._take("a value")))
        return _compare(path, compared, self._take("a value"))


def _path(token: _Token) -> list[str]:
    """The names of a field. Raises BadFilter for one that no log entry has."""
    names = [_unquote(part) for part in _PART.findall(token.text)] if token.kind == "text" else [token.text]
    first, more = names[0], names[1:]
    if (first in SCALARS and not more) or first in OPEN or (first == "resource" and more[:1] in (["type"], ["labels"])):
        return names
    raise BadFilter(f"Field not found: {token.text!r}")


def _value(token: _Token) -> str:
    """A value as it is compared. Raises BadFilter for what must stand in quotes."""
    if token.kind == "quoted":
        return _unquote(token.text)
    if token.text == "NULL_VALUE":
        raise BadFilter("NULL_VALUE is not modelled on this stage")
    if token != ANYTHING and _number(token.text) is None and (token.text[0] in "+-." or set(token.text) & set(".*")):
        raise BadFilter(f"Unparseable filter: {token.text!r} has special characters and must stand in double quotes")
    return token.text


def _unquote(text: str) -> str:
    if not text.startswith('"'):
        return text
    return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), text[1:-1])


def _compare(path: list[str], compared: str, token: _Token) -> Matches:
    if compared == ":" and token == ANYTHING:
        return lambda entry: bool(_values(entry, path))  # it is there at all
    test = _test(path, compared, _value(token))
    return lambda entry: any(test(one) for one in _values(entry, path))


def _values(entry: Entry, path: list[str]) -> list[Any]:
    """What an entry has there: nothing, one value, or those of an array, any of which may meet a comparison."""
    value: Any = entry
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return []
        value = value[name]
    return value if isinstance(value, list) else [value]


def _test(path: list[str], compared: str, value: str) -> Callable[[Any], bool]:
    """How one value of a field is compared. Raises BadFilter for a value that is none of the field's type."""
    if compared == ":":
        return lambda found: _has(found, value)
    if compared in ("=~", "!~"):
        try:
            pattern = re.compile(value)
        except re.error as error:
            raise BadFilter(f"invalid regular expression {value!r}: {error}") from error
        return lambda found: bool(pattern.search(str(found))) == (compared == "=~")
    convert = _severity if path[0] == "severity" else _time if path[0] in TIMES else str.casefold
    right, number, meets = convert(value), _number(value), COMPARE[compared]

    def test(found: Any) -> bool:
        if isinstance(found, (int, float)) and not isinstance(found, bool):
            return number is not None and meets(float(found), number)
        return meets(convert(str(found)), right)

    return test


def _severity(text: str) -> int:
    if text.upper() not in SEVERITIES:
        raise BadFilter(f"Invalid value for severity: {text!r}")
    return SEVERITIES.index(text.upper())


def _time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadFilter(f"Invalid value for a timestamp: {text!r}; RFC 3339 or ISO 8601 is wanted") from error
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _has(found: Any, part: str) -> bool:
    """Whether a value, or anything inside it, contains a text."""
    if isinstance(found, dict):
        return any(_has(one, part) for one in found.values())
    if isinstance(found, list):
        return any(_has(one, part) for one in found)
    return part.casefold() in str(found).casefold()
