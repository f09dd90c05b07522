"""Buckets with a path inside: `s3://bucket/path/`, `gs://bucket/path/`, or a bare bucket name, which means GCS."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

DIRECTORY_BUCKET = "--x-s3"
"""How the names of directory buckets end (S3, directory bucket naming rules)."""
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")


class Scheme(StrEnum):
    S3 = "s3"
    GCS = "gs"


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket and the path in it (empty, or ending in '/'), where a transfer reads or writes."""

    scheme: Scheme
    bucket: str
    path: str = ""

    def __str__(self) -> str:
        inside = f"/{self.path}" if self.path else ""
        return f"{self.scheme}://{self.bucket}{inside}"

    def overlaps(self, other: Place) -> bool:
        """Whether one of the two lies inside the other."""
        if (self.scheme, self.bucket) != (other.scheme, other.bucket):
            return False
        return self.path.startswith(other.path) or other.path.startswith(self.path)


def place(text: str) -> Place:
    """Read a place as users write it; raises ValueError that says what would be right."""
    scheme, mark, rest = text.partition("://")
    if not mark:
        scheme, rest = Scheme.GCS.value, text
    if scheme not in (Scheme.S3.value, Scheme.GCS.value):
        raise ValueError(f"{text!r} is neither s3:// nor gs://: write s3://bucket/path, gs://bucket/path or a GCS bucket's name")
    bucket, _, path = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(f"{text!r} does not name a bucket: {bucket!r} is not a bucket's name")
    if scheme == Scheme.S3.value and bucket.endswith(DIRECTORY_BUCKET):
        raise ValueError(
            f"{text!r} is a directory bucket (S3 Express One Zone), which lists its keys in no order: nobody could tell "
            "whether a migration is whole. Copy it into a general purpose bucket first, and migrate that"
        )
    if path.startswith("/"):
        raise ValueError(f"{text!r}: the path inside the bucket starts with '/'")
    if path and not path.endswith("/"):
        path += "/"
    return Place(Scheme(scheme), bucket, path)


def places_of(source: str, destination: str, *, otherwise: tuple[Place, Place]) -> tuple[Place, Place]:
    """Where a prefix comes from and goes to: its own places where it has some. Raises ValueError for one that is none."""
    return (place(source) if source else otherwise[0], place(destination) if destination else otherwise[1])


def without_password(address: str) -> str:
    """A URL with the password of its user, if it has one, masked."""
    return re.sub(r"(://[^:/@]*):[^/]*@", r"\1:***@", address)
