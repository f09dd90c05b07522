"""The service's quotas: no window is ever exceeded, and what was used of the day is known after a restart."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sts_manager.domain.errors import Throttled
from sts_manager.domain.model import Plan, Route, StartJob
from sts_manager.domain.names import JobName, OperationName, Prefix, job_name
from sts_manager.routes.sts.quotas import ServiceQuotas
from sts_manager.routes.sts.rate_limiter import BUCKET_S, QUOTAS, Pacer
from sts_manager.routes.sts.route import StsClient
from tests.fakes.clock import FakeClock

DAY = 86_400.0
SMALL = {"create": ((3, 60.0), (5, DAY)), "read": ((4, 60.0),)}
WAITS = st.lists(st.floats(0, 40_000), min_size=1, max_size=60)


def taken(pacer: Pacer, kind: str = "create") -> bool:
    """Whether a call was let through."""
    try:
        pacer.take(kind)
    except Throttled:
        return False
    return True


@given(waits=WAITS, jumps=st.lists(st.floats(-1e8, 1e8), max_size=5))
def test_no_sliding_window_is_ever_exceeded_whatever_the_wall_clock_does(waits: list[float], jumps: list[float]) -> None:
    clock = FakeClock()
    pacer = Pacer(clock, SMALL)
    made: list[float] = []
    for at, wait in enumerate(waits):
        clock.advance(wait)
        if at < len(jumps):
            clock.jump(jumps[at])
        made += [clock.monotonic()] * sum(taken(pacer) for _ in range(6))  # a burst
    for limit, seconds in SMALL["create"]:
        assert all(sum(start <= one < start + seconds for one in made) <= limit for start in made)


@given(waits=st.lists(st.floats(0, 9_000), min_size=1, max_size=40), restarts=st.sets(st.integers(0, 39)))
def test_nor_over_restarts(waits: list[float], restarts: set[int]) -> None:
    clock = FakeClock()
    pacer = Pacer(clock, SMALL)
    made: list[float] = []
    for at, wait in enumerate(waits):
        clock.advance(wait)
        if at in restarts:
            known = pacer.buckets()
            pacer = Pacer(clock, SMALL)
            pacer.remember(known)
            pacer.remember(known)
            assert sum(pacer.buckets().values()) <= sum(known.values()), "what is known is not counted again"
        if taken(pacer):
            made.append(clock.monotonic())
    limit, seconds = SMALL["create"][1]
    assert all(sum(start <= one < start + seconds for one in made) <= limit for start in made)


def test_a_wait_is_as_long_as_it_must_be() -> None:
    clock = FakeClock()
    pacer = Pacer(clock, SMALL)
    assert [taken(pacer) for _ in range(4)] == [True, True, True, False]
    with pytest.raises(Throttled, match="3 create calls in 60 s is the service's quota") as refused:
        pacer.take("create")
    assert refused.value.after is not None
    clock.advance(refused.value.after.total_seconds() + 0.001)
    assert taken(pacer)


def test_what_is_used_is_told_and_forgotten_in_time() -> None:
    clock = FakeClock()
    pacer = Pacer(clock, SMALL)
    pacer.take("create")
    pacer.take("read")
    assert [(one.kind, one.seconds, one.calls, one.most) for one in pacer.used()] == [
        ("create", 60.0, 1, 3),
        ("create", DAY, 1, 5),
        ("read", 60.0, 1, 4),
    ]
    clock.advance(61)
    assert [one.calls for one in pacer.used()] == [0, 1, 0]
    clock.advance(DAY)
    assert [one.calls for one in pacer.used()] == [0, 0, 0]


@pytest.mark.parametrize("jump", [-3600.0, 3600.0, -5 * 365 * DAY])
def test_a_clock_that_was_set_back_loses_no_call_of_the_day(jump: float) -> None:
    clock = FakeClock()
    before = Pacer(clock, SMALL)
    before.take("create")
    known = before.buckets()
    clock.jump(jump)
    after = Pacer(clock, SMALL)
    after.remember(known)
    assert [one.calls for one in after.used() if one.seconds == DAY] == [1]


def test_projects_are_counted_apart_and_the_plans_own_creates_are_in() -> None:
    clock = FakeClock()
    # No call is made: only the pacer of each client matters here.
    clients = {name: StsClient(None, name, Pacer(clock, SMALL)) for name in ("one-project", "two-project")}  # type: ignore[arg-type]
    quotas = ServiceQuotas(lambda: clients, clock)
    for _ in range(3):
        clients["one-project"].pacer.take("create")
    clock.advance(61)
    for _ in range(2):
        clients["one-project"].pacer.take("create")
    used = quotas.projects()
    assert {project: (one.creates, one.full, one.refused) for project, one in used.items()} == {
        "one-project": (5, True, False),
        "two-project": (0, False, False),
    }
    clients["two-project"].pacer.refuse("create")
    assert quotas.projects()["two-project"].refused
    clock.advance(61)
    assert not quotas.projects()["two-project"].refused
    orders = [
        StartJob(prefix=Prefix("p/"), attempt=1, job_name=job_name("m", Prefix("p/"), 1), route=route, project=project)
        for route, project in ((Route.STS_S3, "two-project"), (Route.STS_S3, ""), (Route.CDN, ""))
    ]
    told = quotas.creates(Plan(actions=tuple(orders)))
    assert {project: sum(buckets.values()) for project, buckets in told.items()} == {"one-project": 6, "two-project": 1}
    assert max(told["one-project"]) == int(clock.now().timestamp() // BUCKET_S)
    again = {name: StsClient(None, name, Pacer(clock, SMALL)) for name in clients}  # type: ignore[arg-type]
    recalled = ServiceQuotas(lambda: again, clock)
    recalled.recall(told)
    assert {project: one.full for project, one in recalled.projects().items()} == {"one-project": True, "two-project": False}


def test_without_a_client_there_is_nothing_to_count() -> None:
    quotas = ServiceQuotas(dict, FakeClock())
    assert (quotas.used(), quotas.projects(), quotas.creates(Plan())) == ((), {}, {})


class Counting:
    """The service's client, as far as these calls go: each answers emptily."""

    def __getattr__(self, _name: str) -> object:
        return lambda *_words, **_flags: SimpleNamespace(
            operation=SimpleNamespace(name="transferOperations/1"), account_email="a"
        )


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda client: client.create(None), "create"),
        (lambda client: client.get(JobName("transferJobs/x")), "read"),
        (lambda client: client.agent(), "read"),
        (lambda client: client.run(JobName("transferJobs/x")), "run"),
        (lambda client: client.delete("transferJobs/x"), "delete"),
        (lambda client: client.pause(OperationName("transferOperations/1")), "pause"),
        (lambda client: client.resume(OperationName("transferOperations/1")), "pause"),
        (lambda client: client.cancel(OperationName("transferOperations/1")), "pause"),
    ],
)
def test_each_call_is_charged_to_the_quota_that_the_service_charges(call: Callable[[StsClient], object], kind: str) -> None:
    pacer = Pacer(FakeClock())
    call(StsClient(Counting(), "one-project", pacer))  # type: ignore[arg-type]
    charged = {one.kind for one in pacer.used() if one.calls}
    assert charged == ({kind} if QUOTAS[kind] else set())


def test_the_quotas_are_those_of_the_services_page() -> None:
    minute = 60.0
    assert {
        "create": ((600, minute), (5000, DAY)),
        "read": ((1500, minute),),
        "update": ((600, minute),),
        "delete": ((600, minute),),
        "pause": ((900, minute),),
        "run": (),
    } == QUOTAS


def test_what_no_quota_counts_is_never_held_back() -> None:
    clock = FakeClock()
    pacer = Pacer(clock)
    assert all(taken(pacer, "run") for _ in range(2000))
    assert not [one for one in pacer.used() if one.kind == "run"]
    pacer.refuse("run")
    assert pacer.refused("run"), "the service may refuse it all the same"
