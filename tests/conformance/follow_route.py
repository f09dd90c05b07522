"""What the route of followed prefixes must do beside what every route must. A module that tests one gives a `bench` fixture."""

from __future__ import annotations

from typing import Protocol

from sts_manager.domain.model import OperationSnapshot, OperationState, Route, StartJob
from sts_manager.domain.names import JobName, OperationName, Prefix, job_name
from sts_manager.ports import Started, TransferRoute

PREFIXES = (Prefix("p/"), Prefix("q/"))
JOB = job_name("0badcafe", Prefix("p/\0q/"), 2)


class Bench(Protocol):
    """A route, and the service's hand."""

    @property
    def route(self) -> TransferRoute: ...
    def jobs(self) -> int:
        """How many there are, deleted ones too."""
        ...

    def copy(self) -> None:
        """One more object changes, and is copied by the present operation."""
        ...

    def end_day(self) -> None:
        """The present operation ends, and no other one begins yet."""
        ...

    def next_day(self) -> None:
        """The next operation begins."""
        ...

    def delete(self) -> None:
        """Somebody deletes the job."""
        ...


def begin(bench: Bench, *, adopt_only: bool = False) -> Started:
    first, *others = PREFIXES
    return bench.route.start(
        StartJob(prefix=first, others=tuple(others), attempt=2, job_name=JOB, route=Route.STS_FOLLOW, adopt_only=adopt_only)
    )


def look(bench: Bench, name: OperationName) -> OperationSnapshot:
    return bench.route.operations([name])[name]


def begun(bench: Bench) -> OperationName:
    name = begin(bench).operation_name
    assert name is not None
    return name


def test_it_begins_once_and_is_found_again(bench: Bench) -> None:
    assert begin(bench, adopt_only=True).operation_name is None
    assert bench.jobs() == 0
    first, again = begin(bench), begin(bench)
    assert (first.adopted, again.adopted) == (False, True)
    assert first.operation_name == again.operation_name
    assert bench.jobs() == 1


def test_the_next_operation_is_told_of_under_its_own_name_with_the_sums_of_both(bench: Bench) -> None:
    name = begun(bench)
    bench.copy()
    first = look(bench, name)
    assert first.following is not None
    assert (first.name, first.state, first.counters.objects_copied) == (name, OperationState.IN_PROGRESS, 1)
    bench.end_day()
    bench.next_day()
    bench.copy()
    second = look(bench, name)
    assert second.name != name
    assert (second.state, second.job_name, second.counters.objects_copied) == (OperationState.IN_PROGRESS, JOB, 2)
    assert look(bench, second.name).name == second.name


def test_between_two_operations_and_after_the_last(bench: Bench) -> None:
    name = begun(bench)
    bench.end_day()
    between = look(bench, name).following
    assert between is not None
    assert (between.between, between.cause, between.over) == (True, None, "")
    bench.next_day()
    bench.delete()
    over = look(bench, name).following
    assert over is not None
    assert not over.between
    assert "deleted" in over.over


def test_pause_and_resume(bench: Bench) -> None:
    name = begun(bench)
    bench.route.operations([name])
    bench.route.pause(name)
    state = None
    while state is not OperationState.PAUSED:  # it may be SUSPENDING first
        state = look(bench, name).state
        assert state in (OperationState.SUSPENDING, OperationState.PAUSED)
    bench.route.resume(name)
    assert look(bench, name).state is OperationState.IN_PROGRESS


def test_an_operation_of_nobody_is_absent(bench: Bench) -> None:
    ghost = OperationName("transferOperations/ghost")
    assert bench.route.operations([ghost]) == {}
    assert isinstance(JOB, JobName)
