"""Every transfer route, over one suite: the fake of the simulation, and the real client against the stage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cdn_worker.protocol.codec import decoded_task
from cdn_worker.protocol.messages import ROOT, ListReport
from cdn_worker.protocol.url_list_ledger import ListLedger
from cdn_worker.queues.sqlite import sqlite_queues
from sts_manager.clock import SystemClock
from sts_manager.domain.errors import NameDeleted, StoreUnavailable
from sts_manager.domain.location import place
from sts_manager.domain.model import OperationState
from sts_manager.domain.names import JobName, OperationName
from sts_manager.routes.pool.ledger import PoolLedger
from sts_manager.routes.pool.operation import job_of
from sts_manager.routes.pool.route import CdnRoute, PoolSettings, spec_of
from sts_manager.routes.sts.route import StsRoute, connect
from sts_manager.routes.sts.spec import S3Access, TransferSettings
from sts_manager.routes.url_list.operation import job_of as list_job_of
from sts_manager.routes.url_list.route import UrlListRoute
from tests.conformance.transfer_route import *  # noqa: F403
from tests.conformance.transfer_route import Bench, order
from tests.fakes.transfer_service import FakeTransferService
from tests.stages import SINK, SOURCE, fill, wait_for
from tools.emulators.stage import KEYS, PROJECT, Stage


class FakeBench:
    def __init__(self) -> None:
        self.route = FakeTransferService()

    def delete(self, name: JobName) -> None:
        self.route.delete(name)

    def runs(self, name: JobName) -> int:
        return self.route.jobs[name].runs if name in self.route.jobs else 0

    def settle(self, name: OperationName, state: OperationState) -> None:
        self.route.set(name, state)


class StageBench:
    """Slow enough that an operation is still in progress when a test looks, unless it waits for the end.

    classes: jobs are limited to these storage classes, and so are made and looked at over REST.
    """

    def __init__(self, stage: Stage, classes: tuple[str, ...] = ()) -> None:
        assert stage.sts is not None
        self.stage, self.service = stage, stage.sts
        fill(stage, {f"p/{index}": b"x" * 100 for index in range(3)} | {"q/1": b"y"})
        stage.ledger.change({"sts.objects_per_second": 10})
        grpc, rest = (stage.environment[f"STORAGE_TRANSFER_{face}EMULATOR_HOST"] for face in ("", "REST_"))
        client = connect(PROJECT, grpc, SystemClock(), rest)
        access = S3Access(key_id=KEYS.key_id, secret_key=KEYS.secret)
        settings = TransferSettings(
            project=PROJECT,
            source=place(f"s3://{SOURCE}"),
            sink=place(f"gs://{SINK}/in"),
            s3_access=access,
            storage_classes=classes,
        )
        self.route = StsRoute({PROJECT: client}, settings)

    def delete(self, name: JobName) -> None:
        self.service.delete(name, PROJECT)

    def runs(self, name: JobName) -> int:
        return len(self.service.by_job.get(name, ()))

    def settle(self, name: OperationName, state: OperationState) -> None:
        wait_for(lambda: self.route.operations([name])[name].state is state)


class PoolBench:
    """The pool's route, its ledger and its queue; no worker is at work."""

    def __init__(self, folder: Path) -> None:
        self.queues = sqlite_queues(folder / "queue.db")
        self.ledger = PoolLedger(folder / "pool.db")
        settings = PoolSettings(source=place(f"s3://{SOURCE}"), sink=place(f"gs://{SINK}/in"))
        self.route = CdnRoute(self.queues, self.ledger, lambda _order: settings, SystemClock())

    def runs(self, name: JobName) -> int:
        bodies = [decoded_task(one.body) for one in self.queues.lists.lease(100)]
        return sum(one.spec.job == name for one in bodies)

    def settle(self, name: OperationName, state: OperationState) -> None:
        if state is OperationState.SUCCESS:
            report = ListReport(job=job_of(name), shard=ROOT, run="r", listed=0, listed_bytes=0, tasks=0)
            self.ledger.fold([report], SystemClock().now())
        assert self.route.operations([name])[name].state is state

    def close(self) -> None:
        self.queues.close()
        self.ledger.close()


class ListBench:
    """The route of URL lists and its ledger, with the stage's service; what a lister does is done by the test."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        fill(stage, {"p/1": b"x"})
        client = connect(PROJECT, stage.environment["STORAGE_TRANSFER_EMULATOR_HOST"], SystemClock())
        self.ledger = ListLedger(folder / "lists.db", StoreUnavailable)
        settings = PoolSettings(source=place(f"s3://{SOURCE}"), sink=place(f"gs://{SINK}/in"))
        self.route = UrlListRoute({PROJECT: client}, self.ledger, lambda asked: spec_of(asked, settings), SystemClock())

    def runs(self, name: JobName) -> int:
        return int(self.ledger.job(name) is not None)

    def settle(self, name: OperationName, state: OperationState) -> None:
        if state is OperationState.SUCCESS:
            self.ledger.end(list_job_of(name), SystemClock().now())
        assert self.route.operations([name])[name].state is state

    def close(self) -> None:
        self.ledger.close()


@pytest.fixture(params=["fake", "stage", "stage over REST", "pool", "lists"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    if request.param == "fake":
        yield FakeBench()
    elif request.param == "stage":
        yield StageBench(request.getfixturevalue("stage"))
    elif request.param == "stage over REST":
        yield StageBench(request.getfixturevalue("stage"), classes=("GLACIER", "STANDARD"))
    elif request.param == "lists":
        with closing(ListBench(request.getfixturevalue("stage"), tmp_path)) as lists:
            yield lists
    else:
        with closing(PoolBench(tmp_path)) as pool:
            yield pool


@pytest.mark.parametrize("kind", ["fake", "stage", "stage over REST"])
def test_a_deleted_name_is_told_apart(kind: str, request: pytest.FixtureRequest) -> None:
    classes = ("STANDARD",) if "REST" in kind else ()
    bench = FakeBench() if kind == "fake" else StageBench(request.getfixturevalue("stage"), classes)
    bench.route.start(order())
    bench.delete(order().job_name)
    with pytest.raises(NameDeleted):
        bench.route.start(order())
