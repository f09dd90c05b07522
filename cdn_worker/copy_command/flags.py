"""From the flags of `copy` to a `Job`: everything that can be wrong is found here, and named."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cdn_worker.config import Reach
from cdn_worker.copy_command.run import Job
from cdn_worker.domain.errors import BadInput
from cdn_worker.domain.keys import KeyMapping
from cdn_worker.domain.listing_page import Filter
from cdn_worker.domain.ordering import bucket_fault
from cdn_worker.flags import ReachFlags

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_CLASS = re.compile(r"[A-Z][A-Z_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags(ReachFlags):
    """The flags of `copy`."""

    source: str
    destination: str
    listing_lanes: int = 8
    storage_class: str = ""
    kms_key: str = ""
    overwrite: bool = False
    source_storage_class: Sequence[str] = ()
    modified_since: str = ""
    modified_before: str = ""
    multipart_etags: bool = True
    verdicts: Path = Path("verdicts.ndjson")
    dry_run: bool = False


def place(flag: str, text: str, scheme: str) -> tuple[str, str]:
    """The bucket and the prefix of `s3://bucket/prefix`. Raises BadInput."""
    begin = f"{scheme}://"
    if not text.startswith(begin):
        raise BadInput(f"{flag} {text!r}: it is written {begin}BUCKET/PREFIX")
    bucket, _, prefix = text.removeprefix(begin).partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise BadInput(f"{flag} {text!r}: {bucket!r} is no bucket's name")
    if scheme == "s3" and (fault := bucket_fault(bucket)) is not None:
        raise BadInput(f"{flag} {text!r}: {fault}")
    return bucket, prefix


def moment(flag: str, text: str) -> datetime | None:
    """A time in ISO 8601; UTC when it has no zone. Raises BadInput."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"{flag} {text!r}: a time is written 2026-11-21 or 2026-11-21T03:00:00Z") from None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def job_of(flags: Flags, reach: Reach) -> Job:
    """What is to be done. Raises BadInput that names the flag, what is wrong with it, and what would be right."""
    source_bucket, source_prefix = place("--source", flags.source, "s3")
    sink_bucket, sink_prefix = place("--destination", flags.destination, "gs")
    _check_filters(flags)
    mapping = KeyMapping(source_root=source_prefix, sink_root=sink_prefix, substitutions=reach.substitutions)
    setup = reach.setup(
        source_bucket,
        sink_bucket,
        mapping,
        storage_class=flags.storage_class,
        kms_key=flags.kms_key,
        multipart_etags=flags.multipart_etags,
    )
    since, before = moment("--modified-since", flags.modified_since), moment("--modified-before", flags.modified_before)
    if since is not None and before is not None and since >= before:
        raise BadInput(
            f"--modified-since {flags.modified_since} is not before --modified-before {flags.modified_before}: no object fits"
        )
    return Job(
        setup=setup,
        prefix=source_prefix,
        verdicts=flags.verdicts,
        filter=Filter(storage_classes=tuple(flags.source_storage_class), since=since, before=before),
        overwrite=flags.overwrite,
        processes=flags.processes or os.cpu_count() or 1,
        lanes=flags.listing_lanes,
        dry_run=flags.dry_run,
    )


def _check_filters(flags: Flags) -> None:
    for name, values in (("--source-storage-class", flags.source_storage_class), ("--storage-class", [flags.storage_class])):
        for value in values:
            if value and not _CLASS.fullmatch(value):
                raise BadInput(f"{name} {value!r}: classes are written in capitals, as STANDARD or NEARLINE")
    if flags.kms_key and not re.fullmatch(r"projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+", flags.kms_key):
        raise BadInput(f"--kms-key {flags.kms_key!r}: it is written projects/P/locations/L/keyRings/R/cryptoKeys/K")
