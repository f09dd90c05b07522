"""URL lists of the Storage Transfer Service: their rows, their limits, and the names that objects get by them (its URL lists)."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import unquote, urlsplit

from cdn_worker.domain.integrity import etag_of
from cdn_worker.domain.keys import NAME_BYTES_MAX, encoded

HEADER = "TsvHttpData-1.0"
LIST_BYTES_MAX = 128_000_000
"""Of one list."""
STAGE = ".sts-manager/"
"""Where this program keeps its own objects in a destination bucket, each attempt under a path of its own."""


class Naming(StrEnum):
    """How the service makes a name of a URL's path: nobody could verify it, so a canary tells."""

    DECODED = "decoded"
    ENCODED = "encoded"


_PUBLIC_NAME = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")
"""A name of several parts, the last of which is no number: so no way of writing an address passes for a name."""
_INSIDE = (".localhost", ".local", ".internal", ".lan", ".home", ".corp", ".intranet", ".localdomain", ".home.arpa")
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")


class UrlListFault(ValueError):
    """Something that must not be in a list, or a list that the service would refuse."""


def host_fault(url: str, addresses: Iterable[str] = ()) -> str | None:
    """Why the service should not, or could not, read from the host of a URL; None when nothing speaks against it.

    addresses   what the host's name resolves to. A stage on loopback is let through by whoever asks, not here.
    """
    if not (url.isascii() and url.isprintable()) or set(' \\"<>^`{|}') & set(url):
        return "it holds a character that no URL has"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        return f"it is no URL: {error}"
    if parts.scheme != "https":
        return f"{parts.scheme or 'nothing'}:// is not https://"
    if parts.username or parts.password:
        return "a URL of a list holds no user name"
    for one in (host, *addresses):
        try:
            address = ipaddress.ip_address(one)
        except ValueError:
            if one is not host:
                return f"{host} leads to {one!r}, which is no address"
            if not _PUBLIC_NAME.fullmatch(host) or host.endswith(_INSIDE):
                return f"{host!r} is no name on the public internet: the service cannot read from it"
            continue
        if not _is_public(address):
            return f"{host} is {address}, which is not on the public internet: the service cannot read from it"
    return None


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Also what an IPv6 address has in it: of a tunnel, of a translation, or mapped."""
    inside: list[ipaddress.IPv4Address | None] = []
    if isinstance(address, ipaddress.IPv6Address):
        inside = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        inside += [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)] if address in _TRANSLATED else []
        address = address.ipv4_mapped or address
    within = all(_is_public(one) for one in inside if one is not None and one is not address)
    return within and address.is_global and not address.is_multicast


def md5_column(etag: str) -> str:
    """The MD5 of a row, base64: empty where the ETag is none (uploaded in parts, or under a KMS key)."""
    md5 = etag_of(etag).md5
    return "" if md5 is None else base64.b64encode(md5).decode()


@dataclass(slots=True)
class UrlList:
    """One list that grows row by row. Raises UrlListFault for what would make the service refuse it, or read elsewhere.

    host    the only one that its URLs may name
    query   with which each URL is signed; empty for a public host
    """

    host: str
    query: str = ""
    rows_max: int = 1_000_000
    bytes_max: int = LIST_BYTES_MAX
    rows: int = 0
    objects_bytes: int = 0
    _lines: list[bytes] = field(default_factory=lambda: [HEADER.encode()])
    _bytes: int = len(HEADER) + 1
    _last: bytes = b""

    def add(self, url: str, size: int, etag: str) -> bool:
        """Add an object; False when the list is full: it belongs into the next one. A '?' at the end of the URL says nothing."""
        url = url.removesuffix("?")
        if urlsplit(url).netloc != self.host:
            raise UrlListFault(f"{url!r} is not on {self.host}, the only host that this list may name")
        if "#" in url:
            raise UrlListFault(f"{url!r} has a fragment: a '#' in a key is written %23")
        if "?" in url:
            raise UrlListFault(f"{url!r} has a query of its own")
        whole = f"{url}?{self.query}" if self.query else url
        line = f"{whole}\t{size}\t{md5_column(etag)}".rstrip("\t").encode()
        if self.rows == self.rows_max or self._bytes + len(line) + 1 > self.bytes_max:
            if not self.rows:
                raise UrlListFault(f"one row of {len(line):,} bytes does not fit into a list of {self.bytes_max:,}")
            return False
        if whole.encode() <= self._last:
            raise UrlListFault(f"{url!r} does not come after the row before it in UTF-8 order")
        self._last = whole.encode()
        self._lines.append(line)
        self._bytes += len(line) + 1
        self.rows += 1
        self.objects_bytes += size
        return True

    def text(self) -> bytes:
        """The file as it is uploaded. It may hold signatures: it is no text for a log."""
        return b"\n".join(self._lines) + b"\n"


def landing(url: str, naming: Naming) -> str:
    """The name that the service gives to the object of a URL, under the path of its sink."""
    parts = urlsplit(url)
    return f"{parts.hostname}{parts.path if naming is Naming.ENCODED else unquote(parts.path)}"


def landing_fault(stage: str, url: str) -> str | None:
    """Why an object of this URL could not land, before it gets its own name."""
    longest = max(len(f"{stage}{landing(url, one)}".encode()) for one in Naming)
    if longest > NAME_BYTES_MAX:
        return (
            f"by a URL list it would first be called after its host, and that name has {longest:,} bytes: {NAME_BYTES_MAX:,} are "
            "the most; give the prefix another route"
        )
    return None


def naming_by(names: Collection[str], urls: Collection[str]) -> Naming | None:
    """How the service named the objects of these URLs; None for names that nobody expected, or too few or many of them."""
    return next((one for one in Naming if sorted(names) == sorted(landing(url, one) for url in urls)), None)


def url_of(name: str, base: str, naming: Naming) -> str | None:
    """The URL whose object has a name under the sink's path; None when it is none of ours.

    base   what stands before the path of every key
    """
    stem = landing(base, naming)
    if not name.startswith(stem):
        return None
    rest = name[len(stem) :]
    return base + (rest if naming is Naming.ENCODED else encoded(rest))
