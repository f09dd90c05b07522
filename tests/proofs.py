"""How much of a proof is made: little of the dear ones in `make test`, all in `make test-long`."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")
LONG = bool(os.environ.get("STS_MANAGER_LONG"))


def sized(little: T, much: T) -> T:
    """`much` in `make test-long`."""
    return much if LONG else little
