"""What may be done to an object that is at the sink and is not the listed one (INVARIANTS 9)."""

from __future__ import annotations

from enum import StrEnum

from cdn_worker.domain.integrity import Stored


class Replace(StrEnum):
    """Whatever is replaced is replaced as the generation that was seen, and no other."""

    NEVER = "never"
    RECORDED = "recorded"  # what an earlier transfer put there, as the source ETag recorded with it shows
    DIFFERENT = "different"
    ALWAYS = "always"  # equal ones too

    def allows(self, stored: Stored) -> bool:
        """Whether an object that differs may be replaced."""
        return self in (Replace.DIFFERENT, Replace.ALWAYS) or (self is Replace.RECORDED and bool(stored.source_etag))
