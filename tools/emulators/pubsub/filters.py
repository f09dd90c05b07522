"""Pub/Sub's filter language: expressions over a message's attributes, https://cloud.google.com/pubsub/docs/subscription-message-filter.

`attributes:k`, `attributes.k = "v"`, `attributes.k != "v"`, `hasPrefix(attributes.k, "p")`, joined by AND or by OR (both only
with parentheses between them), negated by NOT or `-`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from tools.emulators.rpc import Refused, invalid

FILTER_BYTES_MAX = 256
Filter = Callable[[Mapping[str, str]], bool]
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*")|(?P<word>[A-Za-z0-9_][A-Za-z0-9_-]*)|(?P<mark>!=|[:=.,()-]))""",
)
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})|([0-7]{3})|(.))")
_PLAIN = {"n": "\n", "t": "\t", "r": "\r"}
_RESERVED = ("AND", "OR", "NOT")


def parse_filter(text: str) -> Filter:
    """The filter as a function of a message's attributes. Raises Refused (INVALID_ARGUMENT) for one that cannot be read."""
    if not text:
        return lambda _attributes: True
    if len(text.encode()) > FILTER_BYTES_MAX:
        raise invalid(f"Invalid filter: it has {len(text.encode())} bytes, and {FILTER_BYTES_MAX} are the most.")
    return _Parser(text).parse_whole()


class _Parser:
    """By recursive descent over the expression's tokens."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[str] = []
        at, end = 0, len(text.rstrip())
        while at < end:
            found = _TOKEN.match(text, at)
            if found is None:
                raise self._refuse(f"unexpected {text[at:].split(maxsplit=1)[0]!r}")
            self._tokens.append(found[0].strip())
            at = found.end()

    def parse_whole(self) -> Filter:
        parsed = self._parse_joined()
        if self._tokens:
            raise self._refuse(f"unexpected {self._tokens[0]!r}")
        return parsed

    def _parse_joined(self) -> Filter:
        terms = [self._parse_term()]
        joined = self._tokens[0] if self._tokens and self._tokens[0] in ("AND", "OR") else ""
        while self._take(joined):
            terms.append(self._parse_term())
        if self._tokens and self._tokens[0] in ("AND", "OR"):
            raise self._refuse("AND and OR are combined only with parentheses")
        if joined == "OR":
            return lambda attributes: any(term(attributes) for term in terms)
        return lambda attributes: all(term(attributes) for term in terms)

    def _parse_term(self) -> Filter:
        if self._take("NOT") or self._take("-"):
            inner = self._parse_term()
            return lambda attributes: not inner(attributes)
        if self._take("("):
            inner = self._parse_joined()
            self._expect(")")
            return inner
        if self._take("hasPrefix"):
            return self._parse_prefix()
        return self._parse_comparison()

    def _parse_prefix(self) -> Filter:
        self._expect("(")
        self._expect("attributes")
        self._expect(".")
        key = self._parse_key()
        self._expect(",")
        prefix = self._parse_text()
        self._expect(")")
        return lambda attributes: attributes.get(key, "").startswith(prefix) and key in attributes

    def _parse_comparison(self) -> Filter:
        self._expect("attributes")
        if self._take(":"):
            named = self._parse_key()
            return lambda attributes: named in attributes
        self._expect(".")
        key = self._parse_key()
        if self._take("!="):
            unwanted = self._parse_text()
            return lambda attributes: attributes.get(key) != unwanted
        self._expect("=")
        wanted = self._parse_text()
        return lambda attributes: attributes.get(key) == wanted

    def _parse_key(self) -> str:
        token = self._tokens[0] if self._tokens else ""
        if token.startswith('"'):
            return self._parse_text()
        if not re.match(r"\w", token) or token in _RESERVED:
            raise self._refuse(f"a key was expected, not {token!r}")
        return self._tokens.pop(0)

    def _parse_text(self) -> str:
        token = self._tokens[0] if self._tokens else ""
        if not token.startswith('"'):
            raise self._refuse(f"a string in double quotes was expected, not {token!r}")
        return _ESCAPE.sub(_unescape, self._tokens.pop(0)[1:-1])

    def _take(self, token: str) -> bool:
        if token and self._tokens and self._tokens[0] == token:
            self._tokens.pop(0)
            return True
        return False

    def _expect(self, token: str) -> None:
        if not self._take(token):
            raise self._refuse(f"{token!r} was expected, not {self._tokens[0] if self._tokens else 'the end'!r}")

    def _refuse(self, why: str) -> Refused:
        return invalid(f"Invalid filter: {why} (filter={self._text}).")


def _unescape(found: re.Match[str]) -> str:
    if found[1] or found[2]:
        return chr(int(found[1] or found[2], 16))
    return chr(int(found[3], 8)) if found[3] else _PLAIN.get(found[4], found[4])
