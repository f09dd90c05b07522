"""Copying processes that die, for real: who is to blame, and what becomes of the others."""

from __future__ import annotations

import os
import signal
from contextlib import closing

import pytest

from cdn_worker.config import Reach
from cdn_worker.copier.process_pool import LoopsDie, Processes, begin_of
from cdn_worker.domain.keys import KeyMapping
from cdn_worker.domain.verdict import KeyVerdict, Verdict
from cdn_worker.http.engine import Engine, Limits
from cdn_worker.object_copy.commands import Task
from cdn_worker.ports import Access
from tests.sparse import MODIFIED, SINK, SOURCE, Sparse

KEYS = [f"p/{index:03}" for index in range(200)]


class Copies:
    """A lane of real processes over sparse buckets; `kill` is asked before each turn which of them dies now."""

    def __init__(self, sparse: Sparse, processes: int = 1) -> None:
        reach = Reach(
            s3_endpoint=sparse.url, s3_region="us-east-1", sink_endpoint=sparse.url, limits=Limits(requests=16), backoff_s=0.1
        )
        setup = reach.setup(SOURCE, SINK, KeyMapping())
        self.sparse, self.engine = sparse, Engine(reach.limits)
        self.processes = Processes(self.engine, begin_of(setup), processes)
        self.verdicts: dict[str, KeyVerdict] = {}
        self.withdrawn: list[int] = []
        self.lane = self.processes.open(setup, Access(), verdicts=self._take_in, withdrawn=self.withdrawn.extend)
        self.tickets = {
            key: self.processes.add(self.lane, Task(key, size, sparse.etag(key), MODIFIED))
            for key, size in sparse.objects.items()
        }

    def _take_in(self, verdicts: list[tuple[int, KeyVerdict]]) -> None:
        for _, verdict in verdicts:
            assert verdict.key not in self.verdicts
            self.verdicts[verdict.key] = verdict

    def turn(self) -> None:
        self.engine.turn(0.02)
        self.processes.tend()

    def close(self) -> None:
        self.processes.close()
        self.engine.close()


def test_an_object_that_kills_whatever_process_has_it_is_found_and_the_others_are_copied() -> None:
    with closing(Sparse(dict.fromkeys(KEYS, 100))) as sparse, closing(Copies(sparse)) as copies:
        culprit = copies.tickets["p/117"]
        while len(copies.verdicts) < len(KEYS):
            copies.turn()
            for loop in copies.processes._loops:
                if culprit in loop.outstanding and loop.process.poll() is None:
                    os.kill(loop.process.pid, signal.SIGKILL)
                    loop.process.wait()
        bad = {key: one for key, one in copies.verdicts.items() if one.verdict is not Verdict.DONE}
        assert list(bad) == ["p/117"]
        assert (bad["p/117"].error, "processes died while they had it" in bad["p/117"].details) == ("process_died", True)
        assert copies.processes.restarts < 20, "by halves, not one by one"


def test_processes_that_all_die_at_once_end_it() -> None:
    with closing(Sparse(dict.fromkeys(KEYS[:3], 100))) as sparse, closing(Copies(sparse)) as copies:

        def kill_them_all() -> None:
            for _ in range(10_000):
                for loop in copies.processes._loops:
                    loop.process.kill()
                    loop.process.wait()
                copies.turn()

        with pytest.raises(LoopsDie, match="without a single verdict"):
            kill_them_all()


def test_what_has_not_begun_can_be_withdrawn_and_what_has_ends() -> None:
    with closing(Sparse(dict.fromkeys(KEYS, 100), stuck=frozenset(KEYS[:40]))) as sparse, closing(Copies(sparse)) as copies:
        while len(sparse.asked) < 16:
            copies.turn()
        copies.processes.withdraw(frozenset(copies.tickets.values()))
        while len(copies.withdrawn) < len(KEYS) - 16:
            copies.turn()
        assert copies.processes.outstanding == 16
        assert (copies.processes.waiting, copies.processes.waiting_huge) == (0, 0)
        by_ticket = {ticket: key for key, ticket in copies.tickets.items()}
        assert {by_ticket[one] for one in copies.withdrawn} == set(KEYS) - set(sparse.asked)
        sparse.over.set()
