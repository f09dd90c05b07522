"""The manifest of a transfer: a CSV object in Cloud Storage with a name a line, relative to the source's path."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

MANIFEST_BYTES_MAX = 256 << 20
"""Of one manifest. The service has no limit for transfers without agents (Storage Transfer Service, manifests); this one is
for our memory, as a manifest is made in it and goes up in one request. It holds some four million names of 60 bytes."""


def write_manifest(names: Iterable[str], bytes_max: int = MANIFEST_BYTES_MAX) -> bytes | None:
    """The text of a manifest, UTF-8; None if it would be longer than `bytes_max`: then all of the prefix is to be moved."""
    out = io.BytesIO()
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    rows = csv.writer(text, lineterminator="\n")
    for name in names:
        rows.writerow([name])
        if out.tell() > bytes_max:
            return None
    return out.getvalue()
