"""Queues by their address: `sqlite:///FILE`, `pubsub://PROJECT/NAME?board=gs://BUCKET/OBJECT`."""

from __future__ import annotations

from pathlib import Path

from cdn_worker.domain.errors import BadInput
from cdn_worker.ports import Queues
from cdn_worker.queues.sqlite import sqlite_queues

SQLITE, PUBSUB = "sqlite:///", "pubsub://"


def open_queues(address: str, *, lease_s: float = 60.0) -> Queues:
    """The queues at an address. Raises BadInput for one that is none, or where nothing is. lease_s: of a SQLite queue."""
    if address.startswith(PUBSUB):
        # Its client costs half a second and 60 MiB, and most workers have no use for it.
        from cdn_worker.queues.pubsub import pubsub_queues  # noqa: PLC0415

        return pubsub_queues(address)
    if address.startswith(SQLITE) and len(address) > len(SQLITE):
        return sqlite_queues(Path(address.removeprefix(SQLITE)), lease_s=lease_s)
    raise BadInput(f"--queue {address!r}: it is written sqlite:///FILE or pubsub://PROJECT/NAME?board=gs://BUCKET/OBJECT")


def prepare_queues(address: str, *, lease_s: float = 60.0) -> list[str]:
    """Make what is missing of the queues at an address; what was done, a line each. Raises BadInput."""
    if address.startswith(PUBSUB):
        from cdn_worker.queues.pubsub import prepare_pubsub  # noqa: PLC0415 - as above

        return prepare_pubsub(address, lease_s=lease_s)
    open_queues(address).close()
    return []
