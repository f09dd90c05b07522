"""Queues by their address: `sqlite:///FILE`, `pubsub://PROJECT/NAME`."""

from __future__ import annotations

from pathlib import Path

from cdn_worker.domain.errors import BadInput
from cdn_worker.ports import Queues
from cdn_worker.queues.sqlite import sqlite_queues

SQLITE, PUBSUB = "sqlite:///", "pubsub://"


def open_queues(address: str, *, lease_s: float = 60.0) -> Queues:
    """The queues at an address. Raises BadInput for one that is none, or where nothing is."""
    if address.startswith(SQLITE) and len(address) > len(SQLITE):
        return sqlite_queues(Path(address.removeprefix(SQLITE)), lease_s=lease_s)
    raise BadInput(f"--queue {address!r}: it is written sqlite:///FILE or pubsub://PROJECT/NAME")
