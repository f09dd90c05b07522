"""Scenes of the worker pool in virtual time, each with one thing that goes wrong for as long as it is told to."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import pytest

from cdn_worker.domain.http import Answer, Fault, Request
from cdn_worker.domain.outage import FORGET_S
from cdn_worker.ports import JobState, QueueUnavailable
from cdn_worker.protocol.codec import decoded_report, encoded
from cdn_worker.protocol.messages import (
    ROOT,
    CopyReport,
    CopyTask,
    Item,
    JobSpec,
    ListFailed,
    ListReport,
    ListTask,
    Report,
    Trouble,
)
from cdn_worker.worker.worker import Pool
from tests.proofs import sized
from tests.simulation.buckets import CDN, GCS, S3, SINK, SOURCE, Buckets, etag_of
from tests.simulation.chance import Chance
from tests.simulation.pool_kinds import HUGE_BYTES
from tests.simulation.timeline import HostClock, Process, Timeline
from tests.simulation.workers import LEASE_S, POOL, SimQueues, SimWorker
from tests.simulation.world import in_virtual_time

JOB = "transferJobs/stsm-m-x-a1"
SPEC = JobSpec(job=JOB, prefix="p/", source_bucket=SOURCE, sink_bucket=SINK, ledger="0badcafe")
HOUR = 3600.0
UNRESOLVED = "Could not resolve host: gcs.invalid"
Answering = Callable[[Request], Answer | None]


class Scene:
    """`objects` of the source; `meet` may answer a request in the clouds' place."""

    def __init__(self, objects: int = 12) -> None:
        self.timeline = Timeline()
        self.chance = Chance(random.Random(1), set)
        self.buckets = Buckets(self.chance)
        self.queues = SimQueues(self.timeline, self.chance)
        for index in range(objects):
            self.buckets.objects[f"p/{index:02}"] = b"%d" % index
        self.meet: Answering = lambda _request: None
        self.buckets.meet = self._met
        self.lacking = ""
        self.workers: list[Process] = []
        self.made: list[SimWorker] = []

    def _met(self, request: Request) -> Answer | None:
        return self.meet(request)

    @contextmanager
    def played(self) -> Iterator[None]:
        with in_virtual_time(self.timeline, 1):
            try:
                yield
            finally:
                for one in self.workers:
                    one.kill()

    def start_worker(self, pool: Pool = POOL, stopping: Callable[[], bool] = lambda: False) -> Process:
        process = Process(self.timeline, f"worker-{len(self.workers)}", HostClock(self.timeline))
        pool = replace(pool, reach=replace(pool.reach, lacking=lambda: self.lacking))
        worker = SimWorker(pool, self.queues.of(process), process, self.buckets, random.Random(1), stopping)
        process.spawn("loop", worker.run)
        self.workers.append(process)
        self.made.append(worker)
        return process

    def pass_time(self, seconds: float) -> None:
        self.timeline.run_until(self.timeline.now + seconds)

    def until(self, what: Callable[[], bool]) -> None:
        for _ in range(1000):
            if what():
                return
            self.pass_time(1.0)
        raise AssertionError("it never came about")

    def publish(self, *tasks: ListTask | CopyTask) -> None:
        for task in tasks or (ListTask(spec=SPEC),):
            (self.queues.lists if isinstance(task, ListTask) else self.queues.copies).publish([encoded(task)])

    def reports(self) -> list[Report]:
        """All that were reported since, acknowledged."""
        leases = self.queues.reports.lease(1000)
        self.queues.reports.ack(leases)  # type: ignore[arg-type]
        return [decoded_report(one.body) for one in leases]  # type: ignore[attr-defined]

    @property
    def sink(self) -> dict[str, bytes]:
        return {name: stored.read() for name, stored in self.buckets.store.bucket(SINK).objects.items()}

    def is_done(self, found: list[Report]) -> bool:
        """Whether all was copied, and nothing else reported."""
        listed = sum(one.listed for one in found if isinstance(one, ListReport))
        done = sum(one.counts.objects.get("done", 0) + one.counts.objects.get("skipped", 0) for one in copies(found))
        failed = [one.failures for one in copies(found) if one.failures]
        assert not failed, failed
        return listed == done == len(self.buckets.objects) and self.sink == self.buckets.objects


def copies(found: list[Report]) -> list[CopyReport]:
    return [one for one in found if isinstance(one, CopyReport)]


def troubles(found: list[Report]) -> list[Trouble]:
    return [one for one in found if isinstance(one, Trouble)]


def dead(scene: Scene) -> int:
    return len(scene.queues.dead.lease(1000))


def unreached(host: str) -> Answering:
    return lambda request: Answer(0, fault=Fault.CONNECT, said=UNRESOLVED) if request.url.startswith(host) else None


def denied(host: str) -> Answering:
    return lambda request: Answer(401, [b"HTTP/1.1 401 X\r\n"]) if request.url.startswith(host) else None


def test_without_credentials_nothing_is_claimed() -> None:
    scene = Scene()
    with scene.played():
        scene.lacking = "Google credentials: the metadata server does not answer"
        scene.publish()
        scene.start_worker()
        scene.pass_time(10 * LEASE_S)
        assert [one.again for one in scene.queues.lists.lease(5)] == [False], "nobody has had it"  # type: ignore[attr-defined]
        scene.lacking = ""
        scene.pass_time(HOUR)
        assert scene.is_done(scene.reports())
        assert dead(scene) == 0


def test_what_was_at_work_when_the_credentials_went_is_given_back_and_told() -> None:
    """Ten leases without a metadata server, and whole prefixes were poison (C7)."""
    scene = Scene()
    with scene.played():
        scene.publish()
        scene.start_worker()
        scene.until(lambda: bool(scene.sink))
        scene.lacking, scene.meet = "Google credentials: the metadata server does not answer", denied(GCS)
        scene.pass_time(20 * LEASE_S)
        found = scene.reports()
        assert {(one.job, one.code, one.why) for one in troubles(found)} == {(JOB, "UNAUTHENTICATED", scene.lacking)}
        scene.lacking, scene.meet = "", lambda _request: None
        scene.pass_time(HOUR)
        assert scene.is_done(found + scene.reports())
        assert dead(scene) == 0


def test_a_token_that_is_refused_before_its_end_costs_no_object(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token service takes some seconds: with the old token three tries came to nothing meanwhile."""
    monkeypatch.setattr("cdn_worker.credentials.provider.RENEW_AT_MOST_EVERY", timedelta(0))
    scene, token, fetching = Scene(), ["old"], [False]

    def fetch() -> None:
        token[0], fetching[0] = "new", False

    def refused() -> None:
        if not fetching[0] and token[0] == "old":
            fetching[0] = True
            scene.timeline.after(9.0, fetch)

    def meet(request: Request) -> Answer | None:
        return denied(GCS)(request) if "Authorization: Bearer old" in request.headers else None

    reach = replace(POOL.reach, google=lambda: (token[0], None), refused=refused, fetching=lambda: fetching[0])
    with scene.played():
        scene.publish()
        scene.start_worker(replace(POOL, reach=reach))
        scene.until(lambda: bool(scene.sink))
        scene.meet = meet
        scene.pass_time(HOUR)
        assert token == ["new"]
        assert scene.is_done(scene.reports())


@pytest.mark.parametrize("host", [S3, CDN, GCS])
@pytest.mark.parametrize("began", [False, True])
def test_a_host_that_does_not_resolve_is_told_within_a_minute_and_burns_nothing(host: str, began: bool) -> None:
    """It was "stalled" for 23 minutes, and then POISON_TASK."""
    scene = Scene(40)
    with scene.played():
        scene.publish()
        scene.start_worker()
        scene.until(lambda: bool(scene.sink) if began else len(scene.queues.lists._leased) > 0)
        scene.meet = unreached(host)
        before = scene.reports()
        scene.pass_time(55.0)
        found = scene.reports()
        told = troubles(found)
        assert told, "within a minute"
        server = host.split("/")[2]
        assert all((one.code, one.ledger, one.spec) == ("UNREACHABLE", SPEC.ledger, SPEC.fingerprint) for one in told)
        assert all(one.why.startswith(f"{server}: {UNRESOLVED}") for one in told)
        scene.pass_time(30 * LEASE_S)
        scene.meet = lambda _request: None
        scene.pass_time(2 * HOUR)
        assert scene.is_done(before + found + scene.reports())
        assert dead(scene) == 0


def test_huge_objects_alone_show_that_their_host_is_back() -> None:
    """Only small tasks were tried while a host was away: where there were huge ones alone, nobody ever tried again."""
    scene = Scene(0)
    body = b"x" * HUGE_BYTES
    scene.buckets.objects["p/huge"] = body
    with scene.played():
        scene.meet = unreached(CDN)
        task = CopyTask(spec=SPEC, shard=ROOT, run="r", sequence=0, items=(Item("p/huge", len(body), etag_of(body)),))
        scene.queues.huge.publish([encoded(task)])
        scene.start_worker()
        scene.until(lambda: bool(troubles(scene.reports())))
        scene.until(lambda: scene.queues.huge.backlog() == 1)
        scene.meet = lambda _request: None
        scene.pass_time(FORGET_S / 2)
        (report,) = copies(scene.reports())
        assert report.counts.objects == {"done": 1}


def test_a_host_that_nobody_needs_any_more_keeps_no_worker_from_its_work() -> None:
    """It was away when the last task that needed it was over: from then on one task in fifteen seconds was claimed, for ever."""
    scene = Scene(40)
    with scene.played():
        scene.meet = unreached(CDN)
        scene.publish()
        scene.start_worker()
        scene.until(lambda: bool(troubles(scene.reports())))
        scene.queues.board.post({JOB: JobState.OVER})
        scene.pass_time(HOUR)
        assert scene.queues.copies.backlog() == scene.queues.lists.backlog() == 0
        (worker,) = scene.made
        assert worker.is_idle


def test_a_listing_that_is_never_answered_as_it_should_ends_with_its_cause() -> None:
    scene = Scene()
    with scene.played():
        scene.meet = lambda request: Answer(503, [b"HTTP/1.1 503 X\r\n"]) if request.url.startswith(S3) else None
        scene.publish()
        scene.start_worker()
        scene.pass_time(6 * HOUR)
        (failed,) = scene.reports()
        assert isinstance(failed, ListFailed)
        assert (failed.code, "503" in failed.why) == ("UNAVAILABLE", True)
        assert dead(scene) == 0


@pytest.mark.parametrize(("objects", "stale"), [(1, 1), (2, 2), (12, 2)])
def test_an_older_version_in_a_cache_says_nothing_of_the_distribution(objects: int, stale: int) -> None:
    """The first object that was tried had been replaced a minute before: the whole prefix ended as CDN_MISMATCH."""
    scene = Scene(objects)
    scene.buckets.cached = {f"p/{index:02}": b"an older version" for index in range(stale)}
    with scene.played():
        scene.publish()
        scene.start_worker()
        scene.pass_time(HOUR)
        assert scene.is_done(scene.reports())


def test_a_distribution_of_another_bucket_is_told_before_anything_moves() -> None:
    scene = Scene(12)
    scene.buckets.cached = dict.fromkeys(scene.buckets.objects, b"of another bucket")
    with scene.played():
        scene.publish()
        scene.start_worker()
        scene.pass_time(HOUR)
        codes = {one.code for one in scene.reports() if isinstance(one, ListFailed)}
        assert codes == {"CDN_MISMATCH"}
        assert scene.sink == {}


def test_objects_that_are_all_refused_are_told_when_the_first_were() -> None:
    scene = Scene(60)
    refuse = Answer(403, [b"HTTP/1.1 403 X\r\n"])
    with scene.played():
        scene.meet = lambda request: refuse if request.url.startswith(GCS) and request.method in ("PUT", "POST") else None
        scene.publish()
        scene.start_worker()
        while not (told := troubles(scene.reports())):
            scene.pass_time(10.0)
        assert told[0].code == "PERMISSION_DENIED"
        assert "20 objects failed alike" in told[0].why


def test_a_board_that_is_away_costs_no_lease() -> None:
    """No lease was extended while one object could not be read: copied by several at once, and poison after ten leases (C7)."""
    scene = Scene(0)
    bodies = {f"p/{index}": b"x" * 90_000 for index in range(4)}
    scene.buckets.objects |= bodies
    slow = Answer(503, [b"HTTP/1.1 503 X\r\n", b"Retry-After: 300\r\n"])
    with scene.played():
        scene.start_worker()
        scene.pass_time(1.0)

        def away() -> dict[str, JobState]:
            raise QueueUnavailable("the board is away")

        scene.queues.board.read = away  # type: ignore[method-assign]
        scene.meet = lambda request: slow if request.url.startswith(CDN) else None
        items = tuple(Item(key, len(body), etag_of(body)) for key, body in bodies.items())
        scene.publish(CopyTask(spec=SPEC, shard=ROOT, run="r", sequence=0, items=items[:2]))
        scene.pass_time(6 * LEASE_S)
        assert scene.queues.copies.lease(5) == [], "it is in somebody's hands"
        scene.meet = lambda _request: None
        scene.pass_time(HOUR)
        (report,) = scene.reports()
        assert isinstance(report, CopyReport)
        assert report.counts.objects == {"done": 2}


def test_a_foreign_task_of_the_same_name_buries_none_of_the_genuine_ones() -> None:
    """Seen first, it made the worker refuse nine tasks of ours, whose objects were counted as failed (M13)."""
    scene = Scene()
    foreign = replace(SPEC, sink_root="elsewhere/", source_root="p/")
    item = Item("p/00", 1, etag_of(b"0"))
    with scene.played():
        scene.publish(CopyTask(spec=foreign, shard=ROOT, run="foreign", sequence=0, items=(item,)))
        scene.start_worker()
        scene.pass_time(2.0)
        scene.publish()
        scene.pass_time(HOUR)
        found = scene.reports()
        ours = [one for one in found if one.spec == SPEC.fingerprint]
        assert [one.spec for one in found if one not in ours] == [foreign.fingerprint]
        scene.buckets.store.bucket(SINK).objects.pop("elsewhere/00", None)
        assert scene.is_done(ours)
        assert dead(scene) == 0


def test_a_hundred_polite_restarts_while_an_object_is_slow_bury_nothing() -> None:
    scene = Scene()
    slow = Answer(503, [b"HTTP/1.1 503 X\r\n", b"Retry-After: 300\r\n"])
    with scene.played():
        scene.meet = lambda request: (
            slow if request.url.startswith(CDN) and request.method == "GET" and "p/05" in request.url else None
        )
        scene.publish()
        for _ in range(sized(100, 1000)):
            until = scene.timeline.now + 40.0
            scene.start_worker(stopping=lambda until=until: scene.timeline.now >= until)  # type: ignore[misc]
            scene.pass_time(60.0)
        scene.meet = lambda _request: None
        scene.start_worker()
        scene.pass_time(HOUR)
        assert scene.is_done(scene.reports())
        assert dead(scene) == 0


def test_what_one_worker_cannot_begin_the_other_one_does() -> None:
    """An hour for each object at one of them: its neighbour takes what lies there."""
    scene = Scene(60)
    with scene.played():
        scene.publish()
        first = scene.start_worker()
        scene.pass_time(20.0)
        first.freeze(0)
        slow = Answer(503, [b"HTTP/1.1 503 X\r\n", b"Retry-After: 300\r\n"])
        stuck = [True]
        scene.meet = lambda request: slow if request.url.startswith(CDN) and stuck[0] else None
        scene.pass_time(600.0)
        assert scene.queues.copies.backlog() > 0, "what has not begun is there for whoever has room"
        stuck[0] = False
        scene.start_worker()
        scene.pass_time(HOUR)
        assert scene.is_done(scene.reports())
