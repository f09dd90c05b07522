"""Buckets and objects: generations, preconditions, hashes, listing. No HTTP here."""

from __future__ import annotations

import base64
import bisect
import hashlib
import itertools
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import google_crc32c

NAME_BYTES_MAX = 1024
FOLDER_BYTES_MAX = BASE_BYTES_MAX = 512
METADATA_BYTES_MAX = 8 * 1024
COMPOSE_MAX = 32
LIST_MAX = 1000
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")


class Refused(Exception):
    """The service's own refusal: HTTP status, reason (JSON API), code (XML API), message."""

    def __init__(self, status: int, reason: str, message: str, xml_code: str = "") -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message
        self.xml_code = xml_code or reason


def not_found(what: str) -> Refused:
    return Refused(404, "notFound", f"No such object: {what}", "NoSuchKey")


def precondition_failed() -> Refused:
    message = "At least one of the pre-conditions you specified did not hold."
    return Refused(412, "conditionNotMet", message, "PreconditionFailed")


@dataclass(frozen=True)
class Hashes:
    """What a client says of the bytes it sends: base64 text, None when it says nothing."""

    crc32c: str | None = None
    md5: str | None = None


@dataclass(frozen=True)
class Conditions:
    """The generation preconditions of a request; 0 means "must not exist"."""

    generation: int | None = None
    generation_not: int | None = None
    metageneration: int | None = None
    metageneration_not: int | None = None

    def check(self, found: StoredObject | None) -> None:
        generation = 0 if found is None else found.generation
        if self.generation is not None and generation != self.generation:
            raise precondition_failed()
        if self.generation_not is not None and generation == self.generation_not:
            raise precondition_failed()
        if found is not None and self.metageneration not in (None, found.metageneration):
            raise precondition_failed()
        if found is not None and self.metageneration_not == found.metageneration:
            raise precondition_failed()


@dataclass(frozen=True)
class Attributes:
    """What a writer may choose about an object."""

    content_type: str | None = None
    content_encoding: str | None = None
    content_disposition: str | None = None
    content_language: str | None = None
    cache_control: str | None = None
    storage_class: str = "STANDARD"
    custom_time: str | None = None
    kms_key: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if sum(len(k.encode()) + len(v.encode()) for k, v in self.metadata.items()) > METADATA_BYTES_MAX:
            message = f"The metadata supplied with the request is larger than {METADATA_BYTES_MAX} bytes."
            raise Refused(400, "invalid", message, "MetadataTooLarge")


@dataclass(frozen=True)
class StoredObject:
    bucket: str
    name: str
    generation: int
    metageneration: int
    size: int
    crc32c: str
    md5: str | None
    attributes: Attributes
    created: datetime
    updated: datetime
    components: int | None = None
    data: bytes | Path = b""

    def read(self) -> bytes:
        return self.data.read_bytes() if isinstance(self.data, Path) else self.data

    @property
    def etag(self) -> str:
        return base64.b64encode(f"{self.generation}/{self.metageneration}".encode()).decode()


@dataclass
class Bucket:
    name: str
    created: datetime
    location: str = "US"
    project: str = ""
    objects: dict[str, StoredObject] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Page:
    """One page of a listing; `prefixes` are the common prefixes when a delimiter was given."""

    objects: tuple[StoredObject, ...]
    prefixes: tuple[str, ...]
    next_token: str | None


@dataclass(frozen=True)
class Listing:
    prefix: str = ""
    delimiter: str = ""
    start: str = ""
    end: str = ""
    after: str = ""
    limit: int = LIST_MAX
    include_trailing_delimiter: bool = False


def crc32c_of(data: bytes) -> str:
    return base64.b64encode(google_crc32c.value(data).to_bytes(4)).decode()


def md5_of(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def check_name(name: str, *, hierarchical: bool = False) -> None:
    """Object names as the service takes them (Cloud Storage, about objects: naming considerations)."""
    size = len(name.encode())
    bad = not name or size > NAME_BYTES_MAX or "\n" in name or "\r" in name or name in (".", "..")
    if hierarchical:
        folder, _, base = name.rpartition("/")
        bad = bad or len(f"{folder}/".encode()) > FOLDER_BYTES_MAX or len(base.encode()) > BASE_BYTES_MAX
    if bad or name.startswith(".well-known/acme-challenge/"):
        raise Refused(400, "invalid", f"The specified object name is not valid: {name!r}.", "InvalidObjectName")


class ObjectStore:
    """All buckets of the emulator; every method is safe to call from any thread.

    `folder`: keep the bytes of objects in files there instead of in memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._lock = threading.RLock()
        self._buckets: dict[str, Bucket] = {}
        self._generations = itertools.count(1_700_000_000_000_000)
        self.fields: Callable[[str], Mapping[str, Any]] = lambda _bucket: {}  # what a setting says of a bucket's resource

    def reset(self) -> None:
        with self._lock:
            self._buckets.clear()

    # Buckets

    def create_bucket(self, name: str, location: str = "US", project: str = "") -> Bucket:
        if not _BUCKET.fullmatch(name):
            raise Refused(400, "invalid", f"Invalid bucket name: '{name}'", "InvalidBucketName")
        with self._lock:
            if name in self._buckets:
                message = "Your previous request to create the named bucket succeeded and you already own it."
                raise Refused(409, "conflict", message, "BucketAlreadyOwnedByYou")
            self._buckets[name] = Bucket(name, datetime.now(UTC), location, project)
            return self._buckets[name]

    def bucket(self, name: str) -> Bucket:
        with self._lock:
            if name not in self._buckets:
                raise Refused(404, "notFound", "The specified bucket does not exist.", "NoSuchBucket")
            return self._buckets[name]

    def buckets(self) -> list[Bucket]:
        with self._lock:
            return sorted(self._buckets.values(), key=lambda bucket: bucket.name)

    def delete_bucket(self, name: str) -> None:
        with self._lock:
            if self.bucket(name).objects:
                raise Refused(409, "conflict", "The bucket you tried to delete is not empty.", "BucketNotEmpty")
            del self._buckets[name]

    # Objects

    def put(
        self,
        bucket: str,
        name: str,
        data: bytes,
        attributes: Attributes,
        conditions: Conditions = Conditions(),
        said: Hashes = Hashes(),
        components: int | None = None,
    ) -> StoredObject:
        """Store bytes as a new generation, once hashes and preconditions hold."""
        fields = self.fields(bucket)
        check_name(name, hierarchical=fields.get("hierarchicalNamespace", {}).get("enabled", False))
        if attributes.kms_key is None:
            attributes = replace(attributes, kms_key=fields.get("encryption", {}).get("defaultKmsKeyName") or None)
        if fields.get("autoclass", {}).get("enabled"):
            attributes = replace(attributes, storage_class="STANDARD")  # whatever the request says (Cloud Storage, Autoclass)
        crc32c, md5 = crc32c_of(data), md5_of(data)
        for kind, given, actual in (("CRC32C", said.crc32c, crc32c), ("MD5", said.md5, md5)):
            if given is not None and given != actual:
                message = f'Provided {kind} "{given}" doesn\'t match calculated {kind} "{actual}".'
                raise Refused(400, "invalid", message, "BadDigest")
        with self._lock:
            home = self.bucket(bucket)
            conditions.check(home.objects.get(name))
            now = datetime.now(UTC)
            stored = StoredObject(
                bucket=bucket,
                name=name,
                generation=next(self._generations),
                metageneration=1,
                size=len(data),
                crc32c=crc32c,
                md5=md5 if components is None else None,  # composed and multipart objects have no MD5
                attributes=attributes,
                created=now,
                updated=now,
                components=components,
            )
            stored = replace(stored, data=self._keep(stored, data))
            if name not in home.objects:
                bisect.insort(home.names, name)
            self._discard(home.objects.get(name))
            home.objects[name] = stored
            return stored

    def get(self, bucket: str, name: str, generation: int | None = None, conditions: Conditions = Conditions()) -> StoredObject:
        with self._lock:
            found = self.bucket(bucket).objects.get(name)
            if found is None or generation not in (None, found.generation):
                raise not_found(f"{bucket}/{name}")
            conditions.check(found)
            return found

    def delete(self, bucket: str, name: str, generation: int | None = None, conditions: Conditions = Conditions()) -> None:
        with self._lock:
            self._discard(self.get(bucket, name, generation, conditions))
            home = self.bucket(bucket)
            del home.objects[name]
            home.names.pop(bisect.bisect_left(home.names, name))

    def patch(
        self, bucket: str, name: str, attributes: Attributes, conditions: Conditions, generation: int | None
    ) -> StoredObject:
        with self._lock:
            found = self.get(bucket, name, generation, conditions)
            changed = replace(found, attributes=attributes, metageneration=found.metageneration + 1, updated=datetime.now(UTC))
            self.bucket(bucket).objects[name] = changed
            return changed

    def move(self, bucket: str, source: str, target: str, source_conditions: Conditions, conditions: Conditions) -> StoredObject:
        with self._lock:
            found = self.get(bucket, source, None, source_conditions)
            moved = self.put(bucket, target, found.read(), found.attributes, conditions)
            self.delete(bucket, source)
            return moved

    def list(self, bucket: str, wanted: Listing) -> Page:
        """A page in UTF-8 order; common prefixes count as entries, as in the service."""
        with self._lock:
            home = self.bucket(bucket)
            objects: list[StoredObject] = []
            prefixes: list[str] = []
            last = ""
            for name in self._names(home, wanted):
                common = _common_prefix(name, wanted)
                if common is not None and prefixes and prefixes[-1] == common:
                    last = name
                    continue
                if len(objects) + len(prefixes) >= wanted.limit:
                    return Page(tuple(objects), tuple(prefixes), last)
                if common is not None and common > wanted.after:
                    prefixes.append(common)
                if common is None or (wanted.include_trailing_delimiter and name == common):
                    objects.append(home.objects[name])
                last = name
            return Page(tuple(objects), tuple(prefixes), None)

    def _names(self, home: Bucket, wanted: Listing) -> Iterator[str]:
        begin = max(wanted.prefix, wanted.start)
        at = bisect.bisect_left(home.names, begin)
        if wanted.after:
            at = max(at, bisect.bisect_right(home.names, wanted.after))
        for name in itertools.islice(home.names, at, None):
            if (wanted.end and name >= wanted.end) or not name.startswith(wanted.prefix):
                return
            yield name

    def _keep(self, stored: StoredObject, data: bytes) -> bytes | Path:
        if self._folder is None:
            return data
        path = self._folder / f"{stored.generation}"
        path.write_bytes(data)
        return path

    @staticmethod
    def _discard(old: StoredObject | None) -> None:
        if old is not None and isinstance(old.data, Path):
            old.data.unlink(missing_ok=True)


def _common_prefix(name: str, wanted: Listing) -> str | None:
    if not wanted.delimiter:
        return None
    at = name.find(wanted.delimiter, len(wanted.prefix))
    return None if at < 0 else name[: at + len(wanted.delimiter)]
