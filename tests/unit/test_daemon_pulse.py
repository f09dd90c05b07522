"""What the daemon tells of itself, turn by turn."""

from __future__ import annotations

import signal
from collections.abc import Callable

from sts_manager.daemon.heartbeat import Pulse
from sts_manager.daemon.loop import GRACE_S, LAST_BEAT_S, LAST_CALLS_S, Daemon, Ending, Intervals, Stop
from sts_manager.daemon.reconciler import Reconciler
from sts_manager.domain.errors import StoreUnavailable
from sts_manager.domain.heartbeat import Vitals
from sts_manager.domain.model import JobStatus, OperationState, Policy, Route
from sts_manager.domain.names import checked_prefixes
from sts_manager.stores.lease import StoreLease
from tests.fakes.clock import FakeClock
from tests.fakes.memory_store import MemoryStore
from tests.fakes.transfer_service import FakeTransferService


class Listener(Pulse):
    """Hears every turn, and lets a script decide what happens in the world before the next one."""

    def __init__(self, script: list[Callable[[], None]], stop: Stop, clock: FakeClock) -> None:
        self.heard: list[Vitals] = []
        self.last: tuple[Vitals, float] | None = None
        self._script, self._stop, self._moved = script, stop, clock

    def beat_last(self, vitals: Vitals, *, within_s: float) -> bool:
        self.last = (vitals, within_s)
        return True

    def beat(self, vitals: Vitals) -> bool:
        self.heard.append(vitals)
        if not self._script:
            self._stop.set()
            return True
        self._script.pop(0)()
        self._moved.advance(60)
        return True


class AwayStore(MemoryStore):
    away = False

    def swap_lease(self, old: str | None, new: str) -> bool:
        if self.away:
            raise StoreUnavailable("the store is away")
        return super().swap_lease(old, new)


def test_every_turn_tells_what_the_last_pass_saw_and_what_was_counted() -> None:
    store, service, clock, stop = AwayStore(), FakeTransferService(), FakeClock(), Stop()
    store.load(checked_prefixes(["a/"]), clock.now(), lambda _: None)
    policy = Policy(migration="0badcafe", route=Route.STS_S3)
    reconciler = Reconciler(store, {Route.STS_S3: service}, policy, clock)

    def progress(copied: int) -> Callable[[], None]:
        def move() -> None:
            (name,) = service.active()
            service.set(name, service.states[name].state, objects_copied=copied)

        return move

    def leave() -> None:
        store.away = True

    def come_back() -> None:
        store.away = False

    touched: list[None] = []
    script = [lambda: None, progress(3), progress(5), leave, lambda: None, come_back]
    listener = Listener(script, stop, clock)
    lease = StoreLease(store, clock, lock_path=None, lease_s=60)
    intervals = Intervals(job_s=60, metrics_s=60, sleep_s=0.001)
    healthy = lambda: touched.append(None)  # noqa: E731 - a name for the reader
    Daemon(reconciler, lease, clock, intervals, stop, pulse=listener, healthy=healthy).run()

    heard = listener.heard
    assert [one.degraded for one in heard] == [False, False, False, False, True, True, False]
    assert [one.tally.objects_copied for one in heard] == [0, 0, 3, 5, 5, 5, 5], "counts go on from pass to pass"
    assert [one.pass_age_s for one in heard] == [0, 0, 0, 0, 60, 120, 0]
    assert all(one.counts[JobStatus.RUNNING] == 1 for one in heard)
    assert heard[1].live_by_route == {"sts-s3": 1}
    assert len(touched) >= len(heard), "a daemon whose store is away is degraded, not stuck"


def daemon_of(
    store: MemoryStore, service: FakeTransferService, clock: FakeClock, stop: Stop, listener: Pulse, *, until_done: bool
) -> Daemon:
    policy = Policy(migration="0badcafe", route=Route.STS_S3)
    reconciler = Reconciler(store, {Route.STS_S3: service}, policy, clock)
    lease = StoreLease(store, clock, lock_path=None, lease_s=60)
    intervals = Intervals(job_s=60, metrics_s=60, sleep_s=0.001)
    return Daemon(reconciler, lease, clock, intervals, stop, pulse=listener, until_done=until_done)


def test_a_run_that_ends_publishes_its_final_numbers_before_it_gives_the_lease_back() -> None:
    store, service, clock, stop = MemoryStore(), FakeTransferService(), FakeClock(), Stop()
    store.load(checked_prefixes(["a/", "b/"]), clock.now(), lambda _: None)

    def finish() -> None:
        for name in service.active():
            service.set(name, OperationState.SUCCESS, objects_copied=4)

    class Lasting(Listener):
        def beat_last(self, vitals: Vitals, *, within_s: float) -> bool:
            another = StoreLease(store, clock, lock_path=None, lease_s=60)
            assert another.acquire() is not None, "the lease is still held: no two daemons write one series"
            return super().beat_last(vitals, within_s=within_s)

    listener = Lasting([lambda: None, finish, finish, finish, finish, finish, finish], stop, clock)
    assert daemon_of(store, service, clock, stop, listener, until_done=True).run() is Ending.DONE
    assert listener.last is not None
    vitals, within_s = listener.last
    assert (vitals.counts[JobStatus.DONE], vitals.counts[JobStatus.RUNNING], vitals.tally.objects_copied) == (2, 0, 8)
    assert within_s == LAST_BEAT_S


def test_one_that_is_stopped_publishes_what_its_last_write_knows_within_its_grace() -> None:
    store, service, clock, stop = MemoryStore(), FakeTransferService(), FakeClock(), Stop()
    store.load(checked_prefixes(["a/"]), clock.now(), lambda _: None)
    listener = Listener([], stop, clock)  # stopped after the first turn, whose outcome is still to be recorded
    assert daemon_of(store, service, clock, stop, listener, until_done=False).run() is Ending.STOPPED
    assert listener.last is not None
    vitals, within_s = listener.last
    assert vitals.counts == store.counts()
    assert 0 < within_s <= GRACE_S - LAST_CALLS_S


def test_one_whose_grace_is_nearly_over_waits_for_no_heartbeat() -> None:
    class Late(Stop):
        grace_left_s = LAST_CALLS_S / 2

    store, clock, stop = MemoryStore(), FakeClock(), Late()
    store.load(checked_prefixes(["a/"]), clock.now(), lambda _: None)
    listener = Listener([], stop, clock)
    assert daemon_of(store, FakeTransferService(), clock, stop, listener, until_done=False).run() is Ending.STOPPED
    assert listener.last is not None
    assert listener.last[1] == 0


def test_the_grace_runs_from_the_first_signal() -> None:
    stop = Stop()
    assert stop.grace_left_s > GRACE_S
    with stop.on_signals():
        signal.raise_signal(signal.SIGTERM)
        assert stop()
        assert 0 < stop.grace_left_s <= GRACE_S
