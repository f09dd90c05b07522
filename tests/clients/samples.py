"""What the clients move: files with hard names, an empty one, a large one; and the same as read back by the official clients."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

HARD_NAMES = (
    "a b", "100%", "a%20b", "a+b", "c#", "it's", "semi;colon,comma", "back\\slash", "tab\tx", "日本語", "🎉",
    "é/ü", "deep/er/still", "star*", "[x]", "~tilde", "=equals", "quo\"te", "amp&<>",
)  # fmt: skip
"""Names that a file may have, and every client can hold: none with `//`, `.`, `..`, a slash at its end, or a line end."""
LARGE = "large.bin"
LARGE_BYTES = 20 * 1024 * 1024 + 1


def make_bytes(seed: str, size: int) -> bytes:
    """Bytes that no compression makes smaller, always the same for a seed."""
    return hashlib.shake_256(seed.encode()).digest(size)


def make_samples() -> dict[str, bytes]:
    """Contents by name."""
    small = {name: make_bytes(name, 1000 + len(name)) for name in HARD_NAMES}
    return small | {"empty": b"", "one.html": b"<p>", LARGE: make_bytes(LARGE, LARGE_BYTES)}


def write_files(folder: Path, samples: dict[str, bytes]) -> Path:
    for name, data in samples.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def read_files(folder: Path) -> dict[str, bytes]:
    """Contents by name of a folder's files."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_s3(client: Any, bucket: str, prefix: str = "") -> dict[str, bytes]:
    """Contents of objects by their names without the prefix, as boto3 reads them."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
    return {key.removeprefix(prefix): client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


def read_gcs(client: Any, bucket: str, prefix: str = "") -> dict[str, bytes]:
    """Contents of objects by their names without the prefix, as google-cloud-storage reads them."""
    blobs = list(client.list_blobs(bucket, prefix=prefix))
    return {blob.name.removeprefix(prefix): blob.download_as_bytes(raw_download=True) for blob in blobs}


def differ(found: dict[str, bytes], wanted: dict[str, bytes]) -> list[str]:
    """Names that are missing, that are too many, or whose bytes are others: short to print, however large the bytes."""
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
