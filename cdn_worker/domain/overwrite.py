"""What may be done to an object that is at the sink and is not the listed one (INVARIANTS 9)."""

from __future__ import annotations

from enum import StrEnum

from cdn_worker.domain.integrity import Stored

REPLACES_IT = "`--overwrite-when DIFFERENT` (of `cdn-worker copy`: --overwrite) replaces it"


class Replace(StrEnum):
    """Whatever is replaced is replaced as the generation that was seen, and no other."""

    NEVER = "never"
    RECORDED = "recorded"  # an earlier version of the same object of the source, as what is recorded with it shows
    DIFFERENT = "different"
    ALWAYS = "always"  # equal ones too

    def allows(self, stored: Stored, uri: str) -> bool:
        """Whether an object that differs may be replaced by the one at `uri`.

        That a transfer brought it is not enough: it may be another source's only copy.
        """
        return self in (Replace.DIFFERENT, Replace.ALWAYS) or (self is Replace.RECORDED and uri == stored.source_uri != "")
