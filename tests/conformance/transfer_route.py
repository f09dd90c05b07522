"""What every TransferRoute must do. A module that tests an implementation gives a `bench` fixture."""

from __future__ import annotations

from typing import Protocol

import pytest

from sts_manager.domain.errors import NameTaken, Retryable
from sts_manager.domain.model import OperationState, Route, StartJob
from sts_manager.domain.names import JobName, OperationName, Prefix, job_name
from sts_manager.ports import TransferRoute


class Bench(Protocol):
    """A route, and the other side's view of it."""

    @property
    def route(self) -> TransferRoute: ...
    def runs(self, name: JobName) -> int: ...
    def settle(self, name: OperationName, state: OperationState) -> None:
        """Wait until (or make) the operation be in this state."""
        ...


def order(attempt: int = 1, *, prefix: str = "p/", name: JobName | None = None, adopt_only: bool = False) -> StartJob:
    return StartJob(
        prefix=Prefix(prefix),
        attempt=attempt,
        job_name=name or job_name("m1", Prefix("p/"), attempt),
        route=Route.STS_S3,
        adopt_only=adopt_only,
    )


def test_a_start_makes_one_job_that_runs_once(bench: Bench) -> None:
    first = bench.route.start(order())
    again = bench.route.start(order())
    assert first.operation_name is not None
    assert (first.adopted, again.adopted) == (False, True)
    assert again.operation_name == first.operation_name
    assert bench.runs(order().job_name) == 1


def test_a_start_after_the_operation_ended_runs_nothing_again(bench: Bench) -> None:
    first = bench.route.start(order())
    assert first.operation_name is not None
    bench.settle(first.operation_name, OperationState.SUCCESS)
    assert bench.route.start(order()).operation_name == first.operation_name
    assert bench.runs(order().job_name) == 1


def test_the_next_attempt_is_another_job(bench: Bench) -> None:
    names = {bench.route.start(order(attempt)).operation_name for attempt in (1, 2)}
    assert len(names) == 2


def test_looking_for_a_job_starts_nothing(bench: Bench) -> None:
    assert bench.route.start(order(adopt_only=True)).operation_name is None
    assert bench.runs(order().job_name) == 0
    made = bench.route.start(order())
    assert bench.route.start(order(adopt_only=True)).operation_name == made.operation_name


def test_a_job_of_the_name_with_another_spec_is_not_adopted(bench: Bench) -> None:
    bench.route.start(order())
    with pytest.raises(NameTaken):
        bench.route.start(order(prefix="q/"))


def test_operations_are_found_and_unknown_ones_are_absent(bench: Bench) -> None:
    made = [bench.route.start(order(attempt)).operation_name for attempt in range(1, 4)]
    names = [name for name in made if name is not None]
    ghost = OperationName("transferOperations/ghost")
    found = bench.route.operations([*names, ghost])
    assert set(found) == set(names)
    assert {found[name].job_name for name in names} == {order(attempt).job_name for attempt in range(1, 4)}
    assert all(found[name].results for name in names)
    assert bench.route.operations([]) == {}


def test_pause_and_resume(bench: Bench) -> None:
    name = bench.route.start(order()).operation_name
    assert name is not None
    bench.route.pause(name)
    bench.settle(name, OperationState.PAUSED)
    with pytest.raises(Retryable):
        bench.route.pause(name)
    bench.route.resume(name)
    bench.settle(name, OperationState.IN_PROGRESS)
    with pytest.raises(Retryable):
        bench.route.resume(name)
