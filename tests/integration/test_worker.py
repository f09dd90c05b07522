"""A worker of the pool in this process, against the stage: what needs a hand inside."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cdn_worker.config import Reach
from cdn_worker.credentials.signing_keys import signer_from_file
from cdn_worker.domain.signing import Digest
from cdn_worker.domain.sigv4 import AwsKeys
from cdn_worker.http.engine import Limits
from cdn_worker.ports import Queues
from cdn_worker.protocol.codec import decoded_report, encoded
from cdn_worker.protocol.messages import CopyReport, JobSpec, ListTask, Report
from cdn_worker.queues.sqlite import sqlite_queues
from cdn_worker.worker.worker import Pool, Worker
from tests.fakes.memory_queue import memory_queues
from tests.stages import SINK, SOURCE, at_sink, fill, wait_for
from tools.emulators.cdn import KEY_PAIR_ID
from tools.emulators.stage import KEYS, Stage

MIB = 1 << 20
SPEC = JobSpec(job="transferJobs/x-a1", prefix="p/", source_bucket=SOURCE, sink_bucket=SINK)


def pool(state: Path) -> Pool:
    """One process; large objects are read a MiB at a time, and noted as often."""
    reach = Reach(
        s3_endpoint=os.environ["AWS_ENDPOINT_URL"],
        s3_region="us-east-1",
        sink_endpoint=os.environ["STORAGE_EMULATOR_HOST"],
        cdn_url=f"http://{os.environ['CDN_EMULATOR_HOST']}/{{bucket}}/",
        key_pair_id=KEY_PAIR_ID,
        limits=Limits(lanes=1, lane_bytes=MIB, lane_bytes_alone=MIB, note_bytes=MIB),
        backoff_s=0.01,
        aws=lambda: (AwsKeys(KEYS.key_id, KEYS.secret), None),
        signer=signer_from_file(Path(os.environ["CDN_PRIVATE_KEY_FILE"]), Digest.SHA1),
    )
    return Pool(reach=reach, state=state)


@contextmanager
def working(made: Pool, queues: Queues) -> Iterator[Worker]:
    stop = threading.Event()
    worker = Worker(made, queues, stopping=stop.is_set)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield worker
    finally:
        stop.set()
        thread.join(timeout=30)
        assert not thread.is_alive()


def reports(queues: Queues) -> list[Report]:
    return [decoded_report(one.body) for one in queues.reports.lease(100)]


def test_a_large_object_goes_on_where_its_worker_left_it(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdn_worker.worker.worker.DRAIN_S", 0.2)
    body = random.Random(5).randbytes(12 * MIB + 7)
    fill(stage, {"p/large": body})
    queues, state = memory_queues(), tmp_path / "worker.resume"
    queues.lists.publish([encoded(ListTask(spec=SPEC))])
    # After the canary and six ranges nothing moves any more.
    stage.ledger.add_rule({"service": "cdn", "method": "GET", "error": "SLOW", "after": 7, "times": 0})
    with working(pool(state), queues):
        wait_for(lambda: state.exists() and '"offset": 5' in state.read_text(), 40)
    stage.ledger.rules.clear()
    assert not any(isinstance(one, CopyReport) for one in reports(queues))
    noted = max(json.loads(line)["offset"] for line in state.read_text().splitlines() if line)
    assert noted >= 4 * MIB
    assert state.stat().st_mode & 0o077 == 0, "the address of an upload is for nobody else"
    before = stage.ledger.calls["cdn", "GET"]
    found: list[Report] = []

    def done() -> bool:
        found.extend(reports(queues))
        return any(isinstance(one, CopyReport) for one in found)

    with working(pool(state), queues):
        wait_for(done, 40)
    (report,) = (one for one in found if isinstance(one, CopyReport))
    assert report.counts.objects == {"done": 1}
    assert at_sink(stage) == {"p/large": body}
    assert stage.ledger.calls["cdn", "GET"] - before <= 13 - noted // MIB, "only what was missing is read"


def test_ten_polite_restarts_while_objects_are_slow_bury_nothing(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rolling deploys, Spot, a crash loop: the eleventh buried what was slow each time, as if its workers had died (C7)."""
    monkeypatch.setattr("cdn_worker.worker.worker.DRAIN_S", 0.2)
    objects = {f"p/{index}": f"{index}".encode() * 100 for index in range(3)}
    fill(stage, objects)
    with closing(sqlite_queues(tmp_path / "queue.db")) as queues:
        queues.lists.publish([encoded(ListTask(spec=SPEC))])
        with working(pool(tmp_path / "resume"), queues):
            # After the canary nothing moves any more.
            stage.ledger.add_rule({"service": "cdn", "method": "GET", "error": "SLOW", "after": 1, "times": 0})
            wait_for(lambda: stage.ledger.calls["cdn", "GET"] > 1, 40)
        for _ in range(10):
            before = stage.ledger.calls["cdn", "GET"]
            with working(pool(tmp_path / "resume"), queues):
                wait_for(lambda before=before: stage.ledger.calls["cdn", "GET"] > before, 40)  # type: ignore[misc]
        stage.ledger.rules.clear()
        found: list[Report] = []

        def copied() -> bool:
            leases = queues.reports.lease(100)
            found.extend(decoded_report(one.body) for one in leases)
            queues.reports.ack(leases)
            return sum(isinstance(one, CopyReport) for one in found) == 1

        with working(pool(tmp_path / "resume"), queues):
            wait_for(copied, 40)
        (report,) = (one for one in found if isinstance(one, CopyReport))
        assert report.counts.objects == {"done": 3}
        assert queues.dead.lease(5) == []
    assert at_sink(stage) == objects
