"""The real engine behind a network that breaks things, before S3, the CDN and Cloud Storage: every fault, whatever the size.

Whatever is broken: one verdict a key, nothing called done that is not there byte for byte, nothing left unproved; and the fault
was met.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from cdn_worker.domain.keys import KeyMapping
from cdn_worker.domain.verdict import Verdict
from cdn_worker.object_copy.commands import Way
from cdn_worker.storage.cdn import CdnSource
from cdn_worker.storage.gcs import GcsSink
from cdn_worker.storage.s3 import S3Source
from tests.copies import BUFFER_MAX, Copies, access, false_dones, s3_source, tasks_of, way
from tests.proofs import sized
from tests.stages import SINK, SOURCE, at_sink, fill
from tools.emulators.fault_proxy import FAULTS, FaultProxy, Plan
from tools.emulators.stage import Stage

SIZES = {"small": 3_000, "large": (2 << 20) + 777}
Ways = Callable[[str], Way]


def objects(size: str) -> dict[str, bytes]:
    return {f"dir/{size}-{index}": random.Random(f"{size}{index}").randbytes(SIZES[size]) for index in range(3)}


def is_object(method: str, target: str) -> bool:
    """Reads and writes of objects, not what is asked beside them."""
    return method in ("GET", "PUT", "POST") and ("dir/" in target or "upload" in target)


def before_s3(url: str) -> Way:
    return way(S3Source(url, SOURCE, "us-east-1"))


def before_the_cdn(url: str) -> Way:
    return way(CdnSource(f"{url}/{SOURCE}/", KeyMapping(), s3_source()))


def before_the_sink(url: str) -> Way:
    plain = way()
    return Way(source=plain.source, sink=GcsSink(url, SINK), backoff_s=0.01, buffer_max=BUFFER_MAX)


SIDES: dict[str, tuple[str, Ways]] = {
    "s3": ("AWS_ENDPOINT_URL", before_s3),
    "cdn": ("CDN_EMULATOR_HOST", before_the_cdn),
    "gcs": ("STORAGE_EMULATOR_HOST", before_the_sink),
}
CASES = [(side, fault, size) for side in SIDES for fault in FAULTS for size in SIZES]
"""Of these each fifth is in `make test`: every fault is met on one side at least."""


def before(stage: Stage, side: str) -> tuple[str, Ways]:
    """Where a side's server is, and what goes through a proxy before it. (A signed URL names its host, so the CDN is public.)"""
    stage.ledger.change({"cdn.public": side == "cdn"})
    variable, through = SIDES[side]
    address = stage.environment[variable]
    return address if address.startswith("http") else f"http://{address}", through


@pytest.mark.parametrize(("side", "fault", "size"), CASES[:: sized(5, 1)])
def test_a_fault_of_the_network_that_passes(stage: Stage, side: str, fault: str, size: str) -> None:
    wanted = objects(size)
    fill(stage, wanted)
    upstream, through = before(stage, side)
    tasks = tasks_of(stage)
    plan = Plan(fault, is_object, after=1)
    with FaultProxy(upstream, plan) as proxy:
        copies = Copies(through(proxy.url), access=access(signed=side != "cdn"), renewed=access(signed=side != "cdn")).run(tasks)
    assert plan.fired == 1, "the fault was not met"
    assert set(copies.verdicts) == set(wanted)
    assert false_dones(stage, copies.verdicts, wanted) == []
    assert (copies.budget_left, copies.engine_left) == (0, 0)
    # A write that was applied unseen is found again, equal: then it counts as there already.
    assert {one.verdict for one in copies.verdicts.values()} <= {Verdict.DONE, Verdict.SKIPPED}
    assert at_sink(stage) == wanted


@pytest.mark.parametrize("fault", ["reset before the request", "no HTTP at all", "half a body", "two lengths"])
@pytest.mark.parametrize("side", list(SIDES))
def test_a_fault_of_the_network_that_stays(stage: Stage, side: str, fault: str) -> None:
    wanted = objects("small")
    fill(stage, wanted)
    upstream, through = before(stage, side)
    tasks = tasks_of(stage)
    plan = Plan(fault, is_object, times=0)
    with FaultProxy(upstream, plan) as proxy:
        copies = Copies(through(proxy.url), access=access(signed=side != "cdn")).run(tasks)
    assert plan.fired >= 3
    assert set(copies.verdicts) == set(wanted)
    assert false_dones(stage, copies.verdicts, wanted) == []
    if side != "gcs":
        assert {one.verdict for one in copies.verdicts.values()} == {Verdict.FAILED}
        assert at_sink(stage) == {}
