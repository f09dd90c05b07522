"""Which objects a followed job left behind: what the service names, what a comparison finds, what `failures` shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cdn_worker.domain.overwrite import Replace
from cdn_worker.domain.verdict import KeyVerdict, Verdict
from cdn_worker.protocol.url_list_comparisons import _after_all
from cdn_worker.protocol.url_list_jobs import Row, State
from cdn_worker.protocol.url_list_ledger import ListLedger
from sts_manager.domain.errors import StoreUnavailable
from sts_manager.domain.model import Counters, ErrorBreakdown, FailedObject, OperationSnapshot, OperationState, PrefixJob, Route
from sts_manager.domain.names import JobName, OperationName, Prefix, repair_name
from sts_manager.routes.sts.repairs import Behind, Compared, NotCompared, Wanted
from sts_manager.routes.sts.transfer_log import LoggedFailure
from sts_manager.routes.url_list.followed_failures import FINDING_MAX, FollowedFailures, Means, tell_shared
from sts_manager.settings import load_settings
from tests.fakes.clock import START, FakeClock
from tests.fakes.memory_store import MemoryStore

JOB = JobName("transferJobs/stsm-0badcafe-ff-a2")
PREFIXES = (Prefix("a/"), Prefix("b/"))
BUCKETS = {"source_bucket": "s3://source-bucket/root", "destination_bucket": "gs://sink-bucket"}


def failed(name: str, number: int, *keys: str, day: int = 20) -> OperationSnapshot:
    entries = [{"url": f"s3://source-bucket/root/{key}", "errorDetails": ["it was away"]} for key in keys]
    results = {"errorBreakdowns": [{"errorCode": 14, "errorCount": number, "errorLogEntries": entries}]}
    began = datetime(2026, 11, day, 3, tzinfo=UTC)
    return OperationSnapshot(
        name=OperationName(f"transferOperations/{name}"),
        state=OperationState.FAILED,
        raw_state="FAILED",
        job_name=JOB,
        counters=Counters(objects_failed=number),
        errors=(ErrorBreakdown(code="UNAVAILABLE", count=number),),
        results=json.dumps(results),
        started_at=began,
        ended_at=began + timedelta(days=1),
    )


def wanted(*operations: OperationSnapshot, number: int = 1, **more: Any) -> Wanted:
    last = operations[-1]
    given: dict[str, Any] = {
        "name": repair_name(JOB, last.name, number),
        "number": number,
        "job": JOB,
        "row": PrefixJob(prefix=PREFIXES[0], route=Route.STS_FOLLOW, job_name=JOB, attempt=2),
        "prefixes": PREFIXES,
        "failed": operations,
        "before": last.ended_at,
    }
    return Wanted(**(given | more))


class Scene:
    def __init__(self, folder: Path, **settings: Any) -> None:
        self.store, self.clock = MemoryStore(), FakeClock()
        self.store.close = lambda: None  # type: ignore[method-assign]
        self.ledger = ListLedger(folder / "lists.db", StoreUnavailable)
        self.finds, self.there, self.kept = True, True, 0
        self.logged: dict[str, dict[str, LoggedFailure]] = {}
        self.settings = load_settings(BUCKETS | settings, {}, None)
        self.failures = self.again()

    def again(self) -> FollowedFailures:
        def keep() -> None:
            self.kept += 1

        means = Means(
            finds=lambda: self.finds,
            ledger=lambda: self.ledger,
            known_ledger=lambda: self.ledger if self.there else None,
            keep=keep,
            logged=lambda _project, operation: self.logged.get(operation.name, {}),
            open_store=lambda: self.store,
        )
        self.failures = FollowedFailures(self.settings, means, self.clock)
        return self.failures

    def shown(self) -> dict[str, list[str]]:
        out: dict[str, list[str]] = {}
        for one in self.store.failures(None, 100):
            out.setdefault(one.prefix, []).append(one.key)
        return out

    def lists(self, asked: Wanted, *keys: str, unfit: tuple[str, ...] = (), manifest: str = "gs://sink-bucket/m.csv") -> None:
        """The lister has done its part."""
        name = f"{asked.name}-x"
        rows = [Row(key, key, 10, "etag", "2026", 0) for key in keys]
        bad = [
            KeyVerdict(key=key, size=1, etag="e", verdict=Verdict.UNMAPPABLE, error="archived", details="cold", tries=0)
            for key in unfit
        ]
        self.ledger.found(name, rows, bad)
        self.ledger.ready(name, manifest)

    def tell(self) -> None:
        for job in self.ledger.untold():
            self.ledger.telling(job.name)
            tell_shared(self.ledger, job, self.store, self.clock.now())
            self.ledger.told(job.name)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.ledger.close()


def test_what_the_service_names_is_shown_at_once_with_day_and_operation(scene: Scene) -> None:
    named = scene.failures.named(wanted(failed("one", 3, "a/x", "b/y", "b/z")))
    assert named == {
        PREFIXES[0]: Behind(objects=1, example="for example a/x (2026-11-20, transferOperations/one: it was away)"),
        PREFIXES[1]: Behind(objects=2, example="for example b/y (2026-11-20, transferOperations/one: it was away)"),
    }
    shown = scene.store.failures(Prefix("b/"), 10)
    assert [(one.key, one.error, one.details, one.job_name) for one in shown] == [
        ("root/b/y", "unavailable", "2026-11-20, transferOperations/one: it was away", JOB),
        ("root/b/z", "unavailable", "2026-11-20, transferOperations/one: it was away", JOB),
    ]


@pytest.mark.parametrize(
    "operation", [failed("one", 4, "a/x", "a/y"), failed("one", 2, "a/x", "elsewhere/y"), failed("as a whole", 0, "a/x")]
)
def test_what_is_named_in_part_is_shown_and_is_not_all(scene: Scene, operation: OperationSnapshot) -> None:
    assert scene.failures.named(wanted(operation)) is None
    assert "root/a/x" in scene.shown()["a/"]


@pytest.mark.parametrize(("state", "all_named"), [(OperationState.FAILED, False), (OperationState.SUCCESS, True)])
def test_what_failed_as_a_whole_besides_names_not_all(scene: Scene, state: OperationState, all_named: bool) -> None:
    """Seed 362 of the simulation: one object was counted and named, and what was at work when the rest failed was not."""
    operation = failed("one", 1, "a/x")
    results = json.loads(operation.results)
    entry = {"url": "s3://source-bucket", "errorDetails": ["an internal error"]}
    results["errorBreakdowns"].append({"errorCode": 13, "errorCount": 1, "errorLogEntries": [entry]})
    named = scene.failures.named(wanted(replace(operation, state=state, results=json.dumps(results))))
    assert (named is not None) is all_named


def test_the_services_log_completes_the_samples(scene: Scene) -> None:
    operation = failed("one", 2, "a/x")
    scene.logged[operation.name] = {"root/a/y": LoggedFailure(key="root/a/y", error="forbidden", details="no right")}
    named = scene.failures.named(wanted(operation))
    assert named is not None
    assert {prefix: one.objects for prefix, one in named.items()} == {"a/": 2}
    assert {one.key: one.error for one in scene.store.failures(None, 9)} == {"root/a/x": "unavailable", "root/a/y": "forbidden"}


def test_a_comparison_is_begun_once_and_told_when_it_is_ready(scene: Scene) -> None:
    asked = wanted(failed("one", 9, "b/x"))
    scene.failures.named(asked)
    assert scene.failures.compare(asked) is None
    assert scene.failures.compare(asked) is None
    (job,) = scene.ledger.work()
    assert (job.spec.prefix, job.spec.source_root, job.spec.before) == ("root/a/", "root/", "2026-11-21T03:00:00+00:00")
    assert (job.prefix, job.spec.replace, scene.ledger.shared(job.name)) == (JOB, Replace.DIFFERENT, {"a/": 0, "b/": 1})
    assert scene.kept
    scene.lists(asked, "root/b/x", "root/b/y", unfit=("root/a/cold",))
    found = Compared(
        manifest="gs://sink-bucket/m.csv",
        behind={Prefix("b/"): Behind(objects=2, example="for example b/x (2026-11-20, transferOperations/one: it was away)")},
    )
    assert scene.failures.compare(asked) == found
    assert scene.again().compare(asked) == found, "whoever comes after finds it"
    scene.tell()
    assert scene.shown() == {"a/": ["root/a/cold"], "b/": ["root/b/x", "root/b/y"]}
    told = {one.key: one.details for one in scene.store.failures(None, 9)}
    assert told["root/b/x"].endswith("it was away")
    assert told["root/b/y"].startswith("2026-11-20, transferOperations/one: not at the sink after it")
    scene.again().named(wanted(failed("one", 9, "b/x")))
    assert scene.shown()["b/"] == ["root/b/x", "root/b/y"], "what is known now is not forgotten for the samples"


def test_what_is_mended_is_shown_no_more_and_what_cannot_travel_is(scene: Scene) -> None:
    asked = wanted(failed("one", 1, "b/x"))
    scene.failures.named(asked)
    scene.failures.compare(asked)
    scene.lists(asked, "root/b/x", unfit=("root/a/cold",))
    scene.tell()
    (stuck,) = scene.failures.settled(JOB, PREFIXES).items()
    assert (stuck[0], stuck[1].objects) == ("a/", 1)
    assert stuck[1].example.startswith("for example a/cold (")
    scene.tell()
    assert scene.shown() == {"a/": ["root/a/cold"]}
    (job,) = scene.ledger.work()
    assert job.state is State.MOVING, "its manifest is cleared away"
    scene.again().settled(JOB, PREFIXES)
    scene.tell()
    assert scene.shown() == {"a/": ["root/a/cold"]}


def test_a_comparison_that_found_nothing_to_move_says_so_to_the_next_daemon_too(scene: Scene) -> None:
    asked = wanted(failed("one", 1, "b/x"))
    scene.failures.compare(asked)
    scene.lists(asked, unfit=("root/a/cold",), manifest="")
    found = scene.failures.compare(asked)
    assert (found and found.behind, found and found.manifest) == ({}, "")
    assert list(scene.failures.settled(JOB, PREFIXES)) == ["a/"]
    scene.tell()
    again = scene.again().compare(asked)
    assert (again and again.behind, again and again.manifest) == ({}, ""), "not everything is moved once more"
    assert list(scene.failures.settled(JOB, PREFIXES)) == ["a/"]
    assert scene.shown() == {"a/": ["root/a/cold"]}


def test_without_a_ledger_what_was_named_is_forgotten_all_the_same(scene: Scene) -> None:
    scene.there = scene.finds = False
    asked = wanted(failed("one", 1, "b/x"))
    scene.failures.named(asked)
    other = FailedObject(
        prefix=Prefix("c/"), key="c/1", size=0, etag="", verdict="failed", error="x", details="", job_name="transferJobs/other"
    )
    scene.store.put_failures(Prefix("c/"), [other], START)
    with pytest.raises(NotCompared, match="cannot be compared on this machine"):
        scene.failures.compare(asked)
    scene.failures.settled(JOB, PREFIXES)
    assert scene.shown() == {"c/": ["c/1"]}


def test_one_prefix_that_is_done_takes_its_own_share_of_a_comparison_with_it(scene: Scene) -> None:
    asked = wanted(failed("one", 2, "a/x", "b/x"))
    scene.failures.named(asked)
    scene.failures.compare(asked)
    scene.lists(asked, "root/a/x", "root/b/x")
    scene.tell()
    scene.ledger.forget("b/")
    assert [one.name for one in scene.ledger.untold()] == [f"{asked.name}-x"]
    scene.tell()
    assert scene.shown() == {"a/": ["root/a/x"]}
    scene.ledger.forget("elsewhere/")
    assert not scene.ledger.untold()


def test_what_changes_while_it_is_told_is_told_again(scene: Scene) -> None:
    asked = wanted(failed("one", 1, "b/x"))
    scene.failures.compare(asked)
    scene.lists(asked, "root/b/x")
    (job,) = scene.ledger.untold()
    scene.ledger.telling(job.name)
    scene.ledger.forget("b/")
    scene.ledger.told(job.name)
    assert [one.name for one in scene.ledger.untold()] == [job.name]
    assert scene.ledger.busy()


@pytest.mark.parametrize("how", ["listing failed", "too long", "forgotten"])
def test_what_cannot_be_compared_is_said_to_be_so(scene: Scene, how: str) -> None:
    asked = wanted(failed("one", 1, "b/x"))
    scene.failures.compare(asked)
    name = f"{asked.name}-x"
    if how == "listing failed":
        scene.ledger.enter(name, State.MOVING, was=State.LISTING, code="PERMISSION_DENIED", message="no list")
    elif how == "too long":
        scene.clock.advance(FINDING_MAX.total_seconds())
    else:
        scene.failures.compare(wanted(failed("two", 1, "b/x", day=21)))
    with pytest.raises(NotCompared, match="no list" if how == "listing failed" else "in vain"):
        scene.failures.compare(asked)


def test_what_differs_on_purpose_is_not_behind(tmp_path: Path) -> None:
    scene = Scene(tmp_path, overwrite_when="NEVER", modified_before="2026-11-01T00:00:00Z")
    asked = wanted(failed("one", 1, "b/x"))
    scene.failures.compare(asked)
    (job,) = scene.ledger.work()
    assert (job.spec.replace, job.spec.before) == (Replace.NEVER, "2026-11-01T00:00:00+00:00")
    there = KeyVerdict(key="root/b/x", size=1, etag="e", verdict=Verdict.FAILED, error="exists", details="", tries=0)
    scene.ledger.found(job.name, [], [there])
    scene.ledger.ready(job.name, "")
    assert scene.failures.compare(asked) == Compared(manifest="", behind={})
    scene.ledger.close()


def test_a_repair_without_an_end_of_its_day_compares_all(scene: Scene) -> None:
    asked = wanted(replace(failed("one", 1, "b/x"), ended_at=None), before=None)
    scene.failures.compare(asked)
    assert scene.ledger.work()[0].spec.before == ""


@pytest.mark.parametrize(("prefix", "after"), [("a/", "a0"), ("é", "ê"), ("\ud7ff", "\ue000"), ("x", "y")])
def test_the_first_text_after_all_that_begins_so(prefix: str, after: str) -> None:
    assert _after_all(prefix) == after
    assert (prefix + "\U0010ffff").encode() < after.encode()
