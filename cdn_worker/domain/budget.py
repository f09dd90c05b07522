"""The byte budget: what may lie in buffers at once. Objects are counted by what they need, not by how large they are."""

from __future__ import annotations

HUGE_BYTES = 64 << 20
"""An object of so many bytes and more takes long: it has slots, and a share of the budget, of its own, and others do not wait."""
QUEUE_FULL = 2 << 20
QUEUE_LEAST = 512 << 10
"""What waits between the read and the write of one stream, at most: less for each where there are many huge ones."""
HUGE_NEED = 2 * QUEUE_LEAST
"""What a huge object needs, at least: its queue, and what the sockets hold beside it."""


def is_huge(size: int) -> bool:
    return size >= HUGE_BYTES


def need_of(size: int, buffer_max: int) -> int:
    """Bytes that an object holds in buffers while it is copied. buffer_max: up to this it is read whole, larger ones stream."""
    if is_huge(size):
        return HUGE_NEED
    # A body is held once as pieces, and a second time joined, for as long as it is sent.
    return 2 * size if size <= buffer_max else 2 * QUEUE_FULL


def streams_of(requests: int, bytes_max: int) -> int:
    """How many huge objects one process copies at once: half of its requests at most, and what half of its budget holds."""
    return max(1, min(requests // 2, bytes_max // 2 // HUGE_NEED))


class Budget:
    """Bytes that may be taken, and must be given back. Huge objects, and what streams read ahead, get half of it at most.

    One that is larger than the whole budget is let in when nothing else is taken: it would wait for ever otherwise. Neither kind
    keeps the other out: what the others have beyond their half is not given to them again while a huge one waits for it.
    """

    __slots__ = ("_wanting", "bytes_max", "huge", "others")

    def __init__(self, bytes_max: int) -> None:
        if bytes_max < 1:
            raise ValueError("a budget needs at least one byte")
        self.bytes_max = bytes_max
        self.huge = self.others = 0
        self._wanting = False

    @property
    def taken(self) -> int:
        return self.huge + self.others

    def take(self, size: int) -> bool:
        """Take `size` bytes, if they are to be had."""
        most = self.bytes_max // 2 if self._wanting else self.bytes_max - self.huge
        if self.others and self.others + size > most:
            return False
        self.others += size
        return True

    def give(self, size: int) -> None:
        if size > self.others:
            raise ValueError(f"{size} bytes given back, {self.others} taken")
        self.others -= size

    def take_huge(self, size: int) -> bool:
        """The same for a huge object; the next free bytes of its half are its."""
        if self.huge and self.huge + size > self.bytes_max // 2:
            return False
        self._wanting = bool(self.huge) and self.taken + size > self.bytes_max
        if not self._wanting:
            self.huge += size
        return not self._wanting

    def take_ahead(self, size: int) -> bool:
        """The same for what is read ahead: only of what nobody waits for."""
        if self._wanting or self.huge + size > self.bytes_max // 2 or self.taken + size > self.bytes_max:
            return False
        self.huge += size
        return True

    def relax(self) -> None:
        """No huge object waits any more."""
        self._wanting = False

    def give_huge(self, size: int) -> None:
        if size > self.huge:
            raise ValueError(f"{size} bytes given back, {self.huge} taken")
        self.huge -= size

    def queue_full(self, streams: int) -> int:
        """How much may wait between the read and the write of each of so many streams."""
        return min(QUEUE_FULL, max(QUEUE_LEAST, self.bytes_max // 4 // max(1, streams)))
