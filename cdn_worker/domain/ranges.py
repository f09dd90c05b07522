"""Ranges of keys, and where to cut one: so that a listing, which goes page by page, can go on in several places at once."""

from __future__ import annotations

from dataclasses import dataclass

FIRST, BEYOND = 0x20, 0x7F
"""Cuts are made of printable ASCII where that is possible: most keys are, and such a cut can stand in any request."""
KEY_CHARACTERS_MAX = 200


@dataclass(frozen=True, slots=True)
class KeyRange:
    """The keys above `after` and up to `until`; None: to the end of the prefix. In the order of UTF-8 bytes."""

    after: str = ""
    until: str | None = None

    def __contains__(self, key: str) -> bool:
        return key > self.after and (self.until is None or key <= self.until)

    def cut(self, at: str) -> tuple[KeyRange, KeyRange]:
        """Two ranges that hold just the keys of this one. Raises ValueError for a cut outside."""
        if not self.after < at or (self.until is not None and at >= self.until):
            raise ValueError(f"{at!r} is not inside {self}")
        return KeyRange(self.after, at), KeyRange(at, self.until)


def steps_up(low: str, high: str | None, prefix: str = "") -> list[str]:
    """Strings inside (low, high), the farthest first: `low` up to each of its characters, with that one stepped up by one.

    So for `logs/2026/11/21/x`: `logs/3`, `logs/21`, `logs/203`, …: keys lie above all of these from some place on, and that place
    tells in which character of the keys there is most to share out.
    """
    found = []
    for index in range(len(prefix), min(len(low), KEY_CHARACTERS_MAX)):
        code = ord(low[index]) + 1
        if 0xD800 <= code <= 0xDFFF or code > 0x10FFFF:
            continue
        step = low[:index] + chr(code)
        if high is None or step < high:
            found.append(step)
    return found


def middle(low: str, high: str | None, prefix: str = "") -> str | None:
    """A string between two others, about half way as strings go; None where there is no room that is worth a look.

    high   None for the end of the prefix. `low < middle < high` holds in code points, which is the order of UTF-8.
    """
    if high is None:
        # Nearly every key lies below this; where none lies above it, the next cut is made below it.
        top = prefix + chr(BEYOND)
        return top if low < top else None
    common = 0
    while common < len(low) and common < len(high) and low[common] == high[common]:
        common += 1
    if low >= high or common >= len(high):
        return None
    ceiling = ord(high[common])
    for index in range(common, min(len(low) + 1, KEY_CHARACTERS_MAX)):
        floor = ord(low[index]) if index < len(low) else FIRST - 1
        half = (floor + ceiling) // 2
        if floor < half < ceiling and not 0xD800 <= half <= 0xDFFF:
            return low[:index] + chr(half)
        # No room at this place: look for it in the keys that begin as `low` does.
        ceiling = BEYOND
    return None
