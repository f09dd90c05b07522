"""One credential provider for each kind of credentials a process needs: fetched in a thread of its own, before they end.

Who asks never waits for a metadata server or a token service: it is given what there is. However many prefixes a process
works on, a token that lasts an hour is asked for once an hour.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

from cdn_worker.domain.errors import BadInput

T = TypeVar("T")
log = logging.getLogger(__name__)

AHEAD = timedelta(minutes=8)
"""Before their end credentials are fetched anew: earlier than whoever uses them asks for others (`keyring.EARLY`)."""
AGAIN_S = (2.0, 5.0, 15.0, 30.0)
REST_S = 30.0
"""What was fetched so shortly ago is refused for another reason than its age: others would be refused as well."""
LOOK_S, LOOK_LEAST_S = 3600.0, 10.0


class Provider(Generic[T]):
    """Credentials, and when they end (None: never). Called for what there is; raises BadInput when that is nothing.

    what    as an operator knows them, for messages
    fetch   gets fresh ones; may take as long as it likes, and raises BadInput when they cannot be had
    now     the wall clock, by which credentials end; monotonic: the machine's, in seconds
    """

    def __init__(
        self,
        what: str,
        fetch: Callable[[], tuple[T, datetime | None]],
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._fetch, self._now, self._monotonic = what, fetch, now, monotonic
        self._held: tuple[T, datetime | None] | None = None
        self._why = "they were not fetched yet"
        self._failed = 0
        self._refused = False
        self._fetched_at = float("-inf")
        self._lock = threading.Lock()
        self._ask, self._fetched = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def __call__(self) -> tuple[T, datetime | None]:
        with self._lock:
            held, why = self._held, self._why
        if held is None or (held[1] is not None and held[1] <= self._now()):
            raise BadInput(f"{self._what}: {why or 'they have ended'}")
        return held

    @property
    def lacking(self) -> str:
        """Why there are none at the moment; empty when there are. What was refused is none, while no others are to be had."""
        with self._lock:
            refused = self._why if self._refused and self._failed else ""
        if refused:
            return f"{self._what}: they were refused, and no others are to be had: {refused}"
        try:
            self()
        except BadInput as error:
            return str(error)
        return ""

    @property
    def fetching(self) -> bool:
        """Whether others are on their way, in place of what was refused."""
        with self._lock:
            return self._refused

    def start(self) -> Provider[T]:
        """Fetch from now on, in a thread of its own."""
        self._thread = threading.Thread(target=self._keep, name=f"credentials-{self._what}", daemon=True)
        self._thread.start()
        return self

    def wait(self, seconds: float) -> None:
        """Until the first fetch came to an end, at most so long."""
        self._fetched.wait(seconds)

    def renew(self) -> None:
        """They were refused: fetch others now, unless these are very fresh."""
        with self._lock:
            if self._refused or self._monotonic() - self._fetched_at < REST_S:
                return
            self._refused = True
        self._ask.set()

    def turn(self) -> float:
        """Fetch if it is time; the seconds until the next turn."""
        with self._lock:
            held, refused = self._held, self._refused
        if held is not None and not refused and (held[1] is None or held[1] - AHEAD > self._now()):
            return self._rest(held[1])
        try:
            fresh = self._fetch()
        except Exception as error:
            if not isinstance(error, BadInput):  # of a library: the thread must not end by it
                log.exception("credentials_defect", extra={"fields": {"what": self._what}})
            with self._lock:
                self._why = str(error).removeprefix(f"{self._what}: ") or type(error).__name__
                self._failed += 1
            return AGAIN_S[min(self._failed, len(AGAIN_S)) - 1]
        finally:
            self._fetched.set()
        with self._lock:
            self._held, self._why = fresh, ""
            self._failed, self._refused = 0, False
            self._fetched_at = self._monotonic()
        return self._rest(fresh[1])

    def _rest(self, end: datetime | None) -> float:
        left = LOOK_S if end is None else (end - AHEAD - self._now()).total_seconds()
        return min(LOOK_S, max(LOOK_LEAST_S, left))

    def _keep(self) -> None:
        while True:
            if self._ask.wait(self.turn()):
                self._ask.clear()
