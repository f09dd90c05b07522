"""The real decision beside the one that is written to be read, over random worlds of every kind."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from sts_manager.domain.decide import decide
from sts_manager.domain.following import FOLLOWED_FAILURES, NO_OPERATION, QUEUE_MISSING, Following, Problem
from sts_manager.domain.model import (
    Action,
    Breaker,
    Counters,
    ErrorBreakdown,
    Hold,
    JobStarted,
    JobStatus,
    Limit,
    Observed,
    OperationResumed,
    OperationSnapshot,
    OperationState,
    Outcome,
    PausedBy,
    PauseOperation,
    Policy,
    PrefixJob,
    ProjectUse,
    Refusal,
    ResumeOperation,
    Route,
    StartJob,
    StartRefused,
    SteeringFailed,
)
from sts_manager.domain.names import OperationName, Prefix, job_name
from tests.fakes.clock import START as NOW
from tests.property.reference import decided

WORLDS, AT_ONCE = int(os.environ.get("STS_MANAGER_WORLDS", "4000")), 1_000
TIMES = [None, *(NOW + timedelta(minutes=minutes) for minutes in (-600, -11, -1, 0, 1, 30, 3000))]


def world(draw: random.Random) -> tuple[Observed, Policy]:
    pick = draw.choice
    policy = Policy(
        migration="0badcafe",
        route=pick([Route.STS_S3, Route.STS_S3, Route.CDN, Route.STS_GCS]),
        projects=pick([("",), ("one-project", "two-project", "three-project")]),
        prefixes_per_job=pick([1, 1, 2, 3, 40]),
        running_max=draw.randint(1, 8),
        cdn_running_max=draw.randint(1, 4),
        attempts_max=draw.randint(1, 4),
        retry=draw.random() < 0.8,
        ignore_stalled=draw.random() < 0.5,
        dispatch=draw.random() < 0.8,
        fill=draw.random() < 0.9,
        uncertain_asks=pick([2, 20]),
        follows=draw.random() < 0.5,
        tells_empty=draw.random() < 0.5,
    )
    live: list[PrefixJob] = []
    for index in range(draw.randint(0, 5)):
        live += group(draw, index)
    named = [job.operation_name for job in live if job.operation_name is not None]
    follows = {job.operation_name for job in live if job.route is Route.STS_FOLLOW}
    seen = {
        name: followed(draw, snapshot(draw, name), live) if name in follows and draw.random() < 0.8 else snapshot(draw, name)
        for name in sorted(set(named))
        if draw.random() < 0.7
    }
    breaker = Breaker(
        code="X",
        message="",
        opened_at=NOW,
        probe_at=pick(TIMES[1:]) or NOW,
        probes=draw.randint(0, 3),
        probe=pick([None, *(job.prefix for job in live)]),
        limit=pick([None, *Limit]),
    )
    observed = Observed(
        live=tuple(live),
        startable=tuple(waiting(draw, index) for index in range(draw.randint(0, 9))),
        operations=seen,
        unseen=frozenset(name for name in named if name not in seen and draw.random() < 0.3),
        outcomes=tuple(one for job in live if draw.random() < 0.7 and (one := outcome(draw, job, live)) is not None),
        hold=Hold(by="ops", at=NOW) if draw.random() < 0.15 else None,
        breaker=breaker if draw.random() < 0.3 else None,
        ended_well={limit: draw.randint(0, 3) for limit in Limit if draw.random() < 0.5},
        projects={
            name: ProjectUse(creates=draw.randint(0, 9), full=draw.random() < 0.2, refused=draw.random() < 0.2)
            for name in policy.projects
            if draw.random() < 0.5
        },
        states={name: draw.choice(list(OperationState)) for name in sorted(set(named)) if draw.random() < 0.6},
    )
    return observed, policy


def group(draw: random.Random, index: int) -> list[PrefixJob]:
    """The rows of one transfer job; its lead may have gone its own way."""
    pick = draw.choice
    size = pick([1, 1, 1, 2, 3])
    prefixes = [Prefix(f"live-{index}-{one}/") for one in range(size)]
    base = draw.randint(0, 2)
    attempt = base + draw.randint(1, 5)
    operation = OperationName(f"transferOperations/{index}") if draw.random() < 0.7 else None
    route = pick([Route.STS_S3, Route.STS_GCS, Route.STS_FOLLOW]) if size > 1 else pick(list(Route))
    rows = [
        PrefixJob(
            prefix=prefix,
            status=pick([JobStatus.RUNNING, JobStatus.PAUSED]) if operation is not None else JobStatus.RUNNING,
            route=route,
            lead=None if prefix == prefixes[0] else prefixes[0],
            project=pick(["", "one-project"]),
            job_name=job_name("0badcafe", prefixes[0], attempt),
            operation_name=operation if draw.random() < 0.9 else None,
            attempt=attempt,
            attempt_base=base,
            forgiven=draw.randint(0, 2),
            generation=draw.randint(0, 9),
            not_before=pick(TIMES),
            paused_by=pick(list(PausedBy)),
            counters=counters(draw),
            error_code=code,
            error_message=code and "2 objects",
            missing_count=pick([0, 1, 2, 3, 4, 11, 11, 12]),
            missing_since=pick(TIMES),
            progress_at=pick(TIMES),
        )
        for prefix, code in ((one, pick(["", "OLD", FOLLOWED_FAILURES, QUEUE_MISSING])) for one in prefixes)
    ]
    rows = [row if row.operation_name is not None else replace(row, status=JobStatus.RUNNING) for row in rows]
    return rows[1:] if size > 1 and draw.random() < 0.1 else rows


def waiting(draw: random.Random, index: int) -> PrefixJob:
    pick = draw.choice
    attempt = draw.choice([0, 0, 1, 3])
    return PrefixJob(
        prefix=Prefix(f"wait-{index}/"),
        route=pick([None, None, Route.CDN, Route.STS_S3, Route.STS_URL_LIST, Route.STS_FOLLOW]),
        source=pick(["", "", "s3://other/"]),
        attempt=attempt,
        attempt_base=draw.randint(0, attempt),
        forgiven=draw.randint(0, 1),
        not_before=pick(TIMES),
        counters=counters(draw),
    )


def counters(draw: random.Random) -> Counters:
    names = ("objects_found", "objects_copied", "objects_skipped", "objects_failed", "bytes_copied")
    return Counters(**{name: draw.choice([0, 0, 1, 2]) for name in names})


def snapshot(draw: random.Random, name: OperationName) -> OperationSnapshot:
    state = draw.choice(list(OperationState))
    codes = ["UNAVAILABLE", "PERMISSION_DENIED", "NOT_FOUND", "FAILED_PRECONDITION", "CDN_MISMATCH", "UNREACHABLE"]
    errors = tuple(ErrorBreakdown(code=draw.choice(codes), count=draw.randint(1, 3)) for _ in range(draw.choice([0, 1, 2])))
    return OperationSnapshot(
        name=name,
        state=state,
        raw_state=state.value,
        counters=counters(draw),
        errors=errors,
        permanent=draw.random() < 0.1,
        results="{}",
        trouble=("UNREACHABLE", "it does not resolve") if draw.random() < 0.2 else None,
        by_manifest=draw.random() < 0.2,
    )


def followed(draw: random.Random, seen: OperationSnapshot, live: list[PrefixJob]) -> OperationSnapshot:
    """The same of a job with an event stream: another operation may have succeeded the one that was asked about."""
    pick = draw.choice
    following = Following(
        between=draw.random() < 0.4,
        cause=pick([None, Problem(code="INTERNAL", message="x"), Problem(code="CANCELLED", message="y")]),
        over=pick(["", "", "", "the job was deleted"]),
        standing=pick([None, {}, {job.prefix: "3 objects" for job in live if draw.random() < 0.5}]),
        others_move=draw.random() < 0.2,
        others_paused=draw.random() < 0.3,
    )
    name = OperationName(f"{seen.name}-next") if draw.random() < 0.3 else seen.name
    return replace(seen, name=name, following=following)


def outcome(draw: random.Random, job: PrefixJob, live: list[PrefixJob]) -> Outcome | None:
    others = tuple(one.prefix for one in live if one.job_name == job.job_name and one.prefix != job.prefix)
    attempt = job.attempt if draw.random() < 0.9 else job.attempt - 1
    if job.operation_name is not None and draw.random() < 0.8:
        if job.lead is not None:
            return None
        if draw.random() < 0.5:
            return SteeringFailed(prefix=job.prefix, verb="pause", code="X", message="")
        return OperationResumed(prefix=job.prefix, operation_name=job.operation_name)
    if others and min((job.prefix, *others)) != job.prefix:
        return None  # one of those that share a job asks for all
    if draw.random() < 0.4:
        name = draw.choice([None, OperationName(f"transferOperations/new-{job.prefix}")])
        return JobStarted(prefix=job.prefix, attempt=attempt, operation_name=name, adopted=draw.random() < 0.5, others=others)
    after = draw.choice([None, timedelta(hours=1)])
    return StartRefused(
        prefix=job.prefix,
        attempt=attempt,
        refusal=draw.choice(list(Refusal)),
        code=draw.choice(["Y", "Y", "UNAVAILABLE", "LEASE_OLD"]),
        message="",
        after=after,
        others=others,
        made=draw.random() < 0.4,
        again=draw.random() < 0.4,
    )


def plain(action: Action) -> tuple[Any, ...]:
    match action:
        case StartJob():
            name, others = action.job_name, action.others
            return ("start", action.prefix, action.attempt, name, others, action.adopt_only, action.again, action.project)
        case PauseOperation():
            return ("pause", action.prefix, action.operation_name)
        case ResumeOperation():
            return ("resume", action.prefix, action.operation_name)


def same(job: PrefixJob) -> PrefixJob:
    """Without what the reference leaves out."""
    return replace(job, generation=0, error_message="", last_updated=None)


@pytest.mark.parametrize("first", range(0, WORLDS, AT_ONCE))
def test_the_decision_is_the_one_that_is_written_to_be_read(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        observed, policy = world(random.Random(seed))
        plan = decide(observed, policy, NOW)
        said = decided(observed, policy, NOW)
        assert {change.after.prefix: same(change.after) for change in plan.changes} == {
            prefix: same(job) for prefix, job in said.rows.items()
        }, f"world {seed}"
        assert sorted(map(plain, plan.actions), key=str) == sorted(said.actions, key=str), f"world {seed}"
        breakers = [None if one is None else replace(one, message="") for one in (plan.breaker, said.breaker)]
        assert breakers[0] == breakers[1], f"world {seed}"


def test_the_worlds_are_of_every_kind() -> None:
    """Two that agree about nothing prove nothing."""
    kinds: set[str] = set()
    for seed in range(2000):
        observed, policy = world(random.Random(seed))
        plan = decide(observed, policy, NOW)
        kinds |= {type(action).__name__ for action in plan.actions}
        kinds |= {f"{change.before.status}>{change.after.status}" for change in plan.changes}
        kinds |= {change.after.error_code for change in plan.changes}
        kinds |= {f"shared {isinstance(one, StartJob) and bool(one.others)}" for one in plan.actions}
        kinds |= {note.event for note in plan.notes}
        kinds |= {
            f"follows {one.after.status} {one.after.error_code}" for one in plan.changes if one.after.route is Route.STS_FOLLOW
        }
        kinds |= {f"breaker {observed.breaker is not None}>{plan.breaker is not None}"}
    statuses = {
        f"{before}>{after}" for before in ("running", "paused") for after in ("running", "paused", "done", "error", "waiting")
    }
    assert kinds >= statuses | {
        "START_UNCERTAIN",
        "waiting>running",
        "StartJob",
        "PauseOperation",
        "ResumeOperation",
        "shared True",
    }
    assert kinds >= {"breaker False>True", "breaker True>False", "breaker True>True"}
    assert kinds >= {"followed_operation_began", "followed_objects_failed", "followed_objects_repaired"}
    assert kinds >= {f"follows {one}" for one in (f"running {FOLLOWED_FAILURES}", f"error {NO_OPERATION}", "error CANCELLED")}
