"""The lease of a store: one daemon writes. A compare-and-set record, and on one host a file lock beside it.

Judged by observed change, never by comparing clocks of two hosts: a waiting daemon takes over when it has itself watched
the holder's beat stand still for the lease time. When the holder ran under the same kernel (boot id), the file lock tells
at once whether it still lives. Two containers of one host have a kernel in common but perhaps no file: so a record names
the lock file itself (device and inode) besides the kernel, and only who locks that very file draws the conclusion.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from sts_manager.domain.errors import LeaseLost
from sts_manager.ports import Clock, Holder, JobStore


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """What stands in the store. `epoch` grows with each owner (it is the fence of its writes), `beat` with each renewal."""

    who: str
    host: str
    boot: str
    epoch: int
    beat: int
    since: str
    beaten_at: str
    released: bool = False

    def text(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    def holder(self) -> Holder:
        return Holder(
            who=self.who,
            host=self.host,
            epoch=self.epoch,
            since=datetime.fromisoformat(self.since),
            beaten_at=datetime.fromisoformat(self.beaten_at),
        )


def record_of(text: str) -> LeaseRecord:
    return LeaseRecord(**json.loads(text))


def epoch_of(text: str) -> int:
    """The fence of a stored lease record."""
    return record_of(text).epoch


def boot_id() -> str:
    """What tells two kernels apart: a file lock says something only about processes under the same one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


class StoreLease:
    """The `Lease` port over a `JobStore`'s lease record.

    lock_path   the file to lock on this host, None for none
    lease_s     how long a beat must be seen standing still before another host's lease is taken over
    """

    def __init__(self, store: JobStore, clock: Clock, *, lock_path: Path | None, lease_s: float) -> None:
        self._store, self._clock = store, clock
        self._lock_path, self._lease_s = lock_path, lease_s
        self._lock: int | None = None
        self._boot = boot_id()
        self._mine: LeaseRecord | None = None
        self._watched: tuple[str, float] | None = None
        self._beaten: tuple[float, datetime] | None = None

    @property
    def fence(self) -> int:
        if self._mine is None:
            raise LeaseLost("this daemon holds no lease")
        return self._mine.epoch

    @property
    def fresh(self) -> bool:
        if self._mine is None or self._beaten is None:
            return False
        # Both clocks: the monotonic one may stand still while a machine is suspended, the other one may be set.
        passed = max(self._clock.monotonic() - self._beaten[0], (self._clock.now() - self._beaten[1]).total_seconds())
        return passed < self._lease_s

    def acquire(self) -> Holder | None:
        text = self._store.lease_text()
        held = None if text is None else record_of(text)
        if not self._locked():
            # A daemon on this host lives, whatever its record says.
            return held.holder() if held is not None else self._unnamed()
        # The very lock that the old holder had is ours now: that proves that it is dead.
        proven = self._lock is not None and held is not None and held.boot == self._boot
        if held is not None and not held.released and not proven and not self._stands_still(text or ""):
            self._unlock()
            return held.holder()
        began = (self._clock.monotonic(), self._clock.now())
        now = began[1].isoformat()
        mine = LeaseRecord(
            who=f"{socket.gethostname()} (pid {os.getpid()})",
            host=socket.gethostname(),
            boot=self._boot,
            epoch=1 if held is None else held.epoch + 1,
            beat=0,
            since=now,
            beaten_at=now,
        )
        # A swap may be done and still be denied: when it was repeated after an answer that said it had failed.
        if not self._store.swap_lease(text, mine.text()) and self._store.lease_text() != mine.text():
            self._unlock()
            return self._who()
        self._mine, self._watched, self._beaten = mine, None, began
        return None

    def _who(self) -> Holder:
        """Who was quicker."""
        text = self._store.lease_text()
        return record_of(text).holder() if text is not None else self._unnamed()

    def renew(self) -> None:
        if self._mine is None:
            raise LeaseLost("this daemon holds no lease")
        began = (self._clock.monotonic(), self._clock.now())
        beaten = replace(self._mine, beat=self._mine.beat + 1, beaten_at=began[1].isoformat())
        if not self._store.swap_lease(self._mine.text(), beaten.text()):
            text = self._store.lease_text()
            if text is not None and epoch_of(text) == self._mine.epoch:
                self._mine = record_of(text)  # an earlier beat was written, only its answer was lost
                return
            self._mine = None
            self._unlock()
            raise LeaseLost(f"{self._who().who} took over this store")
        self._mine, self._beaten = beaten, began

    def release(self) -> None:
        if self._mine is not None:
            self._store.swap_lease(self._mine.text(), replace(self._mine, released=True).text())
            self._mine = None
        self._unlock()

    def _stands_still(self, text: str) -> bool:
        now = self._clock.monotonic()
        if self._watched is None or self._watched[0] != text:
            self._watched = (text, now)
        return now - self._watched[1] >= self._lease_s

    def _locked(self) -> bool:
        if self._lock_path is None or self._lock is not None:
            return True
        try:
            handle = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:
            return True  # no file, no proof: the beat is watched instead
        file = os.fstat(handle)
        if file.st_uid != os.geteuid():
            os.close(handle)
            return True  # somebody else's file: its lock says nothing of our daemons
        os.fchmod(handle, 0o600)  # whoever may open it may lock it, and keep every daemon waiting
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return False
        self._lock = handle
        self._boot = f"{boot_id()}:{file.st_dev}:{file.st_ino}"
        return True

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _unnamed(self) -> Holder:
        now = self._clock.now()
        return Holder(who="a daemon that is just starting", host=socket.gethostname(), epoch=0, since=now, beaten_at=now)
