"""From settings to objects: the same in the process that plans and in those that copy."""

from __future__ import annotations

from dataclasses import dataclass, field

from cdn_worker.domain.keys import KeyMapping
from cdn_worker.http.engine import Limits
from cdn_worker.object_copy.commands import Way
from cdn_worker.ports import Source
from cdn_worker.storage.cdn import CdnSource
from cdn_worker.storage.gcs import GcsSink
from cdn_worker.storage.s3 import S3Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What is copied from where to where, and how. No secret is in it.

    cdn_url        put before the path of a key; empty: objects are read from S3 itself
    buffer_bytes   the byte budget of one process
    slots          objects in flight in one process: the least, from which it climbs, and the most
    """

    s3_endpoint: str
    s3_region: str
    source_bucket: str
    sink_endpoint: str
    sink_bucket: str
    mapping: KeyMapping = field(default_factory=KeyMapping)
    cdn_url: str = ""
    key_pair_id: str = ""
    storage_class: str = ""
    kms_key: str = ""
    limits: Limits = field(default_factory=Limits)
    buffer_bytes: int = 256 << 20
    slots: tuple[int, int] = (16, 512)
    multipart_etags: bool = True
    backoff_s: float = 0.5


def s3_of(setup: Setup) -> S3Source:
    return S3Source(setup.s3_endpoint, setup.source_bucket, setup.s3_region)


def sink_of(setup: Setup) -> GcsSink:
    return GcsSink(setup.sink_endpoint, setup.sink_bucket, storage_class=setup.storage_class, kms_key=setup.kms_key)


def source_of(setup: Setup) -> Source:
    """Where bytes come from: the CDN when there is one, else S3."""
    s3 = s3_of(setup)
    return CdnSource(setup.cdn_url, setup.mapping, s3, key_pair_id=setup.key_pair_id) if setup.cdn_url else s3


def way_of(setup: Setup) -> Way:
    return Way(
        source=source_of(setup),
        sink=sink_of(setup),
        mapping=setup.mapping,
        backoff_s=setup.backoff_s,
        multipart_etags=setup.multipart_etags,
    )
