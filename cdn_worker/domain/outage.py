"""Which servers have not answered at all for a while: what meets all objects alike is told at once, and burns none of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

OUTAGE_S = 20.0
FORGET_S = 120.0
"""A server that nobody has tried for so long is no outage any more: the job that needed it may be over."""
MISSES = 3
SERVERS_KEPT = 100


@dataclass(slots=True)
class Contact:
    """With one server. Times of the machine's monotonic clock, which its processes share.

    heard_at    when it last answered anything at all
    missed_at   when it first did not, since; last_missed_at: when it last did not; missed: how often
    said        why not, the last time
    """

    heard_at: float = float("-inf")
    missed_at: float = float("inf")
    last_missed_at: float = float("-inf")
    missed: int = 0
    said: str = ""


class Outage(NamedTuple):
    """A server that has answered nothing for so many seconds."""

    server: str
    seconds: float
    tries: int
    said: str

    def text(self) -> str:
        return f"{self.server}: {self.said or 'no answer'} ({self.tries:,} tries in {self.seconds:,.0f} s, no answer to any)"


class Contacts:
    """Those of one loop, by server."""

    __slots__ = ("known",)

    def __init__(self) -> None:
        self.known: dict[str, Contact] = {}

    def heard(self, url: str, now: float) -> None:
        one = self._of(url)
        one.heard_at = now
        if one.missed:
            one.missed, one.missed_at, one.said = 0, float("inf"), ""

    def missed(self, url: str, now: float, said: str) -> None:
        one = self._of(url)
        one.missed_at = min(one.missed_at, now)
        one.last_missed_at = now
        one.missed += 1
        one.said = said

    def _of(self, url: str) -> Contact:
        server = url.split("/", 3)[2]
        found = self.known.get(server)
        if found is None:
            if len(self.known) >= SERVERS_KEPT:
                self.known.clear()
            found = self.known[server] = Contact()
        return found


def outages(many: Iterable[Mapping[str, Contact]], now: float) -> list[Outage]:
    """Of several loops together: a server that one of them hears is there."""
    known: dict[str, list[Contact]] = {}
    for one in many:
        for server, contact in one.items():
            known.setdefault(server, []).append(contact)
    found = []
    for server, contacts in known.items():
        heard = max(one.heard_at for one in contacts)
        missed = [one for one in contacts if one.missed and one.last_missed_at > heard]
        if not missed:
            continue
        first = max(heard, min(one.missed_at for one in missed))
        last = max(missed, key=lambda one: one.last_missed_at)
        tries = sum(one.missed for one in missed)
        if tries >= MISSES and now - first >= OUTAGE_S and now - last.last_missed_at < FORGET_S:
            found.append(Outage(server, now - first, tries, last.said))
    return found
