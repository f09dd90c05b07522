"""What became of one key: the value that a worker owes for everything that was listed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from cdn_worker.domain.integrity import Verified


class Verdict(StrEnum):
    """Exactly one for each listed key (INVARIANTS 3)."""

    DONE = "done"  # copied now, and proved
    SKIPPED = "skipped"  # an equal object was there already
    FAILED = "failed"
    UNMAPPABLE = "unmappable"  # no name, or no size, that the sink takes
    VANISHED = "vanished"  # gone from the source since it was listed


GOOD = (Verdict.DONE, Verdict.SKIPPED)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyVerdict:
    """One key's end. It refuses to exist when it claims more than it knows.

    size, etag    of the listing
    generation    of the sink's object; crc32c: of the bytes read (done) or of the object found (skipped), raw bytes
    error         a constant code, empty when all is well; details: for a person, also of a good end that cost more than others
    """

    key: str
    size: int
    etag: str
    verdict: Verdict
    generation: int = 0
    crc32c: bytes = b""
    verified: Verified = Verified.NONE
    error: str = ""
    details: str = ""
    tries: int = 1

    def __post_init__(self) -> None:
        if self.verdict is Verdict.DONE and not (self.generation and self.crc32c and self.verified in STRONG):
            raise ValueError(f"{self.key!r} cannot be done without a generation and a compared hash")
        if self.verdict is Verdict.SKIPPED and not (self.generation and self.verified):
            raise ValueError(f"{self.key!r} cannot be skipped without an object that was compared")
        if self.verdict in GOOD and self.error:
            raise ValueError(f"{self.key!r} is {self.verdict} and has an error")
        if self.verdict not in GOOD and not self.error:
            raise ValueError(f"{self.key!r} is {self.verdict} without a cause")
        if self.size < 0 or self.tries < 0:
            raise ValueError(f"impossible numbers for {self.key!r}")


STRONG = (Verified.MD5, Verified.CRC32C)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Verdicts added up: the counts of a listing, by verdict and by error."""

    verdicts: Mapping[Verdict, int]
    bytes_by_verdict: Mapping[Verdict, int]
    errors: Mapping[str, int]

    @property
    def listed(self) -> int:
        return sum(self.verdicts.values())

    @property
    def good(self) -> bool:
        """Whether every listed key is at the sink."""
        return all(not self.verdicts[one] for one in Verdict if one not in GOOD)


def summary(verdicts: Iterable[KeyVerdict]) -> Summary:
    """Add verdicts up. Raises ValueError when a key has two."""
    counts, sizes, errors = Counter[Verdict](), Counter[Verdict](), Counter[str]()
    seen: set[str] = set()
    for one in verdicts:
        if one.key in seen:
            raise ValueError(f"{one.key!r} has two verdicts")
        seen.add(one.key)
        counts[one.verdict] += 1
        sizes[one.verdict] += one.size
        if one.error:
            errors[one.error] += 1
    return Summary(
        verdicts={one: counts[one] for one in Verdict},
        bytes_by_verdict={one: sizes[one] for one in Verdict},
        errors=dict(errors),
    )


class Tally:
    """Verdicts added up as they come, however many: what a summary needs, and nothing of the keys."""

    def __init__(self) -> None:
        self._counts = Counter[Verdict]()
        self._sizes = Counter[Verdict]()
        self._errors = Counter[str]()
        self.samples: dict[str, KeyVerdict] = {}

    def add(self, verdict: KeyVerdict) -> None:
        self._counts[verdict.verdict] += 1
        self._sizes[verdict.verdict] += verdict.size
        if verdict.error:
            self._errors[verdict.error] += 1
            self.samples.setdefault(verdict.error, verdict)

    def summary(self) -> Summary:
        return Summary(
            verdicts={one: self._counts[one] for one in Verdict},
            bytes_by_verdict={one: self._sizes[one] for one in Verdict},
            errors=dict(self._errors),
        )
