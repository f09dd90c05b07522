"""A clock that moves only when told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

START = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)


class FakeClock:
    def __init__(self) -> None:
        self._passed = timedelta()
        self._jumped = timedelta()

    def now(self) -> datetime:
        return START + self._passed + self._jumped

    def monotonic(self) -> float:
        return self._passed.total_seconds()

    def advance(self, seconds: float) -> None:
        self._passed += timedelta(seconds=seconds)

    def jump(self, seconds: float) -> None:
        """The wall clock is set; monotonic time does not notice."""
        self._jumped += timedelta(seconds=seconds)
