"""A signal ends a probe wherever it comes, also where its exception is lost."""

from __future__ import annotations

import os
import signal

import pytest

from sts_manager.doctor.probe.interrupts import Interrupts


class Dying:
    """A signal comes in the middle of its destructor, where no exception gets out."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)
        for _ in range(1000):  # the handler runs between two steps of it
            pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_was_lost_is_raised_at_the_next_wait(number: int) -> None:
    interrupts = Interrupts()
    before = signal.getsignal(number)
    with interrupts.taken():
        dying = Dying(number)
        del dying
        with pytest.raises(KeyboardInterrupt):
            interrupts.sleep(0)
        interrupts.heard()
        interrupts.sleep(0)  # what cleans up may wait
    assert signal.getsignal(number) is before


def test_an_interrupt_is_raised_where_it_comes() -> None:
    interrupts = Interrupts()
    with interrupts.taken(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
