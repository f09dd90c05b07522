"""SIGKILL at a counted commit or call of a real daemon, before or after it; the same command again ends as if nothing was."""

from __future__ import annotations

import signal
from contextlib import closing
from pathlib import Path

import pytest

from sts_manager.domain.names import Prefix
from sts_manager.stores.sql.store import open_store
from tests.end_to_end.commands import Shell
from tests.end_to_end.test_pool import Pool
from tests.proofs import sized
from tests.stages import at_sink, fill
from tools.emulators.stage import Stage

OBJECTS = {f"{prefix}/{index}": f"{prefix} {index}".encode() for prefix in ("a", "b") for index in range(4)}
PREFIXES = [{"prefix": "a/", "route": "sts-s3"}, {"prefix": "b/", "route": "cdn"}]
PLACES = [(number, when) for number in range(1, 60, sized(11, 1)) for when in ("before", "after")]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "when"), PLACES[:: sized(3, 1)])
def test_killed_there_and_run_again(stage: Stage, tmp_path: Path, number: int, when: str) -> None:
    fill(stage, OBJECTS)
    pool = Pool(stage, tmp_path, PREFIXES)
    told = tmp_path / "calls.txt"
    deadly = Shell(tmp_path, {**stage.environment, "KILLED_CALLS": str(told)}, "tests.end_to_end.killed")
    words = ["run", *pool.flags, "--workers", "1", "--until-done"]
    killed = deadly.run(str(number), when, *words)
    calls = told.read_text().splitlines()
    # A run that has ended before that many calls was not killed: then it has told how many there are.
    assert killed.code == (-signal.SIGKILL if len(calls) >= number else 0), killed.err
    assert len(calls) >= min(number, 30), "a run has more calls than that"
    ended = pool.run()
    assert ended.code == 0, ended.err
    assert at_sink(stage) == OBJECTS
    service = stage.sts
    assert service is not None
    assert [len(operations) for operations in service.by_job.values()] == [1], "one transfer job, and it ran once"
    with closing(open_store(f"sqlite:///{tmp_path}/sts_manager.db")) as store:
        for prefix in ("a/", "b/"):
            job = store.job(Prefix(prefix))
            assert job is not None
            assert (job.status.value, job.attempt) == ("done", 1)
            assert job.counters.objects_copied + job.counters.objects_skipped == 4
            events = list(store.history(Prefix(prefix)))
            assert [event.job.generation for event in events] == list(range(1, job.generation + 1))
            assert events[-1].job == job
