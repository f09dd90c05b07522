"""A URL list as a source: the rules of the list, and what the origin must answer (Storage Transfer Service, URL lists)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import http.client
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.robotparser import RobotFileParser

from tools.emulators.sts.ends import EndError, Fetched, Listed, read_object

HEADER = "TsvHttpData-1.0"
LIST_BYTES_MAX = 128_000_000
AGENT = "GoogleStorageTransferService"
KEPT = ("Content-Type", "Content-Encoding", "Content-Disposition", "Content-Language", "Cache-Control")


@dataclass(frozen=True)
class Row:
    """One line of a list: size and MD5 (base64) where they are given."""

    url: str
    size: int | None
    md5: str | None


def rows_of(data: bytes) -> list[Row]:
    """The rows of a list. Raises EndError, as the whole operation fails by it."""
    if len(data) > LIST_BYTES_MAX:
        raise EndError("INVALID_ARGUMENT", f"the URL list is {len(data):,} bytes; the limit is 128 MB")
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError as error:
        raise EndError("INVALID_ARGUMENT", "the URL list is not UTF-8") from error
    if lines[0].rstrip("\r") != HEADER:
        raise EndError("INVALID_ARGUMENT", f"the URL list must begin with the line {HEADER}")
    rows = [_row(line.rstrip("\r"), number) for number, line in enumerate(lines[1:], 2) if line]
    for before, after in itertools.pairwise(rows):
        if before.url.encode() > after.url.encode():
            raise EndError("INVALID_ARGUMENT", f"the URL list is not sorted: {after.url!r} comes too late")
    return rows


def _row(line: str, number: int) -> Row:
    url, *rest = line.split("\t")
    if len(rest) > 2:
        raise EndError("INVALID_ARGUMENT", f"line {number} of the URL list has more than 3 columns")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EndError("INVALID_ARGUMENT", f"line {number} of the URL list is no http or https URL")
    if "#" in url:
        raise EndError("INVALID_ARGUMENT", f"line {number} of the URL list has a fragment")
    size, md5 = (*rest, "", "")[:2]
    if size and not size.isdigit():
        raise EndError("INVALID_ARGUMENT", f"line {number} of the URL list: {size!r} is no size")
    if md5:
        try:
            whole = len(base64.b64decode(md5, validate=True)) == 16
        except binascii.Error:
            whole = False
        if not whole:
            raise EndError("INVALID_ARGUMENT", f"line {number} of the URL list: {md5!r} is no base64 MD5")
    return Row(url, int(size) if size else None, md5 or None)


class HttpSource:
    """Settings that nobody could verify: `naming`, how a URL becomes an object's name; `md5_required`, of rows without an MD5."""

    def __init__(self, list_url: str, gcs: str, naming: Callable[[], str], md5_required: Callable[[], str]) -> None:
        self._list_url, self._gcs, self._naming, self._md5_required = list_url, gcs, naming, md5_required
        self._rows: dict[str, Row] = {}
        self._connections: dict[str, http.client.HTTPConnection] = {}
        self._robots: dict[str, RobotFileParser] = {}

    def check(self) -> None:
        """Nothing: the list is read when the operation begins."""

    def list(self, prefix: str) -> Iterator[Listed]:  # noqa: ARG002 - a source has it
        """All rows: object conditions have no effect on a URL list."""
        rows = rows_of(self._list())
        if self._md5_required() == "list" and any(row.md5 is None for row in rows):
            raise EndError("INVALID_ARGUMENT", "a row of the URL list has no MD5")
        for row in rows:
            name = self._name(row.url)
            self._rows[name] = row
            yield Listed(name, row.size or 0, row.md5 or "", datetime.now(UTC))

    def _name(self, url: str) -> str:
        parts = urlsplit(url)
        naming = self._naming()
        path = parts.path if naming == "encoded" else unquote(parts.path)
        query = f"?{parts.query}" if naming == "query" and parts.query else ""
        return f"{parts.hostname}{path}{query}"

    def _list(self) -> bytes:
        parts = urlsplit(self._list_url)
        if parts.scheme == "gs":
            return read_object(self._gcs, self._list_url, "URL list")
        answer, data = self._ask("GET", parts)
        if answer.status != 200:
            raise EndError("NOT_FOUND", f"the URL list cannot be read: {answer.status}")
        tag = answer.headers.get("ETag", "")
        if not tag or tag.startswith("W/"):
            raise EndError("FAILED_PRECONDITION", "the web server of the URL list must give it a strong ETag")
        return data

    def fetch(self, listed: Listed) -> Fetched:
        row = self._rows[listed.key]
        parts = urlsplit(row.url)
        if self._md5_required() == "row" and row.md5 is None:
            raise EndError("INVALID_ARGUMENT", "this row of the URL list has no MD5")
        if not self._allowed(parts):
            raise EndError("PERMISSION_DENIED", "robots.txt of the host disallows this URL")
        head, _ = self._ask("HEAD", parts)
        _refuse_bad(head.status)
        length = head.headers.get("Content-Length")
        if length is None or head.headers.get("Accept-Ranges", "none").lower() != "bytes":
            raise EndError("INVALID_ARGUMENT", "the origin must answer with Content-Length and serve ranges")
        if row.size is not None and int(length) != row.size:
            raise EndError("FAILED_PRECONDITION", f"the URL list says {row.size:,} bytes, the origin {int(length):,}")
        answer, data = self._ask("GET", parts)
        _refuse_bad(answer.status)
        if len(data) != int(length):
            raise EndError("UNAVAILABLE", "the origin's answer is shorter than it said")
        if row.md5 is not None and _md5(data) != row.md5:
            raise EndError("FAILED_PRECONDITION", "the MD5 of the URL list is not that of the bytes")
        headers = {name: answer.headers[name] for name in KEPT if name in answer.headers}
        return Fetched(data, listed.etag, headers, {})  # user metadata and times are lost on this way

    def url(self, key: str) -> str:
        return self._rows[key].url  # with its query, as observed (docs/rehearsal.md)

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def _allowed(self, parts: SplitResult) -> bool:
        robots = self._robots.get(parts.netloc)
        if robots is None:
            robots = RobotFileParser()
            answer, data = self._ask("GET", urlsplit(f"{parts.scheme}://{parts.netloc}/robots.txt"))
            robots.parse(data.decode("utf-8", "replace").splitlines() if answer.status == 200 else [])
            self._robots[parts.netloc] = robots
        return robots.can_fetch(AGENT, parts.path)

    def _ask(self, verb: str, parts: SplitResult) -> tuple[http.client.HTTPResponse, bytes]:
        target = re.sub(r"^[a-z]+://[^/]*", "", parts.geturl()) or "/"
        for last in (False, True):
            connection = self._connections.get(parts.netloc)
            if connection is None:
                kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
                connection = self._connections[parts.netloc] = kind(parts.netloc, timeout=20)
            try:
                connection.request(verb, target, headers={"Accept-Encoding": "identity", "User-Agent": AGENT})
                answer = connection.getresponse()
                return answer, answer.read()
            except (http.client.HTTPException, OSError) as error:
                self._connections.pop(parts.netloc).close()
                if last:
                    raise EndError("UNAVAILABLE", f"the origin cannot be read: {type(error).__name__}") from error
        raise AssertionError("unreachable")


def _refuse_bad(status: int) -> None:
    if status == 200:
        return
    if 300 <= status < 400:
        raise EndError("FAILED_PRECONDITION", f"the origin redirects ({status}), and redirects are not followed")
    codes = {401: "PERMISSION_DENIED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 410: "NOT_FOUND"}
    raise EndError(codes.get(status, "UNAVAILABLE"), f"the origin answered {status}")


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
