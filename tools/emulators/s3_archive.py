"""Archived objects of the S3 server: which ones cannot be read, how they are restored, and where S3 tells of it.

Documented: S3 API (GetObject, HeadObject, RestoreObject, RestoreStatus, InvalidObjectState), S3 user guide (restoring-objects,
intelligent-tiering-managing). Assumed: where `RestoreStatus` stands among the fields of a listed object (after `StorageClass`).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote_plus
from xml.sax.saxutils import unescape

from moto.s3.models import s3_backends

from tools.emulators.ledger import Ledger
from tools.emulators.s3_errors import Failure

ARCHIVED = ("GLACIER", "DEEP_ARCHIVE")
TIERING = "INTELLIGENT_TIERING"
ACCOUNT = "123456789012"
"""moto's, for every key that it does not know better."""
TIERS = ("ARCHIVE_ACCESS", "DEEP_ARCHIVE_ACCESS")
QUOTES = {"&quot;": '"', "&apos;": "'", "&#x27;": "'", "&#34;": '"'}
_CONTENTS = re.compile(r"<Contents>.*?</Contents>", re.DOTALL)
_KEY = re.compile(r"<Key>(.*?)</Key>", re.DOTALL)
_DAYS = re.compile(rb"<Days>\s*(\d+)\s*</Days>")
Name = tuple[str, str]


@dataclass
class Restore:
    """A restore of one object: asked for, ready at a time, and (but for Intelligent-Tiering) over at another."""

    ready_at: datetime
    expires_at: datetime | None


class Archive:
    """Safe to use from any thread. `now` is the wall clock, in UTC."""

    def __init__(self, ledger: Ledger, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._ledger, self._now = ledger, now
        self._lock = threading.RLock()
        self._tiers: dict[Name, str] = {}
        self._restores: dict[Name, Restore] = {}

    def reset(self) -> None:
        with self._lock:
            self._tiers.clear()
            self._restores.clear()

    # The stage's own

    def move(self, bucket: str, key: str, tier: str) -> None:
        """Put an Intelligent-Tiering object into an archive tier, as S3 does by itself after months without a read."""
        if tier not in TIERS or _class_of(bucket, key) != TIERING:
            raise ValueError(
                f"an object of class {TIERING} can be moved to {' or '.join(TIERS)}; not s3://{bucket}/{key} to {tier!r}"
            )
        with self._lock:
            self._restores.pop((bucket, key), None)
            self._tiers[bucket, key] = tier

    def expire(self, bucket: str, key: str) -> None:
        """The days of a restored copy are over."""
        with self._lock:
            self._restores.pop((bucket, key), None)

    # What S3 says and does

    def forget(self, bucket: str, key: str) -> None:
        """The object was written anew, or deleted."""
        with self._lock:
            self._tiers.pop((bucket, key), None)
            self._restores.pop((bucket, key), None)

    def unreadable(self, bucket: str, key: str) -> Failure | None:
        """Why GetObject is refused; None when it is not."""
        with self._lock:
            tier, restore = self._state(bucket, key)
            storage_class = _class_of(bucket, key)
        if tier is None and storage_class not in ARCHIVED:
            return None
        if restore is not None and restore.ready_at <= self._now():
            return None
        elements = {"StorageClass": storage_class or ""} | ({} if tier is None else {"AccessTier": tier})
        return Failure(403, "InvalidObjectState", "The operation is not valid for the object's storage class", elements)

    def headers(self, bucket: str, key: str) -> dict[str, str]:
        """What GetObject and HeadObject tell of it."""
        with self._lock:
            tier, restore = self._state(bucket, key)
        found = {} if tier is None else {"x-amz-archive-status": tier}
        if restore is not None and restore.ready_at > self._now():
            found["x-amz-restore"] = 'ongoing-request="true"'
        elif restore is not None and restore.expires_at is not None:
            date = restore.expires_at.strftime("%a, %d %b %Y %H:%M:%S GMT")
            found["x-amz-restore"] = f'ongoing-request="false", expiry-date="{date}"'
        return found

    def restore(self, bucket: str, key: str, body: bytes) -> int | Failure:
        """RestoreObject: 202 when it begins, 200 when a copy is there and stays longer."""
        days = _DAYS.search(body)
        with self._lock:
            object_ = _object(bucket, key)
            if object_ is None:
                return Failure(404, "NoSuchKey", "The specified key does not exist.", {"Key": key})
            tier, known = self._state(bucket, key)
            if tier is None and object_.storage_class not in ARCHIVED:
                told = "Restore is not allowed for the object's current storage class"
                return Failure(403, "InvalidObjectState", told, {"StorageClass": object_.storage_class})
            if (tier is None) != (days is not None):
                told = "Days goes with GLACIER and DEEP_ARCHIVE, and not with Intelligent-Tiering"
                return Failure(400, "MalformedXML", f"The XML you provided was not well-formed: {told}")
            now = self._now()
            if known is not None and known.ready_at > now:
                return Failure(409, "RestoreAlreadyInProgress", "Object restore is already in progress")
            ready_at = now + timedelta(seconds=float(self._ledger.setting("s3.restore_seconds")))
            expires_at = None
            if days is not None:
                # The day begins anew at midnight UTC (S3 user guide, restoring-objects).
                whole = now + timedelta(days=int(days[1]) + 1)
                expires_at = whole.replace(hour=0, minute=0, second=0, microsecond=0)
                object_.restore(int(days[1]) + 1)  # moto has a check of its own
            self._restores[bucket, key] = Restore(now if known is not None else ready_at, expires_at)
            return 202 if known is None else 200

    def tell(self, bucket: str, page: bytes) -> bytes:
        """A page of ListObjectsV2 with the `RestoreStatus` of what is, or was, restored."""
        with self._lock:
            if not any(name == bucket for name, _ in self._restores):
                return page
        text = page.decode()
        encoded = "<EncodingType>url</EncodingType>" in text

        def added(found: re.Match[str]) -> str:
            key = _KEY.search(found[0])
            name = "" if key is None else unescape(key[1], QUOTES)
            status = self._status(bucket, unquote_plus(name) if encoded else name)
            return found[0].replace("</Contents>", f"{status}</Contents>")

        return _CONTENTS.sub(added, text).encode()

    def _status(self, bucket: str, key: str) -> str:
        with self._lock:
            _, restore = self._state(bucket, key)
        if restore is None:
            return ""
        if restore.ready_at > self._now():
            return "<RestoreStatus><IsRestoreInProgress>true</IsRestoreInProgress></RestoreStatus>"
        assert restore.expires_at is not None, "a restored object of Intelligent-Tiering has no state"
        date = restore.expires_at.strftime("%Y-%m-%dT%H:%M:%S.000Z")
        return (
            "<RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress>"
            f"<RestoreExpiryDate>{date}</RestoreExpiryDate></RestoreStatus>"
        )

    def _state(self, bucket: str, key: str) -> tuple[str | None, Restore | None]:
        """(archive tier, restore): what is over by now is forgotten."""
        name, now = (bucket, key), self._now()
        restore = self._restores.get(name)
        if restore is not None and restore.expires_at is not None and restore.expires_at <= now:
            restore = self._restores.pop(name) and None
        if name in self._tiers and restore is not None and restore.ready_at <= now:
            # It has moved back to the Frequent Access tier, where nothing tells of a restore.
            del self._tiers[name], self._restores[name]
            restore = None
        return self._tiers.get(name), restore


def _object(bucket: str, key: str) -> Any:
    """moto's own, or None."""
    found = s3_backends[ACCOUNT]["aws"].buckets.get(bucket)
    return None if found is None else found.keys.get(key)


def _class_of(bucket: str, key: str) -> str | None:
    found = _object(bucket, key)
    return None if found is None else str(found.storage_class)
