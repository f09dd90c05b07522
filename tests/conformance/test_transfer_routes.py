"""Every transfer route, over one suite: the fake of the simulation, and the real client against the stage."""

from __future__ import annotations

import pytest

from sts_manager.clock import SystemClock
from sts_manager.domain.model import OperationState
from sts_manager.domain.naming import JobName, OperationName
from sts_manager.domain.place import place
from sts_manager.routes.sts import StsRoute, connect
from sts_manager.routes.sts_spec import S3Access, TransferSettings
from tests.conformance.transfer_route import *  # noqa: F403
from tests.conformance.transfer_route import Bench
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
    """Slow enough that an operation is still in progress when a test looks, unless it waits for the end."""

    def __init__(self, stage: Stage) -> None:
        assert stage.sts is not None
        self.stage, self.service = stage, stage.sts
        fill(stage, {f"p/{index}": b"x" * 100 for index in range(3)} | {"q/1": b"y"})
        stage.ledger.change({"sts.objects_per_second": 10})
        client = connect(PROJECT, stage.environment["STORAGE_TRANSFER_EMULATOR_HOST"], SystemClock())
        access = S3Access(key_id=KEYS.key_id, secret_key=KEYS.secret)
        settings = TransferSettings(
            project=PROJECT, source=place(f"s3://{SOURCE}"), sink=place(f"gs://{SINK}/in"), s3_access=access
        )
        self.route = StsRoute(client, settings)

    def delete(self, name: JobName) -> None:
        self.service.delete(name, PROJECT)

    def runs(self, name: JobName) -> int:
        return len(self.service.by_job.get(name, ()))

    def settle(self, name: OperationName, state: OperationState) -> None:
        wait_for(lambda: self.route.operations([name])[name].state is state)


@pytest.fixture(params=["fake", "stage"])
def bench(request: pytest.FixtureRequest) -> Bench:
    if request.param == "fake":
        return FakeBench()
    return StageBench(request.getfixturevalue("stage"))
