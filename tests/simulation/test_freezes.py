"""Who leads freezes, again and again, for longer than its lease, while reports lie among the dead letters: every prefix ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cdn_worker.ports import Leased
from cdn_worker.protocol.codec import decoded_report, decoded_task, encoded
from cdn_worker.protocol.messages import CopyTask, Item, Refused
from sts_manager import admin
from sts_manager.domain.model import ENDED
from tests.proofs import sized
from tests.simulation.timeline import Process
from tests.simulation.world import World

FREEZES = 10
LOOKS_EVERY_S = 5.0
APART_S = 300.0
HOURS_MAX = 48.0
AT_ONCE = 5
"""So many of the reports that wait are put among the dead."""
ANOTHER = "0ther1ed9er"
"""The ledger of a daemon that is not of this world."""


class Freezing(World):
    """A world whose leading daemon is frozen so often. A task of another daemon's job comes to be among the dead each time.

    frozen    who was frozen, one after the other
    letters   the tasks of another daemon's jobs
    amiss     dead letters that were acknowledged by a daemon with another ledger than they name
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.frozen: list[Process] = []
        self.letters: list[bytes] = []
        self.amiss: list[str] = []
        self._forget = self.queues.dead.ack
        self.queues.dead.ack = self._acknowledge  # type: ignore[method-assign]

    @property
    def reports_among_the_dead(self) -> int:
        return sum(ledger_named(one.body)[0] == "report" for one in self.queues.dead._waiting)

    def _begin(self) -> None:
        super()._begin()
        self.timeline.after(LOOKS_EVERY_S, self._look)

    def _until(self, when: float, done: Callable[[], bool] = lambda: False) -> None:
        """The storm lasts until who leads has been frozen for the last time."""
        super()._until(when, done=(lambda: len(self.frozen) == FREEZES) if self.chance.storming else done)

    def _look(self) -> None:
        if not self.chance.storming:
            return
        self._keep_at_work()
        self.timeline.after(APART_S if self._freeze() else LOOKS_EVERY_S, self._look)

    def _keep_at_work(self) -> None:
        """Where all of the pool's prefixes have ended, they are run again."""
        if all(job.status in ENDED for job in self.store.rows.values() if job.prefix.startswith("cdn-")):
            list(admin.retry_errors(self.store, self._now(), code=None))
            list(admin.rerun_all(self.store, self._now()))

    def _freeze(self) -> bool:
        """Freeze who leads, if a report waits that can be put among the dead before."""
        leading = [one.process for one in self.daemons if one is not None and one.leading and one.process.alive]
        spec = self.kinds.spec
        if len(leading) != 1 or leading[0].frozen_until > self.timeline.now or spec is None:
            return False
        if not any(ledger_named(one.body)[0] == "report" for one in list(self.queues.reports._waiting)[:AT_ONCE]):
            return False
        item = Item(f"{spec.prefix}x", 1, "0" * 32)
        theirs = replace(spec, ledger=ANOTHER)
        letter = encoded(CopyTask(spec=theirs, shard="root", run="theirs", sequence=len(self.letters), items=(item,)))
        self.letters.append(letter)
        self.queues.dead.admit(letter, "delivered 10 times, and never answered")
        self.kinds._thaw_among_dead_letters()
        assert self.reports_among_the_dead > 0
        self.frozen += leading
        return True

    def _acknowledge(self, leases: Sequence[Leased]) -> None:
        running = self.timeline.running
        for daemon in self.daemons:
            if daemon is None or running is None or not running.name.startswith(daemon.process.name):
                continue
            for one in leases:
                kind, ledger = ledger_named(one.body)
                if ledger not in ("", daemon._ledger.id):
                    self.amiss.append(f"{running.name} forgot a {kind} that is for {ledger}")
        self._forget(leases)


def ledger_named(body: bytes) -> tuple[str, str]:
    """("task" or "report", for whose ledger it is); empty where nobody can read it."""
    try:
        return "task", decoded_task(body).spec.ledger
    except Refused:
        pass
    try:
        return "report", decoded_report(body).ledger
    except Refused:
        return "", ""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(sized(3, 30)))
def test_ten_freezes_of_who_leads_while_reports_lie_among_the_dead(seed: int, tmp_path: Path) -> None:
    world = Freezing(seed, tmp_path, hours=HOURS_MAX)
    world.run()  # which raises where a prefix does not end
    assert len(world.frozen) == FREEZES
    assert sum(one.startswith("thawed among dead letters") for one in world.chance.told) >= FREEZES
    assert world.takeovers > FREEZES
    assert world.amiss == []
    left = [one.body for one in (*world.queues.dead._waiting, *(held for held, _ in world.queues.dead._leased.values()))]
    assert set(world.letters) <= set(left), "what is of another daemon's jobs stays for that one"
