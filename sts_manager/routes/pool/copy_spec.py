"""What the programs of the data plane are told, whichever route asks for them: files, flags, and what a prefix is to become."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from sts_manager.domain.errors import Permanent
from sts_manager.domain.location import Scheme, places_of
from sts_manager.domain.model import Route, StartJob
from sts_manager.routes.pool.route import PoolSettings
from sts_manager.settings import Settings


def beside_store(settings: Settings, suffix: str) -> Path:
    """A file of ours: beside a SQLite store and called after it, else in the current folder."""
    if settings.bigquery is None:
        url = sa.make_url(settings.store)
        if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
            store = Path(url.database)
            return store.with_name(f"{store.stem}_{suffix}.db")
    return Path(f"sts_manager_{suffix}.db")


def pool_settings(settings: Settings, order: StartJob, route: str) -> PoolSettings:
    """What is asked of the data plane for a prefix. Raises Permanent for a source that it cannot read."""
    source, sink = places_of(order.source, order.destination, otherwise=(settings.source, settings.sink))
    if source.scheme is not Scheme.S3:
        raise Permanent(f"route {route} reads S3, but {order.prefix!r} comes from {source}", code="ROUTE_UNFIT")
    through_cdn = settings.cdn_url and route != Route.STS_S3
    if through_cdn and "{bucket}" not in settings.cdn_url and source.bucket != settings.source.bucket:
        raise Permanent(
            f"{order.prefix!r} comes from {source}, and --cdn-url {settings.cdn_url} is before {settings.source}: write "
            "{bucket} where the bucket's name stands in it, or give the row another route",
            code="ROUTE_UNFIT",
        )
    if settings.storage_class == "PRESERVE":
        told = f"--storage-class PRESERVE is for objects from Cloud Storage, and {order.prefix!r} comes from {source}"
        raise Permanent(told, code="ROUTE_UNFIT")
    return PoolSettings(
        source=source,
        sink=sink,
        overwrite_when="ALWAYS" if settings.overwrite_dest_objects else settings.overwrite_when,
        storage_class=settings.storage_class,
        since=settings.modified_since,
        before=settings.modified_before,
        storage_classes=settings.storage_classes,
    )


def cdn_words(settings: Settings) -> list[str]:
    """The flags that say how the source is read."""
    words: list[str] = []
    for flag, value in (
        ("--cdn-url", settings.cdn_url),
        ("--cdn-key-pair-id", settings.cdn_key_pair_id),
        ("--cdn-private-key-file", settings.cdn_private_key_file),
        ("--cdn-private-key-secret", settings.cdn_private_key_secret),
        *(("--substitute", pair) for pair in settings.cdn_substitute.split(";")),
    ):
        words += [flag, value] if value else []
    return [*words, "--cdn-digest", settings.cdn_digest, "--cdn-signature-life", str(settings.cdn_signature_life)]
