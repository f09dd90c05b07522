"""What meets all of a worker's objects alike: it is told to the manager, and no object and no delivery is burned for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cdn_worker.domain.outage import Outage
from cdn_worker.domain.verdict import KeyVerdict

ALIKE = 20
CODES = {
    "forbidden": "PERMISSION_DENIED",
    "sink_forbidden": "PERMISSION_DENIED",
    "sink_missing": "NOT_FOUND",
    "unreachable": "UNREACHABLE",
}
"""Errors that meet every object of a job alike when they meet the first ones."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why nothing goes on here. errors: of objects and listings that end by it; probes: whether trying shows that it is over."""

    code: str
    why: str
    errors: frozenset[str]
    probes: bool


def cause_of(lacking: str, outages: Sequence[Outage]) -> Cause | None:
    """lacking: why there are no credentials at the moment; empty when there are."""
    if lacking:
        return Cause("UNAUTHENTICATED", lacking, frozenset({"forbidden", "sink_forbidden", "listing_refused"}), probes=False)
    if outages:
        told = "; ".join(one.text() for one in outages[:3])
        return Cause("UNREACHABLE", told, frozenset({"unreachable", "sink_busy", "listing_busy"}), probes=True)
    return None


class Hope:
    """Of one job: whether anything of it went well here, or its objects fail alike."""

    def __init__(self) -> None:
        self._good = False
        self._alike: Counter[str] = Counter()

    def look(self, verdict: KeyVerdict) -> tuple[str, str] | None:
        """(code, why) each time that so many more have failed alike and none went well."""
        if not verdict.error:
            self._good = True
            self._alike.clear()
        elif not self._good and verdict.error in CODES:
            self._alike[verdict.error] += 1
            number = self._alike[verdict.error]
            if number % ALIKE == 0:
                return CODES[verdict.error], f"{number:,} objects failed alike, and none went well: {verdict.details}"
        return None
