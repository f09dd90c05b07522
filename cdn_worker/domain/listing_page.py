"""Pages of a bucket's listing (S3, ListObjectsV2 with EncodingType=url), scanned as bytes.

A parser that builds a tree for each page costs more than everything else a worker does for small objects (BENCHMARKS.md). So a
page is scanned with one regular expression in the order in which S3 writes; a page that does not fit it, to the last
entry, is parsed in the ordinary way: the scanner may be quick, but never wrong.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET
from xml.sax.saxutils import unescape

_FIELDS = (
    r"<Contents><Key>([^<]*)</Key><LastModified>([^<&\s]*)</LastModified><ETag>(?:&quot;|\")?([^<&\"\s]*)(?:&quot;|\")?</ETag>"
    r"(?:<ChecksumAlgorithm>[^<]*</ChecksumAlgorithm>)?(?:<ChecksumType>[^<]*</ChecksumType>)?"
    r"<Size>(\d+)</Size>(?:<StorageClass>([A-Z0-9_]*)</StorageClass>)?"
)
_KEY_COUNT = re.compile(r"<KeyCount>(\d+)</KeyCount>")
_ENTRY = re.compile(_FIELDS + "</Contents>")
_RESTORE = (
    r"(?:<RestoreStatus><IsRestoreInProgress>(true|false)</IsRestoreInProgress>"
    r"(?:<RestoreExpiryDate>([^<&\s]*)</RestoreExpiryDate>)?</RestoreStatus>)?"
)
_ENTRY_RESTORE = re.compile(f"{_FIELDS}{_RESTORE}</Contents>")
_TOKEN = re.compile(r"<NextContinuationToken>([^<]*)</NextContinuationToken>")
TAIL = 1024
QUOTES = {"&quot;": '"', "&apos;": "'"}
STANDARD = "STANDARD"
RESTORING, RESTORED = "restoring", "restored"


class Listed(NamedTuple):
    """One object of a listing. `modified` as S3 writes it (`2026-11-21T03:00:00.000Z`): it sorts as the times do.

    restore   of an archived object: RESTORING, or RESTORED (a copy can be read until its days are over: S3 tells of it no longer
              then); empty where the listing tells of neither
    """

    key: str
    size: int
    etag: str
    modified: str
    storage_class: str
    restore: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """Entries in the order of their keys, and the token of the next page; None on the last one."""

    entries: list[Listed]
    token: str | None


def parse_page(body: bytes) -> Page:
    """A page of ListObjectsV2. Raises ValueError for anything else, with S3's own error where there is one."""
    if b"<ListBucketResult" not in body[:1024]:
        raise ValueError(_told(body))
    text = body.decode()
    url_encoded = "<EncodingType>url</EncodingType>" in text
    # Few pages have restores. To look for one in all of a page costs something: its end tells mostly, and else the scan does.
    restores = "</RestoreStatus>" in text[-TAIL:]
    number = text.count("<Contents>")
    found = (_ENTRY_RESTORE if restores else _ENTRY).findall(text)
    if len(found) != number and not restores and "<RestoreStatus>" in text:
        restores, found = True, _ENTRY_RESTORE.findall(text)
    if len(found) != number or "&#" in text:
        return _parsed(body)
    # What few keys have is looked for once in the page, not once in each key.
    first = max(0, text.find("<Contents>"))  # the token, which stands before, may have anything in it
    escaped = url_encoded and (text.find("%", first) >= 0 or text.find("+", first) >= 0)
    plain = not escaped and text.count("&", first) == text.count("&quot;", first)
    new = Listed._make
    if restores:
        entries = [
            new((_key(key, url_encoded=url_encoded), int(size), etag, modified, name or STANDARD, _restore(progress, expiry)))
            for key, modified, etag, size, name, progress, expiry in found
        ]
    else:
        entries = [
            new((key if plain else _key(key, url_encoded=url_encoded), int(size), etag, modified, storage_class or STANDARD, ""))
            for key, modified, etag, size, storage_class in found
        ]
    told = _KEY_COUNT.search(text)
    if told is not None and int(told[1]) != len(entries) + text.count("<CommonPrefixes>"):
        raise ValueError(f"a page says that it has {told[1]} keys, and has {len(entries)}: it is not whole")
    return Page(entries, _token(text))


def _restore(in_progress: str, expiry: str) -> str:
    """How far a restore is, by the fields of RestoreStatus. One that is over has an end; one that never was has no fields."""
    if in_progress == "true":
        return RESTORING
    return RESTORED if expiry else ""


def _key(text: str, *, url_encoded: bool) -> str:
    if "&" in text:
        text = unescape(text, QUOTES)
    if url_encoded and ("%" in text or "+" in text):
        text = unquote_plus(text, errors="strict")
    return text


def _token(text: str) -> str | None:
    if "<IsTruncated>true</IsTruncated>" not in text:
        return None
    found = _TOKEN.search(text)
    if found is None:
        raise ValueError("a page says that more follows, and has no token for it")
    return unescape(found[1], QUOTES)


def _parsed(body: bytes) -> Page:
    """The ordinary way, for whatever order or layout somebody else's S3 has."""
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
        raise ValueError("a listing has no document type")
    try:
        root = ET.fromstring(body)  # noqa: S314 - no entities get past the line above  # nosec B314
    except ET.ParseError as error:
        raise ValueError(f"this is no listing: {error}") from error
    namespace = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""

    def text(of: ET.Element, name: str) -> str:
        return of.findtext(f"{namespace}{name}") or ""

    url_encoded = text(root, "EncodingType") == "url"
    entries = []
    for one in root.findall(f"{namespace}Contents"):
        key, etag, modified = text(one, "Key"), text(one, "ETag").strip('"'), text(one, "LastModified")
        if any(not part.isprintable() or " " in part for part in (etag, modified)):
            raise ValueError(f"the ETag or the time of {key[:100]!r} is none: {etag[:100]!r}, {modified[:100]!r}")
        entries.append(
            Listed(
                unquote_plus(key, errors="strict") if url_encoded else key,
                int(text(one, "Size")),
                etag,
                modified,
                text(one, "StorageClass") or STANDARD,
                _restore(
                    text(one, f"RestoreStatus/{namespace}IsRestoreInProgress"),
                    text(one, f"RestoreStatus/{namespace}RestoreExpiryDate"),
                ),
            )
        )
    told, counted = text(root, "KeyCount"), len(entries) + len(root.findall(f"{namespace}CommonPrefixes"))
    if told and int(told) != counted:
        raise ValueError(f"a page says that it has {told} keys, and has {counted}: it is not whole")
    truncated = text(root, "IsTruncated") == "true"
    token = text(root, "NextContinuationToken")
    if truncated and not token:
        raise ValueError("a page says that more follows, and has no token for it")
    return Page(entries, token if truncated else None)


def _told(body: bytes) -> str:
    code = re.search(rb"<Code>([^<]*)</Code>", body)
    message = re.search(rb"<Message>([^<]*)</Message>", body)
    if code is None:
        return f"this is no listing: {body[:80]!r}"
    return unescape(f"{code[1].decode()}: {message[1].decode() if message else ''}", QUOTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which objects of a listing are wanted: storage classes (empty: all), and a window over last-modified."""

    storage_classes: Collection[str] = ()
    since: datetime | None = None
    before: datetime | None = None

    def wanted(self, entries: Iterable[Listed]) -> Iterator[Listed]:
        """The wanted ones. S3's last-modified is the start of an upload."""
        since, before = _stamp(self.since), _stamp(self.before)
        classes = frozenset(self.storage_classes)
        for one in entries:
            if classes and one.storage_class not in classes:
                continue
            if (since is None or one.modified >= since) and (before is None or one.modified < before):
                yield one


def _stamp(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
