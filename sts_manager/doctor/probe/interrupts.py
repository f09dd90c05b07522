"""SIGINT and SIGTERM end a probe, which then cleans up: by an exception at once, and at the next wait where that was lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """What raises KeyboardInterrupt once for each signal.

    A signal handler's exception is lost where it comes while C code calls Python (a client's callback, a destructor: "Exception
    ignored in …"). The probe would go on then, as if nobody had asked it to end. So the wish is kept until `heard`.
    """

    def __init__(self) -> None:
        self._wanted = False

    @contextmanager
    def taken(self) -> Iterator[None]:
        """While this lasts the signals are ours."""
        before = {number: signal.signal(number, self._interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self._wanted = True
        raise KeyboardInterrupt

    def heard(self) -> None:
        """The wish is being followed."""
        self._wanted = False

    def sleep(self, seconds: float) -> None:
        """Raises KeyboardInterrupt, before or after, where a signal has come that nobody heard of."""
        self._raise()
        time.sleep(seconds)
        self._raise()

    def _raise(self) -> None:
        if self._wanted:
            raise KeyboardInterrupt
