"""What is asked of `doctor --probe` on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProbeOptions:
    """yes: no question is to be asked. report: where to, None for the usual name. kms_key: of Cloud KMS, for one object."""

    yes: bool = False
    report: Path | None = None
    write_source: bool = False
    kms_key: str = ""
    as_json: bool = False
