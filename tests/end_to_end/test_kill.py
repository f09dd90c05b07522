"""kill -9 at any moment: several times at random in one migration of 40 prefixes, and it ends as if nothing had happened."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from sts_manager.domain.model import JobStatus
from sts_manager.domain.names import Prefix
from sts_manager.ports import JobStore
from sts_manager.stores.sql.store import open_store
from tests.end_to_end.commands import BUCKETS, QUICK, Shell
from tests.proofs import sized
from tests.stages import at_sink, fill
from tests.warehouses import bigquery_store
from tools.emulators.stage import Stage

PREFIXES = [f"p{index:02}/" for index in range(40)]
KILLS = sized(4, 10)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "bigquery"])
def test_kills_leave_no_trace(stage: Stage, tmp_path: Path, kind: str) -> None:
    address = "bigquery" if kind == "bigquery" else "sqlite:///sts_manager.db"
    shell = Shell(tmp_path, stage.environment | {"STS_MANAGER_STORE": address})
    objects = {f"{prefix}{index}": f"{prefix}{index}".encode() for prefix in PREFIXES for index in range(5)}
    fill(stage, objects)
    stage.ledger.change({"sts.objects_per_second": 30})
    (tmp_path / "prefixes.json").write_text(json.dumps(PREFIXES))
    assert shell.run("prepare-tables", "--job-prefix-source-file", "prefixes.json").code == 0
    moments = random.Random(20261120)
    kills_in_work = 0
    for _ in range(KILLS):
        with shell.started("run", *BUCKETS, *QUICK, "--until-done") as daemon:
            assert daemon.stderr is not None
            # The moment counts from the first sign of work, so that it never falls into the start of the interpreter.
            first = next((line for line in iter(daemon.stderr.readline, "") if "lease_taken" in line), "")
            time.sleep(moments.uniform(0, 0.5))
            kills_in_work += bool(first) and daemon.poll() is None
            daemon.kill()
    stage.ledger.change({"sts.objects_per_second": 0})
    ended = shell.run("run", *BUCKETS, *QUICK, "--until-done")
    assert ended.code == 0, ended.err
    assert kills_in_work == KILLS, "the daemon must be killed at work to prove anything"
    assert at_sink(stage) == objects
    service = stage.sts
    assert service is not None
    assert len(service.jobs) == len(PREFIXES), "one transfer job a (prefix, attempt)"
    assert all(len(names) == 1 for names in service.by_job.values()), "each ran once"
    store: JobStore = bigquery_store() if kind == "bigquery" else open_store(f"sqlite:///{tmp_path}/sts_manager.db")
    for prefix in PREFIXES:
        job = store.job(Prefix(prefix))
        assert job is not None
        assert (job.status, job.attempt) == (JobStatus.DONE, 1)
        events = list(store.history(Prefix(prefix)))
        assert events[-1].job == job, "the history folds to the table"
        assert [event.job.generation for event in events] == list(range(1, job.generation + 1))
        changes = [event.job.status for event in events]
        folded = [status for at, status in enumerate(changes) if at == 0 or changes[at - 1] is not status]
        assert folded == [JobStatus.RUNNING, JobStatus.DONE], "each change of status appears once"
    store.close()
