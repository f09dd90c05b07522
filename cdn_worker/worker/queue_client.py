"""Speaks with the queues in threads of its own, so that the loop that copies never waits for them.

Three threads claim what is wanted; one sends what is ready, in the order in which it was handed over; one extends the leases, and
one looks at the board. Nothing is acknowledged before what follows from it is safely published.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cdn_worker.domain.errors import CdnWorkerError
from cdn_worker.ports import JobState, Leased, Queues, QueueUnavailable, WorkQueue

log = logging.getLogger(__name__)

WAIT_S = 0.5
PAUSE_S = 0.02
DRY_S = 0.1
"""Copies that have been asked for in vain for so long are none."""
HUGE_PAUSE_S = 0.25
"""Between claims of huge objects: few at a time, so that workers that start together share them."""
AWAY_S = 2.0
BOARD_S = 2.0
PARCELS_MAX = 200


class Kind(StrEnum):
    """Of which queue a task is."""

    LIST = "list"
    COPY = "copy"
    HUGE = "huge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A leased message; `at`: when it was claimed."""

    lease: Leased
    kind: Kind
    at: float = field(default_factory=time.monotonic)

    @property
    def key(self) -> tuple[Kind, str]:
        return self.kind, self.lease.token


@dataclass(slots=True, kw_only=True)
class Parcel:
    """What is published together, and then acknowledged. buried: claims that go to the dead letters, and why.

    given_back   claims of which nothing came, through no fault of theirs
    failed       claims of which nothing came although it was tried: they count as delivered in vain
    let_go       claims whose leases are not extended any more: another worker may be able to do what this one cannot
    """

    lists: list[bytes] = field(default_factory=list)
    copies: list[bytes] = field(default_factory=list)
    huge: list[bytes] = field(default_factory=list)
    reports: list[bytes] = field(default_factory=list)
    done: list[Claim] = field(default_factory=list)
    buried: list[tuple[Claim, str]] = field(default_factory=list)
    given_back: list[Claim] = field(default_factory=list)
    failed: list[Claim] = field(default_factory=list)
    let_go: list[Claim] = field(default_factory=list)


class PostBroken(CdnWorkerError):
    """What speaks with the queues is gone."""


class Post:
    """`failed` is told once when a queue goes away, and once when it is back (with an empty text)."""

    def __init__(self, queues: Queues, *, failed: Callable[[str], None] = lambda _why: None) -> None:
        self._queues, self._failed = queues, failed
        self._wanted = dict.fromkeys(Kind, 0)
        self._claimed: deque[Claim] = deque()
        self._held: dict[tuple[Kind, str], Claim] = {}
        self._outbox: deque[Parcel] = deque()
        self._sending = 0
        self._lock = threading.Lock()
        self._more = threading.Event()
        self._ended = threading.Event()
        self._no_more = threading.Event()
        self._away: set[str] = set()
        self._asked_at = 0.0
        self._extended_at = time.monotonic()
        self.board: Mapping[str, JobState] = {}
        self.looked = threading.Event()
        self._threads = [
            threading.Thread(target=one, name=f"post{one.__name__}", daemon=True)
            for one in (self._claims_copies, self._claims_huge, self._claims_lists, self._sends, self._keeps, self._looks)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    # For the loop

    def want(self, *, lists: int, copies: int, huge: int = 0) -> None:
        """How many messages may be claimed from now on, beyond those that are claimed."""
        with self._lock:
            self._wanted = {Kind.LIST: lists, Kind.COPY: copies, Kind.HUGE: huge}

    def claim_no_more(self) -> None:
        """From now on. A claim that is under way would take what is given back meanwhile: what it gets is given back again."""
        self._no_more.set()
        self.want(lists=0, copies=0)

    def claimed(self) -> list[Claim]:
        """What was claimed since."""
        with self._lock:
            found = list(self._claimed)
            self._claimed.clear()
        return found

    def send(self, parcel: Parcel) -> None:
        with self._lock:
            self._outbox.append(parcel)
        self._more.set()

    @property
    def full(self) -> bool:
        """Whether the queues take things more slowly than they are handed over."""
        return len(self._outbox) >= PARCELS_MAX

    @property
    def unsent(self) -> int:
        with self._lock:
            return len(self._outbox) + self._sending

    @property
    def oldest_s(self) -> float:
        """How long the claim that was held longest has been held."""
        now = time.monotonic()
        with self._lock:
            return now - min((one.at for one in self._held.values()), default=now)

    def check(self) -> None:
        """Raises PostBroken when a thread has ended by a defect: whoever relies on it must not go on as if it were there."""
        for thread in self._threads:
            if not thread.is_alive() and not self._ended.is_set():
                raise PostBroken(f"the thread {thread.name} has ended by a defect, which stands above; the worker ends with it")

    def close(self, seconds: float) -> None:
        """Send what is left, at most so long, and end."""
        self.claim_no_more()
        until = time.monotonic() + seconds
        while self.unsent and time.monotonic() < until:
            time.sleep(0.01)
        self._ended.set()
        self._more.set()
        for thread in self._threads:
            thread.join(timeout=max(0.1, until - time.monotonic()))

    # Threads

    def _queue(self, kind: Kind) -> WorkQueue:
        queues = self._queues
        return {Kind.LIST: queues.lists, Kind.COPY: queues.copies, Kind.HUGE: queues.huge}[kind]

    def _claims_copies(self) -> None:
        while not self._ended.is_set():
            self._asked_at = time.monotonic()
            got = self._claim(Kind.COPY)
            self._asked_at = 0.0 if got else self._asked_at
            self._ended.wait(0.0 if got else PAUSE_S)

    def _claims_huge(self) -> None:
        while not self._ended.is_set():
            self._claim(Kind.HUGE)
            self._ended.wait(HUGE_PAUSE_S)

    def _claims_lists(self) -> None:
        """A listing makes more work: it waits until there is none left to copy."""
        while not self._ended.is_set():
            dry = self._asked_at and time.monotonic() - self._asked_at > DRY_S
            if not (dry and self._claim(Kind.LIST)):
                self._ended.wait(PAUSE_S)

    def _claim(self, kind: Kind) -> int:
        """How many were claimed."""
        with self._lock:
            most = self._wanted[kind]
        if most <= 0:
            if kind is Kind.COPY:
                self._asked_at = 0.0
            return 0
        try:
            leases = self._queue(kind).lease(most, WAIT_S)
            if self._no_more.is_set():
                self._queue(kind).release(leases)
                return 0
        except QueueUnavailable as error:
            self._is_away("claim", str(error))
            self._ended.wait(AWAY_S)
            return 0
        self._is_away("claim", "")
        with self._lock:
            self._wanted[kind] -= len(leases)
            for lease in leases:
                claim = Claim(lease=lease, kind=kind)
                self._held[claim.key] = claim
                self._claimed.append(claim)
        return len(leases)

    def _sends(self) -> None:
        while True:
            if self._send_all():
                continue
            if self._ended.is_set():
                return
            self._more.wait(WAIT_S)
            self._more.clear()

    def _send_all(self) -> bool:
        """Whether there was anything to send."""
        with self._lock:
            parcels = list(self._outbox)
            self._outbox.clear()
            self._sending = len(parcels)
        if parcels:
            self._send_until_sent(_joined(parcels))
            with self._lock:
                self._sending = 0
        return bool(parcels)

    def _send_until_sent(self, parcel: Parcel) -> None:
        while not self._ended.is_set():
            try:
                self._send(parcel)
            except QueueUnavailable as error:
                self._is_away("send", str(error))
                self._ended.wait(AWAY_S)
            else:
                self._is_away("send", "")
                return

    def _send(self, parcel: Parcel) -> None:
        queues = self._queues
        queues.copies.publish(parcel.copies)
        queues.huge.publish(parcel.huge)
        queues.lists.publish(parcel.lists)
        queues.reports.publish(parcel.reports)
        for kind in Kind:
            queue = self._queue(kind)
            queue.ack([one.lease for one in parcel.done if one.kind is kind])
            queue.release([one.lease for one in parcel.given_back if one.kind is kind])
            queue.release([one.lease for one in parcel.failed if one.kind is kind], counted=True)
        for claim, reason in parcel.buried:
            self._queue(claim.kind).bury(claim.lease, reason)
        over = (*parcel.done, *parcel.given_back, *parcel.failed, *parcel.let_go, *(one for one, _ in parcel.buried))
        with self._lock:
            for claim in over:
                self._held.pop(claim.key, None)

    def _keeps(self) -> None:
        while not self._ended.is_set():
            self._keep()
            self._ended.wait(min(BOARD_S, self._queues.lease_s / 6))

    def _keep(self) -> None:
        """Extend the leases while they have two thirds of their time left."""
        try:
            self._extend()
        except QueueUnavailable as error:
            self._is_away("extend", str(error))
        else:
            self._is_away("extend", "")

    def _looks(self) -> None:
        """In a thread of its own: a board that hangs must not cost a lease."""
        while not self._ended.is_set():
            self._look()
            self._ended.wait(BOARD_S)

    def _look(self) -> None:
        try:
            self.board = self._queues.board.read()
        except QueueUnavailable as error:
            self._is_away("board", str(error))
        else:
            self.looked.set()
            self._is_away("board", "")

    def _extend(self) -> None:
        if time.monotonic() - self._extended_at < self._queues.lease_s / 3:
            return
        began = time.monotonic()
        with self._lock:
            held = list(self._held.values())
        for kind in Kind:
            lost = self._queue(kind).extend([one.lease for one in held if one.kind is kind])
            with self._lock:
                for lease in lost:  # somebody else has it by now: what is at work here goes on, and finds that
                    self._held.pop((kind, lease.token), None)
        self._extended_at = began

    def _is_away(self, part: str, why: str) -> None:
        """What one thread met; told when it is the first that meets something, or the last that is well again."""
        with self._lock:
            before = bool(self._away)
            (self._away.add if why else self._away.discard)(part)
            after = bool(self._away)
        if before != after and not self._ended.is_set():
            self._failed(why)


def _joined(parcels: list[Parcel]) -> Parcel:
    whole = Parcel()
    for one in parcels:
        whole.lists += one.lists
        whole.copies += one.copies
        whole.huge += one.huge
        whole.reports += one.reports
        whole.done += one.done
        whole.buried += one.buried
        whole.given_back += one.given_back
        whole.failed += one.failed
        whole.let_go += one.let_go
    return whole
