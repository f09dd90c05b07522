"""What the routes that this program runs itself have in common: a ledger in a file, and what goes on while a daemon leads."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from sts_manager.domain.errors import BadInput, StoreUnavailable
from sts_manager.ports import JobStore

log = logging.getLogger(__name__)


class Parts(Protocol):
    """A ledger, and what goes with it."""

    def close(self) -> None: ...

    def busy(self) -> bool:
        """Whether the ledger has anything to do, or to tell."""
        ...


P = TypeVar("P", bound=Parts)


class OwnRoute(ABC, Generic[P]):
    """Nothing is made before it is needed; then once, whichever of several threads asks first. A context while the daemon leads.

    name          in events of the log; waits: what they say of its prefixes when the ledger is away
    open_store    makes a job store of our own: the daemon's is not to be used by two threads
    """

    name = ""
    waits = ""

    def __init__(self, path: Path, open_store: Callable[[], JobStore]) -> None:
        self._path, self._open_store = path, open_store
        self._store: JobStore | None = None
        self._parts: P | None = None
        self._leading: ExitStack | None = None
        self._kept = False
        self._lock = threading.RLock()

    @abstractmethod
    def _make(self) -> P:
        """Open the ledger and all that belongs to it. Raises BadInput, StoreUnavailable."""

    @abstractmethod
    def _keep_going(self, parts: P, leading: ExitStack) -> None:
        """Start what has to go on for as long as this daemon leads, and have it ended with `leading`."""

    def __enter__(self) -> Self:
        self._leading = ExitStack()
        try:
            parts = self._known()
            if parts is not None and parts.busy():
                self._keep()  # an earlier run left prefixes in it, or something to tell
        except (BadInput, StoreUnavailable) as error:
            # Each prefix of this route asks for it again; the others need not wait for that.
            log.error("%s_away", self.name, extra={"fields": {"cause": str(error), "effect": self.waits}})
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._leading is not None:
            self._leading.__exit__(kind, error, trace)
        self._leading, self._kept = None, False

    def close(self) -> None:
        for one in (self._parts, self._store):
            if one is not None:
                one.close()
        self._parts = self._store = None

    def _made(self) -> P:
        with self._lock:
            if self._parts is None:
                self._parts = self._make()
            return self._parts

    def _known(self) -> P | None:
        """The parts, if there ever was anything for this route to do."""
        return self._made() if self._parts is not None or self._path.exists() else None

    def _keep(self) -> None:
        """Once, and only when this daemon leads."""
        with self._lock:
            if self._leading is None or self._kept:
                return
            self._keep_going(self._made(), self._leading)
            self._kept = True

    def _own_store(self) -> JobStore:
        """For the one thread that tells the job store what has failed."""
        if self._store is None:
            self._store = self._open_store()
        return self._store
