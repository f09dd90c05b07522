"""The loop: intervals, signals, the lease, and what to do when the store or the service is away."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from enum import Enum
from types import FrameType

from sts_manager.daemon.heartbeat import Pulse
from sts_manager.daemon.pass_result import PassResult
from sts_manager.daemon.reconciler import Reconciler
from sts_manager.domain.errors import LeaseLost, StoreUnavailable
from sts_manager.domain.heartbeat import Tally, Vitals
from sts_manager.domain.model import JobStatus
from sts_manager.ports import Clock, Holder, Lease

log = logging.getLogger(__name__)

SECOND_SIGNAL_EXIT = 130
DAY_S, QUOTA_TOLD = 86_400.0, 0.5
LOOK_S = 2.0
GRACE_S = 20.0
"""Seconds from the first signal to the end: a call that hangs is not waited for longer, because the next start finds out."""
LAST_BEAT_S = 30.0
"""How long the last heartbeat may be waited for where nobody asked to stop."""
LAST_CALLS_S = 12.0
"""Of the time after a signal, what the last heartbeat's call and the lease's return may take themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """Seconds: between dispatches, between looks at the service, and the sleep between turns of the loop."""

    job_s: float
    metrics_s: float
    sleep_s: float


class Ending(Enum):
    """Why the loop ended."""

    STOPPED = "stopped"  # a signal
    DONE = "done"  # --until-done: every prefix is done, or followed
    ERRORS = "errors"  # --until-done: every prefix has ended or is followed, some in error, or with objects that failed
    BLOCKED = "blocked"  # --until-done: the breaker is open and nothing runs


class Stop:
    """A wish to stop that can be waited for. The second signal ends the process at once.

    late_exit   the exit code when a signal came and a call does not return in time
    """

    def __init__(self, late_exit: int = 0) -> None:
        self._late_exit = late_exit
        self._event = threading.Event()
        self._signals = 0
        self._signalled_at: float | None = None

    def __call__(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        self._event.set()

    @property
    def grace_left_s(self) -> float:
        """Seconds until the process ends whatever it does; LAST_BEAT_S and more while no signal has come."""
        if self._signalled_at is None:
            return GRACE_S if self() else LAST_BEAT_S + LAST_CALLS_S
        return max(0.0, self._signalled_at + GRACE_S - time.monotonic())

    def wait(self, seconds: float) -> bool:
        """Sleep until told to stop or the time is over; whether to stop."""
        return self._event.wait(seconds)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT ask to stop while this context is open."""

        def handle(_number: int, _frame: FrameType | None) -> None:
            # Counted, not asked of the event: a second signal may come while the first one is being handled.
            self._signals += 1
            if self._signals > 1:
                os._exit(SECOND_SIGNAL_EXIT)
            self._signalled_at = time.monotonic()
            self._event.set()
            grace.start()

        grace = threading.Timer(GRACE_S, _end_now, [self._late_exit])
        grace.daemon = True
        before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            grace.cancel()
            for number, handler in before.items():
                signal.signal(number, handler)


def _end_now(code: int) -> None:
    log.warning("ended_without_last_write", extra={"fields": {"cause": f"a call did not return within {GRACE_S:g} s"}})
    os._exit(code)


class Daemon:
    """Holds the lease and runs passes until told to stop, or until done.

    watch        called after each pass, for a progress screen
    pulse        where the heartbeat of each turn goes
    healthy      called each turn, waiting for the lease included: this process is not stuck
    duty         entered while this daemon leads, and left when it does not any more
    unfinished   whether something is still to be found out when every prefix has ended: --until-done waits for it
    news         whether something came up between the turns that a pass should look at now
    """

    def __init__(
        self,
        reconciler: Reconciler,
        lease: Lease,
        clock: Clock,
        intervals: Intervals,
        stop: Stop,
        *,
        until_done: bool = False,
        watch: Callable[[PassResult], None] = lambda _result: None,
        pulse: Pulse | None = None,
        healthy: Callable[[], None] = lambda: None,
        duty: AbstractContextManager[object] | None = None,
        news: Callable[[], bool] | None = None,
        unfinished: Callable[[], bool] = lambda: False,
    ) -> None:
        self._reconciler, self._lease, self._clock = reconciler, lease, clock
        self._intervals, self._stop = intervals, stop
        self._until_done, self._watch = until_done, watch
        self._job_due = self._metrics_due = 0.0
        self._degraded = ""
        self._tried = False
        self._pulse, self._healthy = pulse, healthy
        self._duty = duty if duty is not None else nullcontext()
        self._news = news
        self._unfinished, self._awaiting = unfinished, False
        self._vitals = Vitals()
        self._passed = clock.monotonic()

    def run(self) -> Ending:
        """Run until stopped. Losing the lease sends it back to waiting, read-only, behind the new holder."""
        while not self._stop():
            if not self._wait_for_lease():
                break
            try:
                with self._duty:
                    ending = self._lead()
            except LeaseLost as lost:
                log.warning("lease_lost", extra={"fields": {"cause": str(lost)}})
                continue
            self._end()
            return ending
        return Ending.STOPPED

    def _wait_for_lease(self) -> bool:
        """Whether the lease is ours; False when told to stop while another daemon had it."""
        told = ""
        while not self._stop():
            self._healthy()
            try:
                holder = self._lease.acquire()
            except StoreUnavailable as error:
                self._set_degraded(str(error))
                self._stop.wait(min(self._intervals.sleep_s, 5.0))
                continue
            if holder is None:
                log.info("lease_taken", extra={"fields": {"epoch": self._lease.fence}})
                return True
            if holder.who != told:
                log.warning("waiting_for_lease", extra={"fields": _holder_fields(holder)})
                told = holder.who
            self._stop.wait(min(self._intervals.sleep_s, 5.0))
        return False

    def _lead(self) -> Ending:
        now = self._clock.monotonic()
        self._job_due = self._metrics_due = now
        while not self._stop():
            try:
                self._lease.renew()
                ending = self._turn()
            except StoreUnavailable as error:
                self._set_degraded(str(error))
                self._reconciler.poll_blind()
                ending = None
            self._healthy()
            self._beat()
            if ending is not None:
                return ending
            self._rest()
        return Ending.STOPPED

    def _rest(self) -> None:
        """Sleep until the next turn; where there is news, that is now, and a pass is due."""
        left = self._intervals.sleep_s
        while self._news is not None and left > LOOK_S:
            if self._stop.wait(LOOK_S):
                return
            if self._news():
                self._metrics_due = self._clock.monotonic()
                return
            left -= LOOK_S
        self._stop.wait(left)

    def _turn(self) -> Ending | None:
        """One turn: a pass if one is due. Outcomes of the last pass, or a fault that may be over, make it due at once."""
        now = self._clock.monotonic()
        dispatch = now >= self._job_due
        soon = self._reconciler.pending or self._degraded or self._awaiting
        if not dispatch and now < self._metrics_due and not soon:
            return None
        result = self._reconciler.run_pass(dispatch=dispatch)
        self._metrics_due = now + self._intervals.metrics_s
        if dispatch:
            self._job_due = now + self._intervals.job_s
        self._take_in(result)
        _log_pass(result)
        self._watch(result)
        return self._verdict(result) if self._until_done else None

    def _take_in(self, result: PassResult) -> None:
        """Keep what a pass saw, for the outside."""
        self._passed = self._clock.monotonic()
        self._vitals = _vitals(result, self._vitals.tally + result.tally)
        self._set_degraded(result.degraded)

    def _current(self) -> Vitals:
        """What the last pass saw, and how long ago that was."""
        return replace(self._vitals, pass_age_s=self._clock.monotonic() - self._passed, degraded=bool(self._degraded))

    def _beat(self) -> None:
        if self._pulse is not None:
            self._pulse.beat(self._current())

    def _verdict(self, result: PassResult) -> Ending | None:
        self._awaiting = result.ended and self._unfinished()
        if self._awaiting:
            return None
        if result.ended:
            return Ending.ERRORS if result.amiss else Ending.DONE
        idle = result.unended <= result.counts[JobStatus.WAITING]
        # A breaker that an earlier run left open says nothing until this one has tried for itself.
        self._tried = self._tried or result.acted > 0
        if result.plan.breaker is not None and idle and self._tried:
            return Ending.BLOCKED
        return None

    def _set_degraded(self, cause: str) -> None:
        if cause and cause != self._degraded:
            log.error("degraded", extra={"fields": {"cause": cause, "effect": "nothing new starts until this is over"}})
        elif self._degraded and not cause:
            log.info("recovered", extra={"fields": {"was": self._degraded}})
        self._degraded = cause

    def _end(self) -> None:
        """Record and publish what is known, give the lease back; what cannot be written now is found out at the next start."""
        try:
            settled = self._reconciler.settle_outcomes()
            if settled is not None:
                self._take_in(replace(settled, degraded=self._degraded))  # nobody was asked whether that is over
            if self._pulse is not None:
                # Before the lease is given back: no two daemons write one series.
                self._pulse.beat_last(self._current(), within_s=max(0.0, self._stop.grace_left_s - LAST_CALLS_S))
            self._lease.release()
        except (StoreUnavailable, LeaseLost) as error:
            log.warning("ended_without_last_write", extra={"fields": {"cause": str(error)}})


def _vitals(result: PassResult, total: Tally) -> Vitals:
    return Vitals(
        counts=result.counts,
        stalled=result.plan.stalled,
        live_by_route=result.live_by_route,
        tally=total,
        breaker_open=result.plan.breaker is not None,
    )


def _holder_fields(holder: Holder) -> dict[str, str | int]:
    return {
        "holder": holder.who,
        "since": holder.since.isoformat(timespec="seconds"),
        "last_beat": holder.beaten_at.isoformat(timespec="seconds"),
        "effect": "this daemon is read-only until the holder is gone",
    }


def _log_pass(result: PassResult) -> None:
    counts = {status.value: number for status, number in result.counts.items()}
    fields: dict[str, str | int] = {**counts, "stalled": result.plan.stalled, "actions": result.acted}
    if result.progress is not None:
        fields |= {"objects_copied": result.progress.objects_copied, "bytes_copied": result.progress.bytes_copied}
    for one in result.quotas:
        # The day's creates always, as they are the first to run out; the others where they come to matter.
        if one.calls and (one.seconds >= DAY_S or one.calls >= one.most * QUOTA_TOLD):
            fields[f"quota {one.project} {one.kind} {one.seconds:g}s"] = f"{one.calls}/{one.most}"
    if result.plan.blocked:
        fields["blocked"] = result.plan.blocked
    log.info("pass", extra={"fields": fields})
