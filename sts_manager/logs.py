"""This program's log: the same lines as the data plane's."""

from __future__ import annotations

from typing import TextIO

from cdn_worker import logs
from cdn_worker.logs import json_text, masked, visible

__all__ = ["configure", "json_text", "masked", "visible"]


def configure(stream: TextIO | None = None) -> str | None:
    """Send this program's log to stderr at `LOGLEVEL` (default INFO). Returns a complaint about an unknown level."""
    return logs.configure("sts_manager", stream)
