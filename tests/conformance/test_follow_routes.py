"""The route of followed prefixes, over one suite: the fake of the unit tests, and the real one against the stage."""

from __future__ import annotations

import pytest

from sts_manager.domain.model import OperationState
from tests.conformance.follow_route import *  # noqa: F403
from tests.conformance.follow_route import JOB, Bench
from tests.fakes.transfer_service import FakeTransferService
from tests.integration.test_follow_days import Scene
from tests.stages import wait_for
from tools.emulators.stage import PROJECT
from tools.emulators.sts.copier import Status


class FakeBench:
    def __init__(self) -> None:
        self.route = FakeTransferService()

    def jobs(self) -> int:
        return len(self.route.jobs)

    def copy(self) -> None:
        name = self.route.jobs[JOB].operation
        assert name is not None
        self.route.set(name, OperationState.IN_PROGRESS, objects_copied=self.route.states[name].counters.objects_copied + 1)

    def end_day(self) -> None:
        name = self.route.jobs[JOB].operation
        assert name is not None
        self.route.set(name, OperationState.SUCCESS)

    def next_day(self) -> None:
        self.route.next_day(JOB)

    def delete(self) -> None:
        self.route.delete(JOB)


class StageBench:
    def __init__(self, scene: Scene) -> None:
        self.scene, self.route, self.copies = scene, scene.route, 0

    def jobs(self) -> int:
        return len(self.scene.service.jobs)

    def _present(self) -> str:
        return self.scene.service.by_job[JOB][-1]

    def copy(self) -> None:
        self.copies += 1
        self.scene.copied(f"p/{self.copies}")
        work = self.scene.service.operations[self._present()].work
        wait_for(lambda: work.counts.copied[0] == 1)

    def end_day(self) -> None:
        operation = self.scene.service.operations[self._present()]
        self.scene.age(operation, 86_400)
        wait_for(lambda: operation.work.status == Status.SUCCESS)

    def next_day(self) -> None:
        before = self._present()
        self.scene.age(self.scene.service.operations[before], 11 * 86_400)
        wait_for(lambda: self._present() != before)

    def delete(self) -> None:
        self.scene.service.delete(JOB, PROJECT)


@pytest.fixture(params=["fake", "stage"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return FakeBench() if request.param == "fake" else StageBench(Scene(request.getfixturevalue("stage")))
