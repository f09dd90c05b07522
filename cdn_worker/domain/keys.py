"""Names of objects: byte-exact in URLs, mapped one to one onto names at the sink, and refused before bytes move when unfit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

NAME_BYTES_MAX = 1024
"""Of an object's name in UTF-8 (Cloud Storage, object naming; the same limit as S3's)."""
_PLAIN = re.compile(r"[A-Za-z0-9_.~/-]*")
ACME = ".well-known/acme-challenge/"


def encoded(key: str) -> str:
    """A key as the path of a URL: every byte but unreserved ones and `/` percent-encoded, `+` always as `%2B`.

    `.` and `..` stay as they are, because encoding them would change nothing: dots are unreserved. A client must be told not
    to resolve them (libcurl: PATH_AS_IS), else it silently fetches another object.
    """
    return key if _PLAIN.fullmatch(key) else quote(key, safe="/~")


def name_fault(name: str) -> str | None:
    """Why Cloud Storage would refuse an object's name, or None (Cloud Storage, object naming)."""
    if not name:
        return "it is empty"
    if name in (".", ".."):
        return f"{name!r} is no object's name"
    if "\n" in name or "\r" in name:
        return "it contains a line break (CR or LF)"
    if name.startswith(ACME):
        return f"names under {ACME} are reserved"
    try:
        size = len(name) if name.isascii() else len(name.encode())
    except UnicodeEncodeError:
        return "it contains a lone surrogate, which has no UTF-8 form"
    if size > NAME_BYTES_MAX:
        return f"it is {size:,} bytes long in UTF-8, and {NAME_BYTES_MAX:,} are the most"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyMapping:
    """How a source key becomes a URL, and a name at the sink.

    source_root, sink_root   a key's beginning and what stands in its place at the sink; a key elsewhere is no key of ours
    substitutions            (old, new) pairs put in place, in order, in the path of the CDN's URL only: for a distribution
                             whose paths are not the keys
    """

    source_root: str = ""
    sink_root: str = ""
    substitutions: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for old, _ in self.substitutions:
            if not old:
                raise ValueError("a substitution needs something to replace")

    def sink_name(self, key: str) -> str:
        """The name at the sink. Raises ValueError for a key that is not under the source's root."""
        if not key.startswith(self.source_root):
            raise ValueError(f"{key!r} is not under {self.source_root!r}")
        return self.sink_root + key[len(self.source_root) :]

    def path(self, key: str) -> str:
        """The encoded path for the CDN, without a leading `/`."""
        for old, new in self.substitutions:
            key = key.replace(old, new)
        return encoded(key)


@dataclass(frozen=True, slots=True)
class Unmappable:
    """A key that gets no object at the sink, and why."""

    key: str
    why: str


def unmappable(keys: Iterable[str], mapping: KeyMapping) -> Iterator[Unmappable]:
    """The keys whose name at the sink would be refused."""
    for key in keys:
        fault = name_fault(mapping.sink_name(key))
        if fault is not None:
            yield Unmappable(key, fault)


def same_path(keys: Sequence[str], mapping: KeyMapping) -> Iterator[Unmappable]:
    """The keys of a shard that substitutions would fetch from the path of another one: both are named, neither is copied.

    Names at the sink cannot meet (one root is put in place of another); paths can, and then one object's bytes would be
    stored under two names.
    """
    if not mapping.substitutions:
        return
    owners: dict[str, str] = {}
    told: set[str] = set()
    for key in keys:
        path = mapping.path(key)
        owner = owners.setdefault(path, key)
        if owner == key:
            continue
        for one, other in ((owner, key), (key, owner)):
            if one not in told:
                told.add(one)
                yield Unmappable(one, f"the substitutions give it the path of {other!r}: {path}")
