"""Turns that go round in threads of their own while a daemon leads: what is away is waited for, and told once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from cdn_worker.ports import QueueUnavailable
from sts_manager.domain.errors import StoreUnavailable

log = logging.getLogger(__name__)

AWAY_S = 2.0
Turn = Callable[[], bool]


class Keeping:
    """`begin` starts a thread for each turn, `end` stops them. A turn returns whether there may be more to do at once.

    name      of what is kept going, in events of the log
    rest_s    seconds between turns that have nothing to do
    """

    def __init__(self, name: str, turns: Sequence[Turn], *, rest_s: float) -> None:
        self._name, self._turns, self._rest_s = name, turns, rest_s
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []
        self._away: dict[str, str] = {}

    @property
    def ending(self) -> bool:
        return self._ending.is_set()

    def begin(self) -> None:
        for turn in self._turns:
            thread = threading.Thread(target=self._keep, args=(turn,), name=f"{self._name}-{_named(turn)}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def end(self, within_s: float) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(timeout=within_s)

    def _keep(self, turn: Turn) -> None:
        while not self._ending.is_set():
            if not self.guarded(turn):
                self._ending.wait(self._rest_s)

    def guarded(self, turn: Turn) -> bool:
        """One turn; what goes wrong in it is told, and is not its caller's."""
        name = _named(turn)
        try:
            busy = turn()
        except (QueueUnavailable, StoreUnavailable) as error:
            if self._ending.is_set():
                return False
            if name not in self._away:
                fields = {"cause": str(error), "part": name, "effect": "nothing is lost: it waits until this is over"}
                log.error("%s_away", self._name, extra={"fields": fields})
            self._away[name] = str(error)
            self._ending.wait(AWAY_S)
            return False
        except Exception:  # a defect of ours: the thread must not end by it unseen, and with it all that it keeps going
            fields = {"part": name, "effect": "it is tried again; please report this"}
            log.exception("%s_defect", self._name, extra={"fields": fields})
            self._ending.wait(AWAY_S)
            return False
        if name in self._away:
            log.info("%s_back", self._name, extra={"fields": {"was": self._away.pop(name), "part": name}})
        return busy


def _named(turn: Turn) -> str:
    return getattr(turn, "__name__", "turn")
