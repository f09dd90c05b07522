"""What the daemon tells of itself, turn by turn."""

from __future__ import annotations

from collections.abc import Callable

from sts_manager.daemon import Daemon, Intervals, Stop
from sts_manager.domain.errors import StoreUnavailable
from sts_manager.domain.heartbeat import Vitals
from sts_manager.domain.model import JobStatus, Policy, Route
from sts_manager.domain.naming import checked_prefixes
from sts_manager.pulse import Pulse
from sts_manager.reconciler import Reconciler
from sts_manager.stores.lease import StoreLease
from tests.fakes.clock import FakeClock
from tests.fakes.memory_store import MemoryStore
from tests.fakes.transfer_service import FakeTransferService


class Listener(Pulse):
    """Hears every turn, and lets a script decide what happens in the world before the next one."""

    def __init__(self, script: list[Callable[[], None]], stop: Stop, clock: FakeClock) -> None:
        self.heard: list[Vitals] = []
        self._script, self._stop, self._moved = script, stop, clock

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
