"""The daemon's own worker takes tasks of the migration's buckets alone, and is started anew before one of ours names another."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cdn_worker.cli import app
from cdn_worker.protocol.codec import encoded
from cdn_worker.protocol.messages import OTHER_BUCKET, CopyTask, Item, JobSpec, ListTask, Refused
from cdn_worker.worker.worker import Pool as WorkerPool
from sts_manager.domain.errors import StoreUnavailable
from sts_manager.domain.model import Chosen, Route, StartJob
from sts_manager.domain.names import Prefix, job_name
from sts_manager.routes.local.supervisor import Crew
from sts_manager.routes.pool import controller as keeper_module
from sts_manager.routes.pool.allow_list import AllowList, Buckets
from sts_manager.routes.pool.controller import PoolKeeper
from sts_manager.routes.pool.ledger import PoolLedger
from sts_manager.routes.pool.setup import Pool
from sts_manager.settings import Settings
from tests.fakes.clock import FakeClock
from tests.fakes.memory_queue import memory_queues
from tests.fakes.memory_store import MemoryStore
from tests.simulation.workers import POOL
from tests.stages import wait_for

NOW = datetime(2026, 11, 30, tzinfo=UTC)
OURS = Buckets.of([("source", "sink")])
OTHER = Buckets.of([("source", "other-sink")])
PROGRAM = """#!{python}
import json, os, signal, sys
def tell(event):
    with open({told!r}, "a") as told:
        print(json.dumps([event, sys.argv[1:]]), file=told)
def end(*_):
    tell("ended")
    os._exit(0)
signal.signal(signal.SIGTERM, end)
tell("began")
while os.getppid() == {parent}:
    signal.sigtimedwait([], 0.1)
"""


class Workers:
    """What is started in place of `cdn-worker` writes down its words as it begins, and that it ends."""

    def __init__(self, folder: Path) -> None:
        self._told = folder / "told"
        self.program = folder / "python"

    def events(self) -> list[tuple[str, list[str]]]:
        lines = self._told.read_text().splitlines() if self._told.exists() else []
        return [(event, words[2:-2]) for event, words in map(json.loads, lines)]  # without -m cdn_worker … --parent N

    def begun(self) -> list[list[str]]:
        return [words for event, words in self.events() if event == "began"]

    def allowed(self) -> list[Buckets]:
        """What each of them was allowed."""
        return [
            Buckets(
                frozenset(words[at + 1] for at, word in enumerate(words) if word == "--allow-source"),
                frozenset(words[at + 1] for at, word in enumerate(words) if word == "--allow-destination"),
            )
            for words in self.begun()
        ]


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workers:
    made = Workers(tmp_path)
    made.program.write_text(PROGRAM.format(python=sys.executable, told=str(tmp_path / "told"), parent=os.getpid()))
    made.program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(made.program))
    return made


@pytest.fixture
def crew(workers: Workers) -> Iterator[Crew]:
    made = Crew(["one"])
    yield made
    made.stop()


def tended(crew: Crew, workers: Workers, times: int) -> None:
    def begun() -> bool:
        crew.tend()
        return len(workers.begun()) >= times

    wait_for(begun, 30)


def test_a_worker_with_other_words_begins_when_the_one_before_has_ended(crew: Crew, workers: Workers) -> None:
    tended(crew, workers, 1)
    crew.renew(["two"])
    assert workers.events() == [("began", ["one"]), ("ended", ["one"])]
    tended(crew, workers, 2)
    assert workers.begun() == [["one"], ["two"]]
    crew.stop()
    crew.renew(["three"])
    crew.tend()
    assert workers.events()[-1] == ("ended", ["two"]), "one that is stopped stays so"


def test_who_tends_does_not_wait_for_one_that_drains(workers: Workers) -> None:
    crew = Crew(["one"])
    with crew._lock:
        thread = threading.Thread(target=crew.tend)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
    assert workers.begun() == []


def test_a_worker_is_started_anew_for_a_bucket_that_is_new_and_for_no_other(workers: Workers) -> None:
    rows = [OURS]
    allows = AllowList(["run"], OURS, lambda: rows[0])
    allows.admit(OURS)
    crew = allows.crew(Buckets.of([("old-source", "old-sink")]))
    try:
        tended(crew, workers, 1)
        for known in (OURS, Buckets.of([("old-source", "sink")]), OURS):
            allows.admit(known)
        tended(crew, workers, 1)
        assert len(workers.events()) == 1, "nothing was new"
        rows[0] = Buckets.of([("source", "third-sink"), ("second-source", "sink")])
        allows.admit(OTHER)
        assert [event for event, _ in workers.events()] == ["began", "ended"], "the old one ends before anything is published"
        tended(crew, workers, 2)
        allows.admit(rows[0])
        tended(crew, workers, 2)
        assert len(workers.events()) == 3, "what other rows name came with it"
        sources = frozenset(("source", "old-source", "second-source"))
        assert workers.allowed()[1] == Buckets(sources, frozenset(("sink", "old-sink", "other-sink", "third-sink")))
    finally:
        crew.stop()


def test_many_starts_at_once_wait_for_a_few_starts_of_the_worker_though_the_table_is_away(workers: Workers) -> None:
    def away() -> Buckets:
        raise StoreUnavailable("locked")

    allows = AllowList(["run"], OURS, away)
    crew = allows.crew(Buckets())
    stop = threading.Event()

    def tend() -> None:
        while not stop.wait(0.01):
            crew.tend()

    tending = threading.Thread(target=tend)
    tending.start()
    wanted = [Buckets.of([("source", f"sink-{number}")]) for number in range(8)]
    try:
        wait_for(lambda: len(workers.begun()) == 1, 30)
        with ThreadPoolExecutor(8) as starts:
            list(starts.map(allows.admit, wanted))
        everything = OURS
        for one in wanted:
            everything |= one
        wait_for(lambda: workers.allowed()[-1] == everything, 30)
        assert len(workers.begun()) <= 5
    finally:
        stop.set()
        tending.join()
        crew.stop()


def order(prefix: str, destination: str = "") -> StartJob:
    name = job_name("m", Prefix(prefix), 1)
    return StartJob(prefix=Prefix(prefix), attempt=1, job_name=name, route=Route.CDN, destination=destination)


def test_the_daemons_own_worker_is_allowed_what_the_rows_and_the_live_jobs_name(tmp_path: Path, workers: Workers) -> None:
    settings = Settings(
        source_bucket="s3://source/in",
        destination_bucket="gs://sink/out",
        pool_ledger=str(tmp_path / "pool.db"),
        queue=f"sqlite:///{tmp_path / 'queue.db'}",
        workers=1,
    )
    store = MemoryStore()
    live = JobSpec(job="transferJobs/stsm-m-l-a1", prefix="l/", source_bucket="live-source", sink_bucket="live-sink")
    with closing(PoolLedger(tmp_path / "pool.db")) as ledger:
        ledger.begin(live, "l/", "q", NOW)
        over = JobSpec(job="transferJobs/stsm-m-o-a1", prefix="o/", source_bucket="over-source", sink_bucket="over-sink")
        ledger.begin(over, "o/", "q", NOW)
        ledger.end(over.job, "CANCELLED", "by a person", NOW)  # tasks of it may still be about
    own = {
        Prefix("b/"): Chosen(destination="gs://row-sink/x"),
        Prefix("c/"): Chosen(source="gs://not-for-us", destination="gs://not-for-us-either"),
    }
    store.load([Prefix("a/"), Prefix("b/"), Prefix("c/")], NOW, lambda _: None, own)
    pool = Pool(settings, lambda: store)
    sinks = frozenset(("sink", "live-sink", "over-sink", "row-sink"))
    sources = frozenset(("source", "live-source", "over-source"))
    try:
        with pool:
            wait_for(lambda: len(workers.begun()) == 1, 30)
            assert workers.allowed() == [Buckets(sources, sinks)]
            assert workers.begun()[0][0] == "run"
            pool.start(order("a/"))
            pool.start(order("b/", "gs://row-sink/x"))
            assert len(workers.events()) == 1
            store.load([Prefix("d/")], NOW, lambda _: None, {Prefix("d/"): Chosen(destination="gs://new-sink")})
            pool.start(order("d/", "gs://new-sink"))
            assert [event for event, _ in workers.events()][:2] == ["began", "ended"]
            wait_for(lambda: len(workers.begun()) == 2, 30)
            assert workers.allowed()[1] == Buckets(sources, sinks | {"new-sink"})
    finally:
        pool.close()
    assert [event for event, _ in workers.events()] == ["began", "ended"] * 2


SPEC = JobSpec(job="transferJobs/stsm-m-x-a1", prefix="p/", source_bucket="source", sink_bucket="sink")


def test_a_worker_refuses_buckets_that_are_not_its_own_and_names_a_few_of_those() -> None:
    allowed = WorkerPool(reach=POOL.reach, sources=frozenset({"source"}), sinks=frozenset(f"sink-{n}" for n in range(1000)))
    with pytest.raises(Refused, match="'sink' is none of this worker's: --allow-destination sink-0, ") as told:
        allowed.check(SPEC)
    assert len(str(told.value)) < 200
    WorkerPool(reach=POOL.reach).check(SPEC)


def test_a_task_of_ours_that_a_worker_with_other_buckets_refused_is_for_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper_module, "AGAIN_MAX", 3)
    queues = memory_queues()
    with closing(PoolLedger(tmp_path / "pool.db")) as ledger:
        spec = ledger.address(SPEC)
        ledger.begin(spec, "p/", queues.id, NOW)
        ledger.published(spec.job)
        keeper = PoolKeeper(queues, ledger, FakeClock())
        forged = JobSpec(job=spec.job, prefix="p/", source_bucket="source", sink_bucket="sink-of-others")
        listing = encoded(ListTask(spec=spec))
        copying, foreign = (
            encoded(CopyTask(spec=one, shard="root", run="r", sequence=0, items=(Item("p/a", 9, "e"),))) for one in (spec, forged)
        )
        refusal = f"bucket 'sink' {OTHER_BUCKET}: --allow-destination x"
        queues.lists.publish([listing])
        queues.copies.publish([copying, foreign])
        for queue, number in ((queues.lists, 1), (queues.copies, 2)):
            for one in queue.lease(number):
                queue.bury(one, refusal)
        assert keeper.mourn()
        assert [one.body for one in queues.copies.lease(5)] == [copying], "what was forged is not published again"
        job = ledger.job(spec.job)
        assert job is not None
        assert (job.state, job.error_code) == ("running", "")
        for _ in range(3):
            (lease,) = queues.lists.lease(5)
            queues.lists.bury(lease, refusal)
            keeper.mourn()
        assert queues.lists.lease(5) == []
        ended = ledger.job(spec.job)
        assert ended is not None
        assert ended.error_code == "POISON_TASK", "nobody is for it"


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        ([], "give --allow-source and --allow-destination for"),
        (["--allow-source", "some-source", "--allow-destination", "some-sink"], ""),
        (["--allow-source", "some-source"], "give --allow-destination for"),
    ],
)
def test_a_worker_that_a_person_starts_without_a_list_is_warned_about(words: list[str], missing: str) -> None:
    told = CliRunner().invoke(app, ["run", "--queue", "nowhere", *words])
    assert told.exit_code == 2
    assert ("warning: any bucket" in told.stderr) is bool(missing)
    assert missing in told.stderr


@pytest.mark.parametrize("name", ["", "s3://some-source", "some-source/path", "Some Source"])
@pytest.mark.parametrize("flag", ["--allow-source", "--allow-destination"])
def test_what_is_no_bare_name_of_a_bucket_is_refused(flag: str, name: str) -> None:
    """No task would ever match it: each was refused, and ended as poison."""
    told = CliRunner().invoke(app, ["run", "--queue", "nowhere", flag, name])
    assert told.exit_code == 2
    assert f"{flag} {name!r}: give a bucket's bare name" in told.stderr
