"""What waits for what: huge objects beside small ones, several workers beside each other. Real workers, queues and processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from cdn_worker.config import Reach
from cdn_worker.domain.budget import streams_of
from cdn_worker.http.engine import Limits
from cdn_worker.ports import Queues
from cdn_worker.protocol.codec import decoded_report, encoded
from cdn_worker.protocol.messages import CopyReport, CopyTask, Item, JobSpec, ListReport, ListTask
from cdn_worker.queues.sqlite import sqlite_queues
from cdn_worker.worker.list_task import Sizes
from cdn_worker.worker.worker import Pool
from tests.integration.test_worker import working
from tests.sparse import SINK, SOURCE, Sparse
from tests.stages import wait_for

MIB = 1 << 20
SPEC = JobSpec(job="transferJobs/x-a1", prefix="p/", source_bucket=SOURCE, sink_bucket=SINK)
Make = Callable[..., Sparse]


@pytest.fixture
def make() -> Iterator[Make]:
    with ExitStack() as opened:

        def made(objects: Mapping[str, int], **more: frozenset[str]) -> Sparse:
            return opened.enter_context(closing(Sparse(objects, **more)))  # type: ignore[arg-type]

        yield made


@pytest.fixture
def queues(tmp_path: Path) -> Iterator[Queues]:
    with closing(sqlite_queues(tmp_path / "queue.db")) as made:
        yield made


def pool(sparse: Sparse, *, requests: int = 64, slots: tuple[int, int] = (16, 64), keys: int = 50) -> Pool:
    limits = Limits(requests=requests)
    reach = Reach(
        s3_endpoint=sparse.url, s3_region="us-east-1", sink_endpoint=sparse.url, limits=limits, slots=slots, backoff_s=0.1
    )
    return Pool(reach=reach, sizes=Sizes(keys=keys))


def test_two_workers_share_huge_objects_and_each_reads_as_many_as_it_may(make: Make, queues: Queues, tmp_path: Path) -> None:
    """One object at a time was read by both together, and one of them had all the tasks (C1)."""
    sparse = make({f"p/{index:03}": 600 * MIB for index in range(200)})
    made = pool(sparse)
    each = streams_of(64, made.reach.buffer_bytes)
    queues.lists.publish([encoded(ListTask(spec=SPEC))])
    with ExitStack() as stack:
        files = [stack.enter_context(closing(sqlite_queues(tmp_path / "queue.db"))) for _ in range(2)]
        workers = [stack.enter_context(working(made, file)) for file in files]
        wait_for(lambda: sparse.streams == 2 * each, 60)
        assert [one.figures.in_flight for one in workers] == [each, each]
        assert queues.huge.backlog() == 200 - 2 * each, "what cannot begin is left to others"
        sparse.over.set()


def test_a_huge_object_stops_no_small_ones(make: Make, queues: Queues) -> None:
    small = {f"p/{index:04}": 1000 for index in range(2000)}
    sparse = make(small | {"p/0000-huge": 5000 * MIB})
    queues.lists.publish([encoded(ListTask(spec=SPEC))])
    with working(pool(sparse), queues):
        wait_for(lambda: sparse.streams == 1, 30)
        wait_for(lambda: sparse.written == set(small), 60)
        assert sparse.streams == 1, "and it is still being read"
        reported = []
        wait_for(lambda: bool(reported.extend(queues.reports.lease(500)) or len(reported) == 41))  # type: ignore[func-returns-value]
        sparse.over.set()
    kinds = [decoded_report(one.body) for one in reported]
    assert sum(isinstance(one, ListReport) for one in kinds) == 1
    assert sum(one.counts.objects["done"] for one in kinds if isinstance(one, CopyReport)) == 2000


def test_nor_do_as_many_huge_objects_as_there_are_places_for(make: Make, queues: Queues) -> None:
    small = {f"p/z{index:04}": 20_000 for index in range(300)}
    huge = {f"p/a{index:02}": 600 * MIB for index in range(40)}
    sparse = make(small | huge)
    queues.lists.publish([encoded(ListTask(spec=SPEC))])
    with working(pool(sparse, requests=8), queues):
        wait_for(lambda: sparse.streams == 4, 30)
        wait_for(lambda: sparse.written == set(small), 60)
        sparse.over.set()


def test_nor_in_a_copy_of_one_machine(make: Make, tmp_path: Path) -> None:
    small = {f"p/{index:04}": 1000 for index in range(500)}
    sparse = make(small | {f"p/0000-huge{index}": 5000 * MIB for index in range(6)})
    words = ["copy", "--source", f"s3://{SOURCE}/p/", "--destination", f"gs://{SINK}/p/", "--no-sign-request", "--processes", "1"]
    words += ["--connections", "4", "--s3-endpoint", sparse.url, "--gcs-endpoint", sparse.url, "--quiet"]
    copy = subprocess.Popen(
        [sys.executable, "-m", "cdn_worker", *words], cwd=tmp_path, env={**os.environ}, stderr=subprocess.PIPE
    )
    try:
        wait_for(lambda: sparse.streams == 2 or copy.poll() is not None, 30)
        assert copy.poll() is None, copy.communicate()[1]
        wait_for(lambda: sparse.written == set(small), 60)
    finally:
        copy.kill()
        copy.communicate()


def test_what_has_not_begun_is_given_back_and_was_not_delivered_in_vain(
    make: Make, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker extends its lease for as long as it likes: others with nothing to do never saw it (C1)."""
    monkeypatch.setattr("cdn_worker.worker.worker.BEGIN_S", 0.5)
    monkeypatch.setattr("cdn_worker.worker.worker.DRAIN_S", 0.2)
    keys = [f"p/{index}" for index in range(6)]
    sparse = make(dict.fromkeys(keys, 100), stuck=frozenset(keys))
    tasks = [
        CopyTask(spec=SPEC, shard="root", run="r", sequence=number, items=(Item(key, 100, sparse.etag(key)),))
        for number, key in enumerate(keys)
    ]
    queues.copies.publish([encoded(one) for one in tasks])
    with working(pool(sparse, slots=(1, 1), keys=1), queues) as worker:
        wait_for(lambda: sum(sparse.asked.values()) == 1, 30)
        wait_for(lambda: queues.copies.backlog() == 5, 30)
        assert worker.figures.in_flight <= 2, "it claims no more of what it could not begin"
        sparse.over.set()
    left = queues.copies.lease(10)
    assert [one.attempt for one in left] == [1] * len(left)
    assert len(left) >= 5


def test_a_listing_alone_shows_that_its_server_is_back(make: Make, queues: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies were asked for first, for a moment: a queue with nothing but listings was never tried again, and stood for ever."""
    monkeypatch.setattr("cdn_worker.domain.outage.OUTAGE_S", 0.2)
    monkeypatch.setattr("cdn_worker.worker.worker.PROBE_S", 2.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sink = make({})
    reach = Reach(s3_endpoint=f"http://127.0.0.1:{port}", s3_region="us-east-1", sink_endpoint=sink.url, backoff_s=0.02)
    queues.lists.publish([encoded(ListTask(spec=SPEC))])
    with working(Pool(reach=reach), queues) as worker:
        wait_for(lambda: bool(worker.figures.trouble) and not worker._listings, 40)
        with closing(Sparse({"p/a": 100}, port=port)):
            wait_for(lambda: sink.written == {"p/a"}, 40)
            wait_for(lambda: not worker.figures.trouble, 40)
