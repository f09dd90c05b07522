"""The byte budget: what may lie in buffers at once. Objects are counted by what they need, not by how many they are."""

from __future__ import annotations


class Budget:
    """Bytes that may be taken, and must be given back.

    One that is larger than the whole budget is let in when nothing else is taken: it would wait for ever otherwise.
    """

    __slots__ = ("bytes_max", "taken")

    def __init__(self, bytes_max: int) -> None:
        if bytes_max < 1:
            raise ValueError("a budget needs at least one byte")
        self.bytes_max = bytes_max
        self.taken = 0

    def take(self, size: int) -> bool:
        """Take `size` bytes, if they are to be had."""
        if self.taken and self.taken + size > self.bytes_max:
            return False
        self.taken += size
        return True

    def give(self, size: int) -> None:
        if size > self.taken:
            raise ValueError(f"{size} bytes given back, {self.taken} taken")
        self.taken -= size
