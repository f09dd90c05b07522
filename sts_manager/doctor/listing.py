"""A prefix's listing, looked through before it travels: what cannot be copied, and what would be lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from botocore.exceptions import ClientError

from cdn_worker.domain.archive import FOR_DAYS, FOR_GOOD, TIERING, left_by_service, unreadable
from cdn_worker.domain.keys import KeyMapping, name_fault
from cdn_worker.domain.listing_page import Listed
from cdn_worker.domain.metadata import METADATA_BYTES_MAX
from sts_manager.doctor.aws import OPTIONAL, listed_of
from sts_manager.doctor.finding import Finding, Patient, failed, passed, warned
from sts_manager.domain.model import Route

OBJECT_BYTES_MAX = 5 << 40
"""Of one object (Cloud Storage, quotas)."""
LOOKED_AT = 100
"""Objects whose metadata and tags are asked for: each costs two requests."""
TIERED_LOOKED_AT = 20
"""Objects of Intelligent-Tiering besides, of which only the tier is asked for."""
META = "x-amz-meta-"
FOLDER_BYTES_MAX = 512
ODD_FOLDERS = "odd folders"


@dataclass(slots=True)
class _Seen:
    """What a walk over a listing counts: how often, one key, bytes."""

    number: Counter[str] = field(default_factory=Counter)
    example: dict[str, str] = field(default_factory=dict)
    size: Counter[str] = field(default_factory=Counter)

    def add(self, what: str, key: str, size: int) -> None:
        self.number[what] += 1
        self.size[what] += size
        self.example.setdefault(what, key)


FIXES = {
    "archived": f"restore them first ({FOR_DAYS}), or leave them out (--include-storage-classes)",
    "too large": "Cloud Storage takes at most 5 TiB: cut it at the source",
    "unmappable name": "rename it at the source: Cloud Storage has no such names",
    "name too long for a bucket with folders": "rename it at the source, or take a bucket without a hierarchical namespace",
    "collision": "mend --cdn-substitute: two keys would be read from one URL",
    "metadata over 8 KiB": "shorten it at the source: Cloud Storage would refuse the object",
}


BY_SERVICE = (
    "the transfer service skips them without a word, GLACIER restored or not, DEEP_ARCHIVE until it is restored "
    f"({FOR_DAYS}): name GLACIER in --include-storage-classes, or send the prefix by route cdn"
)


def folder_fault(name: str) -> str:
    """What is wrong with an object's name in a bucket with a hierarchical namespace, as a word of `_Seen`; empty: nothing.

    A folder's name and the last part take 512 bytes each (Cloud Storage, about objects). Empty parts are taken, every slash being
    a folder (Cloud Storage, about folders); what becomes of `.` and `..` no page says.
    """
    folder, _, base = name.rpartition("/")
    if len(f"{folder}/".encode()) > FOLDER_BYTES_MAX or len(base.encode()) > FOLDER_BYTES_MAX:
        return "name too long for a bucket with folders"
    return ODD_FOLDERS if {"", ".", ".."} & {*name.split("/")[:-1], base or "file"} else ""


class Scan:
    """At most `most` objects of one prefix are listed, LOOKED_AT of them are looked at.

    has_folders: the sink has a hierarchical namespace, which takes fewer names.
    """

    def __init__(self, patient: Patient, client: Any, prefix: str, most: int, *, has_folders: bool = False) -> None:
        self._patient, self._client, self._prefix, self._most = patient, client, prefix, most
        self._has_folders = has_folders

    def findings(self) -> Iterator[Finding]:
        seen, listed = _Seen(), 0
        sample: list[str] = []
        tiered: list[str] = []
        substitutions = tuple(
            (old, new)
            for old, _, new in (pair.partition("=") for pair in self._patient.settings.cdn_substitute.split(";") if pair)
        )
        mapping = KeyMapping(
            source_root=self._patient.source.path, sink_root=self._patient.sink.path, substitutions=substitutions
        )
        paths: dict[str, str] = {}
        for one in islice(self._listed(), self._most):
            listed += 1
            key, size = one.key, one.size
            if self._left(one):
                seen.add("archived", key, size)
            elif len(sample) < LOOKED_AT:
                sample.append(key)
            elif one.storage_class == TIERING and len(tiered) < TIERED_LOOKED_AT:
                tiered.append(key)
            if one.storage_class == TIERING:
                seen.add(TIERING, key, size)
            if size > OBJECT_BYTES_MAX:
                seen.add("too large", key, size)
            if name_fault(mapping.sink_name(key)) is not None:
                seen.add("unmappable name", key, size)
            elif self._has_folders and (fault := folder_fault(mapping.sink_name(key))):
                seen.add(fault, key, size)
            if substitutions and paths.setdefault(mapping.path(key), key) != key:
                seen.add("collision", key, size)
        for key in sample:
            self._look(key, seen)
        for key in tiered:
            self._head(key, seen)
        yield from self._told(seen, listed, len(sample))

    def _listed(self) -> Iterator[Listed]:
        """Of the storage classes that are to travel."""
        pages = self._client.get_paginator("list_objects_v2")
        source, classes = self._patient.source, self._patient.settings.storage_classes
        under = source.path + self._prefix
        for page in pages.paginate(Bucket=source.bucket, Prefix=under, OptionalObjectAttributes=list(OPTIONAL)):
            found = map(listed_of, page.get("Contents", ()))
            yield from (one for one in found if not classes or one.storage_class in classes)

    @property
    def _by_service(self) -> bool:
        return Route.STS_S3.value in self._patient.routes

    def _left(self, one: Listed) -> bool:
        """Whether its archive keeps it from travelling by the route that the prefix takes."""
        if self._by_service:
            return left_by_service(one, self._patient.settings.storage_classes) is not None
        return unreadable(one) is not None

    def _head(self, key: str, seen: _Seen) -> dict[str, str]:
        answer = self._client.head_object(Bucket=self._patient.source.bucket, Key=key)
        headers: dict[str, str] = answer["ResponseMetadata"]["HTTPHeaders"]
        if answer.get("StorageClass") == TIERING:
            seen.add("tier looked at", key, 0)
        if "x-amz-archive-status" in headers:
            seen.add("archive tier", key, 0)
        return headers

    def _look(self, key: str, seen: _Seen) -> None:
        bucket = self._patient.source.bucket
        head = self._head(key, seen)
        metadata = {name[len(META) :]: value for name, value in head.items() if name.startswith(META)}
        if sum(len(name.encode()) + len(value.encode()) for name, value in metadata.items()) > METADATA_BYTES_MAX:
            seen.add("metadata over 8 KiB", key, 0)
        try:
            tags = self._client.get_object_tagging(Bucket=bucket, Key=key).get("TagSet", ())
        except ClientError:
            seen.add("tags not readable", key, 0)
            return
        if tags:
            seen.add("tags", key, 0)

    def _told_of_tiers(self, seen: _Seen, name: str) -> Iterator[Finding]:
        """What is known of Intelligent-Tiering: its listing does not say which objects are archived."""
        looked, number = seen.number["tier looked at"], seen.number["archive tier"]
        if number:
            told = f"{number:,} of {looked:,} looked at in {TIERING} are in an archive tier, which no listing tells; for example "
            fix = f"nobody can read them until they are restored: {FOR_GOOD}; S3 Inventory tells the tier of each object"
            yield warned(name, f"{told}{seen.example['archive tier']!r} (of {seen.number[TIERING]:,} in that class)", fix)
        elif looked:
            yield passed(name, f"none of {looked:,} looked at of {seen.number[TIERING]:,} in {TIERING} is in an archive tier")

    def _told(self, seen: _Seen, listed: int, looked: int) -> Iterator[Finding]:
        name = f"prefix {self._prefix!r}"
        if not listed:
            yield failed(
                name,
                f"no object begins with {self._patient.source.path + self._prefix!r}",
                "is it spelt as in the bucket, with its last '/'?",
            )
            return
        more = "" if listed < self._most else f" (looked at the first {self._most:,}: --scan-max)"
        for what, fix in FIXES.items():
            if number := seen.number[what]:
                told = f"{number:,} {what} of {listed:,}; for example {seen.example[what]!r}{more}"
                yield failed(name, told, BY_SERVICE if what == "archived" and self._by_service else fix)
        if number := seen.number[ODD_FOLDERS]:
            example = seen.example[ODD_FOLDERS]
            told = f"{number:,} of {listed:,} have a part that is empty, '.' or '..'; for example {example!r}{more}"
            yield warned(
                name, told, "in a bucket with folders each part is a folder: transfer one such object first and look at it"
            )
        yield from self._told_of_tiers(seen, name)
        if number := seen.number["tags"]:
            told = f"{number:,} of {looked:,} looked at have tags, which no route carries; for example {seen.example['tags']!r}"
            yield warned(name, told, "if they matter, keep them elsewhere first (aws s3api get-object-tagging)")
        if seen.number["tags not readable"]:
            yield warned(name, "tags may not be read (s3:GetObjectTagging), so nobody knows whether any would be lost")
        if not any(seen.number[what] for what in FIXES):
            yield passed(name, f"{listed:,} objects can be copied by name, size and class; {looked:,} looked at closer{more}")
