"""What of the source a probe can work with: a bounded listing, and a few objects that it writes itself where it may."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from cdn_worker.domain.keys import name_fault
from sts_manager.doctor.probe.context import Context
from sts_manager.domain.names import prefix_fault

LISTED_MAX = 5_000
SMALL_BYTES = 1 << 20
BODY = b"a probe of sts-manager\n"
OWNER, TEAM = "Zoë 日本", "data platform"
"""User metadata of the object that is written for it: one value that is not ASCII, and one that is."""
CACHE_CONTROL, CONTENT_TYPE = "no-cache", "text/x-probe"
HARD_NAMES = ("plus+percent%20 space", "double//slash", "unicode-日本")
FOLDER, OTHER, DESCRIBED = "folder/", "plain", "metadata"
SAMPLES = (OTHER, *HARD_NAMES, FOLDER, DESCRIBED)
"""What `--probe-source-write` writes, under the probe's path."""
_DOTS = re.compile(r"(?:^|/)\.{1,2}(?:/|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceObject:
    """One object of the source. restore: what a listing tells of a restore, where it was asked and said anything."""

    key: str
    size: int
    etag: str
    storage_class: str = "STANDARD"
    restore: str = ""

    @property
    def readable(self) -> bool:
        return self.storage_class not in ("GLACIER", "DEEP_ARCHIVE")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceView:
    """Some objects of the source, in the order of their keys.

    whole      no more than these are there
    written    keys of those that the probe wrote
    described  the key of the one with metadata among them; empty where it wrote none
    """

    objects: tuple[SourceObject, ...]
    root: str
    whole: bool
    written: tuple[str, ...] = ()
    described: str = ""

    def transferable(self) -> SourceObject | None:
        """A small object that can be named by a prefix of its own key alone: the described one, or else the smallest."""
        fit = [candidate for candidate in self._lone() if self._fits_prefix(candidate)]
        return min(fit, key=lambda candidate: (candidate.key != self.described, candidate.size), default=None)

    def _lone(self) -> Iterator[SourceObject]:
        """Those whose key no other key begins with.

        Keys come in order, so a key's next neighbour tells; of the last one listed nobody knows, unless it is the very last.
        """
        for candidate, after in zip(self.objects, (*self.objects[1:], None), strict=True):
            if self.whole if after is None else not after.key.startswith(candidate.key):
                yield candidate

    def _fits_prefix(self, candidate: SourceObject) -> bool:
        plain = not candidate.key.endswith("/") and prefix_fault(candidate.key[len(self.root) :]) is None
        return plain and candidate.readable and 0 < candidate.size <= SMALL_BYTES and name_fault(candidate.key) is None

    def marker(self) -> SourceObject | None:
        """An empty object whose name ends in '/', with nothing under it: taken for a prefix, it would bring nothing else."""
        lone = (candidate for candidate in self._lone() if candidate.key.endswith("/") and candidate.key != self.root)
        return next((candidate for candidate in lone if not candidate.size), None)

    def small(self) -> Iterator[SourceObject]:
        """Readable objects with bytes in them, fit for a URL and for a name; requests would resolve `.` and `..` in a path."""
        for candidate in self.objects:
            plain = name_fault(candidate.key) is None and not candidate.key.endswith("/") and not _DOTS.search(candidate.key)
            if candidate.readable and 0 < candidate.size <= SMALL_BYTES and plain:
                yield candidate

    def of_each_class(self) -> dict[str, SourceObject]:
        """One object of each storage class: an archived one that is said to be restored rather than another."""
        chosen: dict[str, SourceObject] = {}
        for candidate in self.objects:
            if candidate.key in self.written:
                continue
            known = chosen.get(candidate.storage_class)
            if known is None or (candidate.restore and not known.restore):
                chosen[candidate.storage_class] = candidate
        return chosen


def view_source(context: Context, written: Iterable[str] = ()) -> SourceView:
    """List at most LISTED_MAX objects. written: keys of the probe's own. Raises what the clients raise."""
    own = tuple(written)
    described = next((key for key in own if key.endswith(f"/{DESCRIBED}")), "")
    listed = _s3_objects(context) if context.from_s3 else _gcs_objects(context)
    objects = tuple(islice(listed, LISTED_MAX))
    whole = next(listed, None) is None
    return SourceView(objects=objects, root=context.patient.source.path, whole=whole, written=own, described=described)


def _s3_objects(context: Context) -> Iterator[SourceObject]:
    source = context.patient.source
    pages = context.clients.s3.get_paginator("list_objects_v2").paginate(
        Bucket=source.bucket, Prefix=source.path, OptionalObjectAttributes=["RestoreStatus"]
    )
    for page in pages:
        for entry in page.get("Contents", ()):
            yield SourceObject(
                key=entry["Key"],
                size=entry["Size"],
                etag=entry["ETag"].strip('"'),
                storage_class=entry.get("StorageClass", "STANDARD"),
                restore=_restore(entry.get("RestoreStatus")),
            )


def _restore(status: dict[str, Any] | None) -> str:
    if status is None:
        return ""
    if status.get("IsRestoreInProgress"):
        return "in progress"
    return f"until {status['RestoreExpiryDate']}" if status.get("RestoreExpiryDate") else "said, without a date"


def _gcs_objects(context: Context) -> Iterator[SourceObject]:
    source = context.patient.source
    fields = "items(name,size,md5Hash,etag,storageClass),nextPageToken"
    for page in context.clients.storage.list_pages(source.bucket, source.path, fields=fields):
        for item in page.get("items", ()):
            etag = item.get("md5Hash") or item.get("etag", "")
            yield SourceObject(
                key=item["name"], size=int(item["size"]), etag=etag, storage_class=item.get("storageClass", "STANDARD")
            )


def write_samples(context: Context) -> list[str]:
    """Objects with hard names, a folder's marker, one with metadata: under this probe's path in the source.

    Metadata that is not ASCII is sent as an encoded word (RFC 2047), which S3 decodes (S3 user guide, UsingMetadata).
    Returns their keys. Raises ClientError.
    """
    client, source = context.clients.s3, context.patient.source
    under = f"{source.path}{context.record.path}"
    word = f"=?UTF-8?B?{base64.b64encode(OWNER.encode()).decode()}?="
    described = {"Metadata": {"owner": word, "team": TEAM}, "CacheControl": CACHE_CONTROL, "ContentType": CONTENT_TYPE}
    for name in SAMPLES:
        more = described if name == DESCRIBED else {}
        client.put_object(Bucket=source.bucket, Key=f"{under}{name}", Body=b"" if name == FOLDER else BODY, **more)
    return [f"{under}{name}" for name in SAMPLES]
