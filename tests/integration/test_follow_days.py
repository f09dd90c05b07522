"""A followed job over its days: an operation ends, the next one begins, and what failed is brought by a job of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta

import pytest
from google.cloud import storage_transfer_v1 as sts

from sts_manager import admin
from sts_manager.daemon.reconciler import Reconciler
from sts_manager.domain.errors import BadInput, Retryable
from sts_manager.domain.following import FOLLOWED_FAILURES, NO_OPERATION, QUEUE_MISSING
from sts_manager.domain.location import place
from sts_manager.domain.model import Hold, JobStatus, PausedBy, Policy, PrefixJob, Route
from sts_manager.domain.names import JobName, OperationName, Prefix, checked_prefixes, repair_name, repaired_job
from sts_manager.ports import TransferJobView
from sts_manager.routes.event_driven.route import FollowRoute
from sts_manager.routes.event_driven.setup import Mending
from sts_manager.routes.sts.repairs import Behind, Compared, NothingCompared, Repairs, Wanted
from sts_manager.routes.sts.route import StsClient, StsProject, connect
from sts_manager.routes.sts.spec import S3Access, TransferSettings
from tests.fakes.clock import FakeClock
from tests.fakes.memory_store import MemoryStore
from tests.stages import SINK, SOURCE, at_sink, fill, s3_client, wait_for
from tools.emulators.gcs.objects import Attributes
from tools.emulators.stage import KEYS, PROJECT, Stage
from tools.emulators.sts.copier import Status
from tools.emulators.sts.service import Operation

QUEUE = "arn:aws:sqs:us-east-1:123456789012:changes"
PREFIXES = checked_prefixes(["a/", "b/"])
LEAD = PREFIXES[0]
DAY_S = 86_400
TRIES_OF_AN_OBJECT = 4


class Names:
    """A comparison that finds what the test says; nothing by itself. None: it goes on."""

    def __init__(self) -> None:
        self.found: Compared | None = Compared(manifest="", behind={})
        self.asked: list[Wanted] = []
        self.done: list[JobName] = []
        self.stuck: dict[Prefix, Behind] = {}

    def named(self, _wanted: Wanted) -> Mapping[Prefix, Behind] | None:
        return None

    def compare(self, wanted: Wanted) -> Compared | None:
        self.asked.append(wanted)
        return self.found

    def settled(self, job: JobName, _prefixes: object) -> Mapping[Prefix, Behind]:
        self.done.append(job)
        return self.stuck


class Scene:
    """Two prefixes whose bulk is done, the stage's service, and daemons that come and go."""

    def __init__(self, stage: Stage) -> None:
        assert stage.sts is not None
        self.stage, self.service = stage, stage.sts
        fill(stage, {})
        stage.ledger.change({"sqs.queues": {QUEUE: SOURCE}, "sts.follow_gap_seconds": 10 * DAY_S})
        self.clock, self.store = FakeClock(), MemoryStore()
        self.store.load(PREFIXES, self.clock.now(), lambda _: None)
        for prefix in PREFIXES:
            self.store.rows[prefix] = replace(self.store.rows[prefix], status=JobStatus.DONE, route=Route.STS_S3, attempt=1)
        self.settings = TransferSettings(
            project=PROJECT,
            source=place(f"s3://{SOURCE}"),
            sink=place(f"gs://{SINK}"),
            s3_access=S3Access(key_id=KEYS.key_id, secret_key=KEYS.secret),
        )
        self.names: Names | NothingCompared = NothingCompared()
        self.tries = 3
        self.restart()

    def client(self) -> StsClient:
        return connect(PROJECT, self.stage.environment["STORAGE_TRANSFER_EMULATOR_HOST"], self.clock)

    @property
    def project(self) -> StsProject:
        return StsProject({PROJECT: self.client()})

    def restart(self, queue: str = QUEUE) -> None:
        repairs = Repairs(self.settings, self.names, self.clock, tries_max=self.tries, retry_delay=timedelta(minutes=1))
        self.route = FollowRoute(
            {PROJECT: self.client()}, self.settings, queue, self.clock, repairs, self._row_of, self._history_of
        )
        policy = Policy(migration="0badcafe", route=Route.STS_S3, follows=bool(queue))
        self.daemon = Reconciler(self.store, {Route.STS_FOLLOW: self.route}, policy, self.clock, followed=Mending(self.route))

    def _row_of(self, name: OperationName) -> PrefixJob | None:
        return next((job for job in self.store.live() if job.operation_name == name), None)

    def _history_of(self, prefix: Prefix) -> list[PrefixJob]:
        return [event.job for event in self.store.history(prefix)]

    def follow(self) -> None:
        done = admin.follow(self.store, self.project, None, self.clock.now(), queue=QUEUE)
        assert all(one.done for one in done)

    def passes(self, number: int = 1, *, seconds: float = 60) -> None:
        for _ in range(number):
            self.clock.advance(seconds)
            self.daemon.run_pass(dispatch=True)

    def begin(self) -> Operation:
        self.follow()
        self.passes(2)
        return self.present

    def row(self, prefix: Prefix = LEAD) -> PrefixJob:
        return self.store.rows[prefix]

    def rows(self) -> list[tuple[JobStatus, str]]:
        return [(self.row(prefix).status, self.row(prefix).error_code) for prefix in PREFIXES]

    @property
    def job(self) -> JobName:
        (name,) = {job.job_name for job in self.store.rows.values()}
        assert name is not None
        return name

    @property
    def operations(self) -> list[Operation]:
        return [self.service.operations[name] for name in self.service.by_job[self.job]]

    @property
    def present(self) -> Operation:
        return self.operations[-1]

    @property
    def repairs(self) -> list[str]:
        return [name for name in self.service.jobs if repaired_job(name) == self.job]

    # The world's hand

    def end_day(self) -> Operation:
        """The present operation has had its time. The next one begins only when it is told to."""
        operation = self.present
        self.age(operation, DAY_S)
        wait_for(lambda: operation.work.status in (Status.SUCCESS, Status.FAILED))
        return operation

    def next_day(self) -> Operation:
        before = self.present
        self.age(before, 11 * DAY_S)
        wait_for(lambda: self.present is not before)
        return self.present

    def age(self, operation: Operation, seconds: float) -> None:
        with self.service.lock:
            self.service.streams._began[operation.name] -= seconds

    def forget(self, operation: Operation) -> None:
        """As the service does some time after an operation's end."""
        with self.service.lock:
            del self.service.operations[operation.name]
            self.service.by_job[self.job].remove(operation.name)

    def put(self, key: str, body: bytes = b"new") -> None:
        with s3_client(self.stage) as source:
            source.put_object(Bucket=SOURCE, Key=key, Body=body)

    def copied(self, *keys: str) -> None:
        for key in keys:
            self.put(key)
        wait_for(lambda: set(keys) <= set(at_sink(self.stage)))

    def fail(self, *keys: str, times: int = 1) -> None:
        """What changes is not copied, as the source cannot be read: by so many transfers."""
        before, number = self.present.work.counts.failed[0], len(keys)
        times = times * number * TRIES_OF_AN_OBJECT
        rule = {"service": "s3", "method": "GetObject", "error": "InternalError", "times": times}
        self.stage.ledger.add_rule(rule)
        for key in keys:
            self.put(key)
        wait_for(lambda: self.present.work.counts.failed[0] == before + number)

    def repaired(self) -> None:
        wait_for(
            lambda: all(
                self.service.operations[one].ended is not None
                for name in self.repairs
                for one in self.service.by_job.get(name, ())
            )
        )


@pytest.fixture
def scene(stage: Stage) -> Scene:
    return Scene(stage)


def test_a_row_goes_on_with_the_next_operation_and_its_counters_add_up(scene: Scene) -> None:
    first = scene.begin()
    scene.copied("a/1", "b/1")
    scene.passes()
    assert (scene.row().operation_name, scene.row().counters.objects_copied) == (first.name, 2)
    scene.end_day()
    second = scene.next_day()
    scene.copied("a/2")
    scene.passes()
    assert scene.rows() == [(JobStatus.RUNNING, "")] * 2
    assert [scene.row(prefix).operation_name for prefix in PREFIXES] == [second.name] * 2
    assert (scene.row().counters.objects_copied, scene.row(PREFIXES[1]).counters.objects_copied) == (3, 0)
    scene.restart()
    scene.passes()
    assert scene.row().counters.objects_copied == 3
    assert len([job for job in scene.service.jobs.values() if "event_stream" in job]) == 1


def test_counters_do_not_go_back_when_the_service_forgets(scene: Scene) -> None:
    first = scene.begin()
    scene.copied("a/1", "a/2")
    scene.end_day()
    scene.next_day()
    scene.copied("a/3")
    scene.passes()
    scene.forget(first)
    scene.restart()
    scene.passes()
    assert scene.row().counters.objects_copied == 3


def test_two_operations_at_once_are_one_row(scene: Scene) -> None:
    """While an object is under way the old one goes on; a hold stops both."""
    first = scene.begin()
    scene.stage.ledger.change({"sts.bytes_per_second": 0.001, "sts.follow_gap_seconds": 0})  # until it is let go
    scene.put("a/large", b"x" * 1000)
    wait_for(lambda: not scene.stage.ledger.events[SOURCE])
    scene.age(first, DAY_S)
    wait_for(lambda: scene.present is not first)
    scene.passes()
    assert (scene.row().operation_name, scene.row().status) == (scene.present.name, JobStatus.RUNNING)
    assert first.work.status == Status.IN_PROGRESS
    scene.store.set_hold(Hold(by="ops", at=scene.clock.now()))
    scene.passes()
    scene.stage.ledger.change({"sts.bytes_per_second": 0})
    wait_for(lambda: {one.work.status for one in scene.operations} == {Status.PAUSED})
    scene.passes()
    assert (scene.row().status, scene.row().paused_by) == (JobStatus.PAUSED, PausedBy.HOLD)
    scene.stage.ledger.change({"sts.bytes_per_second": 0})
    scene.store.set_hold(None)
    scene.passes()
    wait_for(lambda: first.work.status == Status.SUCCESS)
    scene.passes()
    assert (scene.row().status, scene.row().counters.objects_copied) == (JobStatus.RUNNING, 1)


def test_an_operation_that_begins_under_a_hold_is_paused(scene: Scene) -> None:
    first = scene.begin()
    scene.store.set_hold(Hold(by="ops", at=scene.clock.now()))
    scene.passes()
    wait_for(lambda: first.work.status == Status.PAUSED)
    scene.passes()
    second = scene.next_day()
    scene.passes()
    wait_for(lambda: second.work.status == Status.PAUSED)
    assert first.work.status == Status.PAUSED


def held(scene: Scene) -> None:
    scene.store.set_hold(Hold(by="ops", at=scene.clock.now()))
    scene.passes()


def test_what_a_hold_paused_is_resumed_when_the_next_operation_has_begun_meanwhile(scene: Scene) -> None:
    """Seed 686 of the simulation: the row was the next operation's by then, and the wish to resume was gone with the old one."""
    first = scene.begin()
    held(scene)
    wait_for(lambda: first.work.status == Status.PAUSED)
    scene.passes()
    scene.store.set_hold(None)
    second = scene.next_day()
    scene.copied("a/1")
    scene.restart()
    scene.passes(2)
    wait_for(lambda: first.work.status != Status.PAUSED)
    scene.passes()
    assert (second.work.status, scene.row().status, scene.row().paused_by) == (
        Status.IN_PROGRESS,
        JobStatus.RUNNING,
        PausedBy.NOBODY,
    )


def test_what_a_person_paused_stays_paused_when_a_hold_is_lifted(scene: Scene) -> None:
    """Seed 928: another operation had begun, so that the row told no more whose pause it was."""
    first = scene.begin()
    scene.service.force(first.name, Status.PAUSED)
    scene.passes(2)
    assert (scene.row().status, scene.row().paused_by) == (JobStatus.PAUSED, PausedBy.NOBODY)
    second = scene.next_day()
    scene.passes()
    held(scene)
    wait_for(lambda: second.work.status == Status.PAUSED)
    scene.passes()
    scene.store.set_hold(None)
    scene.restart()
    scene.passes(2)
    wait_for(lambda: second.work.status == Status.IN_PROGRESS)
    scene.passes(3)
    assert first.work.status == Status.PAUSED
    # The command that resumes all resumes it, too.
    assert all(one.done for one in resumed_by_command(scene))
    wait_for(lambda: first.work.status != Status.PAUSED)


def resumed_by_command(scene: Scene) -> list[admin.Done]:
    return admin.resume_all(scene.store, scene.project, scene.clock.now(), dry_run=False, all_in_project=False)


def test_what_could_not_be_resumed_at_once_is_resumed_in_the_end(scene: Scene) -> None:
    first = scene.begin()
    held(scene)
    wait_for(lambda: first.work.status == Status.PAUSED)
    scene.passes()
    second = scene.next_day()
    scene.passes()
    wait_for(lambda: second.work.status == Status.PAUSED)
    scene.passes()
    scene.store.set_hold(None)
    real, refused = StsClient.resume, [first.name]

    def resume(client: StsClient, name: OperationName) -> None:
        if refused and name == refused[0]:
            refused.clear()
            raise Retryable("the service is away", code="UNAVAILABLE")
        real(client, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StsClient, "resume", resume)
        scene.passes(4)
    wait_for(lambda: first.work.status != Status.PAUSED)
    wait_for(lambda: second.work.status == Status.IN_PROGRESS)
    assert not refused


def test_between_two_operations_it_goes_on(scene: Scene) -> None:
    scene.begin()
    scene.end_day()
    scene.passes(11, seconds=300)
    assert scene.rows() == [(JobStatus.RUNNING, "")] * 2
    scene.next_day()
    scene.passes()
    assert scene.rows() == [(JobStatus.RUNNING, "")] * 2
    assert (scene.row().missing_count, scene.row().missing_since) == (0, None)


@pytest.mark.parametrize("how", ["succeeded", "cancelled", "failed"])
def test_without_a_next_operation_it_ends_in_time(scene: Scene, how: str) -> None:
    operation = scene.begin()
    if how == "cancelled":
        scene.service.cancel(operation.name)
    elif how == "failed":
        operation.work.fail("INTERNAL", "s3://source-bucket", "broken")
        scene.service.force(operation.name, Status.FAILED)
    else:
        scene.end_day()
    code = {"succeeded": NO_OPERATION, "cancelled": "CANCELLED", "failed": "INTERNAL"}[how]
    scene.passes(8, seconds=300)
    named = "" if how == "succeeded" else code
    assert scene.rows() == [(JobStatus.RUNNING, named)] * 2, "the cause is named at once"
    scene.passes(8, seconds=300)
    assert scene.rows() == [(JobStatus.ERROR, code)] * 2
    assert "`follow --stop`" in scene.row().error_message
    scene.restart()
    scene.passes(3, seconds=3600)
    assert scene.rows() == [(JobStatus.ERROR, code)] * 2, "none of them begins a job of its own"


def test_what_an_operation_had_taken_before_it_failed_as_a_whole_is_brought(scene: Scene) -> None:
    """It counts no failed object, and has taken events from the queue: nobody else would bring what they tell of."""
    first = scene.begin()
    first.work.fail("INTERNAL", f"s3://{SOURCE}", "broken")
    scene.service.force(first.name, Status.FAILED)
    scene.put("a/lost")
    scene.stage.ledger.events[SOURCE].clear()
    scene.passes()
    assert scene.rows() == [(JobStatus.RUNNING, "INTERNAL")] * 2
    assert scene.repairs == [], "the next one has not begun"
    scene.next_day()
    scene.passes(2)
    assert scene.rows() == [(JobStatus.RUNNING, FOLLOWED_FAILURES)] * 2
    assert "may not be at the destination, as the transfer failed as a whole: they are" in scene.row().error_message
    scene.repaired()
    wait_for(lambda: "a/lost" in at_sink(scene.stage))
    scene.passes(2)
    assert scene.rows() == [(JobStatus.RUNNING, "")] * 2


def test_a_clock_that_jumps_ends_nothing_between_two_operations(scene: Scene) -> None:
    scene.begin()
    scene.end_day()
    scene.passes(2)
    scene.passes(1, seconds=5 * 365 * DAY_S)
    scene.passes(2)
    assert scene.rows() == [(JobStatus.RUNNING, "")] * 2


@pytest.mark.parametrize("how", ["deleted", "deleted, and what runs goes on to its end", "disabled", "forgotten"])
def test_a_job_that_is_taken_away_ends_its_rows(scene: Scene, how: str) -> None:
    scene.begin()
    if how == "deleted":
        scene.service.delete(scene.job, PROJECT)
    elif how == "forgotten":
        scene.service.delete(scene.job, PROJECT)
        for name in scene.service.by_job.pop(scene.job):
            del scene.service.operations[name]
        del scene.service.jobs[scene.job]
        scene.restart()
    elif how == "disabled":
        scene.service.jobs[scene.job].status = 2  # type: ignore[assignment]
        wait_for(lambda: scene.present.work.status == Status.SUCCESS)
    else:
        scene.service.jobs[scene.job].status = 3  # type: ignore[assignment]
        scene.passes(2)
        assert scene.rows() == [(JobStatus.RUNNING, "")] * 2, "what runs is waited for"
        scene.service.force(scene.present.name, Status.SUCCESS)
    scene.passes(4, seconds=300)
    assert scene.rows() == [(JobStatus.ERROR, "CANCELLED")] * 2
    told = {"disabled": "was disabled outside", "forgotten": "is not there any more"}.get(how, "was deleted outside")
    assert told in scene.row().error_message


def test_an_operation_that_the_service_has_forgotten_is_succeeded_all_the_same(scene: Scene) -> None:
    """A daemon was away for so long that nothing of the day is known any more."""
    first = scene.begin()
    scene.end_day()
    second = scene.next_day()
    scene.forget(first)
    scene.restart()
    scene.passes()
    assert (scene.row().status, scene.row().operation_name) == (JobStatus.RUNNING, second.name)


# What failed


def test_what_failed_in_a_day_is_brought_while_following_goes_on(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    scene.begin()
    scene.fail("a/1", "b/1", "b/2")
    scene.copied("a/2")
    scene.end_day()
    scene.next_day()
    scene.passes(2)
    assert scene.rows() == [(JobStatus.RUNNING, FOLLOWED_FAILURES)] * 2
    assert scene.row().error_message.startswith("3 objects of 20")
    (repair,) = scene.repairs
    assert list(scene.service.jobs[repair].transfer_spec.object_conditions.include_prefixes) == ["a/", "b/"]
    scene.copied("a/3")
    wait_for(lambda: {"a/1", "b/1", "b/2"} <= set(at_sink(scene.stage)))
    scene.repaired()
    scene.passes(2)
    assert scene.rows() == [(JobStatus.RUNNING, "")] * 2
    counters = scene.row().counters
    assert (counters.objects_found, counters.objects_copied, counters.objects_failed) == (5, 5, 0)
    events = [record.message for record in caplog.records]
    assert events.count("followed_objects_moved_again") == 1
    assert (events.count("followed_objects_failed"), events.count("followed_objects_repaired")) == (1, 2)
    scene.restart()
    scene.passes(3)
    assert scene.repairs == [repair], "what was repaired once is not repaired again"
    assert [record.message for record in caplog.records].count("followed_objects_repaired") == 2


def test_a_repair_whose_answer_is_lost_is_the_only_one(scene: Scene) -> None:
    scene.begin()
    scene.fail("a/1")
    scene.end_day()
    scene.next_day()
    scene.stage.ledger.add_rule({"service": "sts", "method": "CreateTransferJob", "applied": True})
    scene.passes()
    scene.stage.ledger.add_rule({"service": "sts", "method": "RunTransferJob", "applied": True})
    scene.restart()
    scene.passes()
    scene.restart()
    scene.passes()
    assert [len(scene.service.by_job[name]) for name in scene.repairs] == [1]
    scene.repaired()
    scene.passes(2)
    assert scene.rows()[0] == (JobStatus.RUNNING, "")


def test_tries_are_bounded_and_what_stays_is_named(scene: Scene) -> None:
    scene.tries = 2
    scene.restart()
    scene.begin()
    scene.stage.ledger.add_rule({"service": "s3", "method": "GetObject", "error": "InternalError", "times": 0})
    scene.put("a/1")
    wait_for(lambda: scene.present.work.counts.failed[0] == 1)
    failed = scene.end_day()
    scene.next_day()
    for _ in range(20):
        scene.passes(1, seconds=300)
        scene.repaired()
    assert scene.repairs == [repair_name(scene.job, OperationName(failed.name), number) for number in (1, 2)]
    assert scene.rows()[0] == (JobStatus.RUNNING, FOLLOWED_FAILURES)
    assert "is not at the destination: " in scene.row().error_message
    assert "given up" in scene.row().error_message
    assert scene.row().counters.objects_failed == 1
    scene.stage.ledger.rules.clear()
    stopped = admin.stop_following(scene.store, scene.project, scene.clock.now())
    assert all(one.done for one in stopped)
    assert scene.rows() == [(JobStatus.ERROR, FOLLOWED_FAILURES)] * 2, "nobody may call it done"
    assert not [job for job in scene.service.jobs.values() if job.status != 3], "the repairs are gone, too"


def test_what_failed_in_a_day_that_is_not_over_is_not_called_done(scene: Scene) -> None:
    """Found by the simulation: rows were done, with a count of objects that failed."""
    scene.begin()
    scene.fail("b/1")
    scene.passes()
    assert (scene.row().counters.objects_failed, scene.rows()) == (1, [(JobStatus.RUNNING, "")] * 2)
    assert all(one.done for one in admin.stop_following(scene.store, scene.project, scene.clock.now()))
    assert scene.rows() == [(JobStatus.ERROR, FOLLOWED_FAILURES)] * 2, "under which of them it failed is not known yet"
    assert scene.row(PREFIXES[1]).error_message.startswith(f"1 object of {scene.job} failed")
    assert not admin.stop_following(scene.store, scene.project, scene.clock.now()), "to repeat it changes nothing"


def test_the_next_failing_day_brings_what_an_earlier_one_gave_up(scene: Scene) -> None:
    scene.tries = 1
    scene.restart()
    scene.begin()
    scene.fail("a/1", times=2)
    scene.end_day()
    scene.passes(2)
    scene.repaired()
    scene.next_day()
    scene.passes(2)
    assert "given up" in scene.row().error_message
    scene.fail("b/1")
    scene.end_day()
    scene.next_day()
    scene.passes(2)
    wait_for(lambda: {"a/1", "b/1"} <= set(at_sink(scene.stage)))
    scene.repaired()
    scene.passes(2)
    assert scene.rows() == [(JobStatus.RUNNING, "")] * 2


def test_a_repair_that_a_person_cancels_is_not_begun_again(scene: Scene) -> None:
    scene.begin()
    scene.fail("a/1")
    scene.end_day()
    scene.stage.ledger.change({"sts.objects_per_second": 0.2})
    scene.next_day()
    scene.passes(2)
    (repair,) = scene.repairs
    scene.service.cancel(scene.service.by_job[repair][0])
    scene.passes(5, seconds=3600)
    assert scene.repairs == [repair]
    assert "given up" in scene.row().error_message


def test_under_a_hold_nothing_is_brought_and_what_is_brought_is_paused(scene: Scene) -> None:
    scene.begin()
    scene.fail("a/1")
    scene.end_day()
    scene.store.set_hold(Hold(by="ops", at=scene.clock.now()))
    scene.passes(3)
    assert not scene.repairs
    scene.store.set_hold(None)
    scene.stage.ledger.change({"sts.objects_per_second": 0.2})
    scene.next_day()
    scene.passes(2)
    (repair,) = scene.repairs
    scene.store.set_hold(Hold(by="ops", at=scene.clock.now()))
    scene.passes(2)
    operation = scene.service.operations[scene.service.by_job[repair][0]]
    wait_for(lambda: operation.work.status == Status.PAUSED)
    wait_for(lambda: scene.present.work.status == Status.PAUSED)
    scene.stage.ledger.change({"sts.objects_per_second": 0})
    scene.passes(2)
    scene.store.set_hold(None)
    scene.passes(2)
    wait_for(lambda: "a/1" in at_sink(scene.stage))


def test_commands_pause_and_resume_what_is_brought_too(scene: Scene) -> None:
    scene.begin()
    scene.fail("a/1")
    scene.end_day()
    scene.stage.ledger.change({"sts.objects_per_second": 0.2})
    scene.next_day()
    scene.passes(2)
    now = scene.clock.now()
    paused = admin.pause_all(scene.store, scene.project, now, hold=Hold(by="ops", at=now), dry_run=False, all_in_project=False)
    assert [one.done for one in paused] == [True, True]
    wait_for(lambda: all(one.work.status != Status.IN_PROGRESS for one in scene.service.operations.values()))
    wait_for(lambda: all(one.work.status != Status.SUSPENDING for one in scene.service.operations.values()))
    resumed = admin.resume_all(scene.store, scene.project, now, dry_run=False, all_in_project=False)
    assert [one.done for one in resumed] == [True, True]
    done = admin.cancel(scene.store, [LEAD], scene.project.cancel)
    assert [(one.done, "follow --stop" in one.why) for one in done] == [(False, True)]


@pytest.mark.parametrize("found", [0, 2])
def test_what_a_comparison_names_is_brought_by_its_manifest(scene: Scene, found: int) -> None:
    names = scene.names = Names()
    scene.restart()
    scene.begin()
    scene.fail("b/1", "b/2")
    failed = scene.end_day()
    scene.next_day()
    names.found = None
    scene.passes(3)
    assert not scene.repairs, "it is still being found"
    assert "being found" in scene.row().error_message
    wanted = names.asked[0]
    assert (wanted.prefixes, wanted.before, wanted.number) == (PREFIXES, failed.ended, 1)
    behind = {PREFIXES[1]: Behind(objects=found, example="for example b/1 (…)")} if found else {}
    names.found = Compared(manifest=f"gs://{SINK}/.x/manifest.csv", behind=behind)
    scene.stage.objects.put(SINK, ".x/manifest.csv", b"b/1\nb/2\n", Attributes())
    scene.passes(2)
    if not found:
        assert not scene.repairs, "they are there all the same"
        assert scene.rows() == [(JobStatus.RUNNING, "")] * 2
        assert names.done == [scene.job]
        return
    assert [code for _, code in scene.rows()] == ["", FOLLOWED_FAILURES]
    assert scene.row(PREFIXES[1]).error_message.startswith("2 objects of")
    (repair,) = scene.repairs
    spec = scene.service.jobs[repair].transfer_spec
    assert spec.transfer_manifest.location == f"gs://{SINK}/.x/manifest.csv"
    assert not spec.object_conditions.include_prefixes
    scene.repaired()
    scene.passes(2)
    assert {"b/1", "b/2"} <= set(at_sink(scene.stage))
    assert scene.rows() == [(JobStatus.RUNNING, "")] * 2
    assert names.done == [scene.job]


# Which job listens


def test_what_cannot_travel_stays_named_and_is_not_called_repaired(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """An archived object failed: no other transfer can bring it."""
    caplog.set_level(logging.INFO)
    names = scene.names = Names()
    names.stuck = {Prefix("a/"): Behind(objects=1, example="for example a/cold (archived)")}
    scene.restart()
    scene.begin()
    scene.fail("a/cold")
    scene.end_day()
    scene.next_day()
    for _ in range(2):
        scene.passes(3)
        assert [code for _, code in scene.rows()] == [FOLLOWED_FAILURES, ""]
        assert "1 object of 20" in scene.row().error_message
        assert "a/cold (archived); they cannot travel as they are: `sts-manager failures` says why" in scene.row().error_message
        assert scene.row().counters.objects_failed == 1
        scene.restart()
    assert not scene.repairs, "nothing was moved in vain"
    assert "followed_objects_repaired" not in [record.message for record in caplog.records]
    admin.stop_following(scene.store, scene.project, scene.clock.now())
    assert scene.row().status is JobStatus.ERROR


def test_a_second_job_on_a_queue_is_refused_whoever_made_the_first(scene: Scene) -> None:
    scene.begin()
    scene.passes(2)
    for prefix in PREFIXES:
        scene.store.rows[prefix] = replace(scene.row(prefix), status=JobStatus.DONE, route=None, operation_name=None)
    with pytest.raises(BadInput, match=r"still listens to .*`sts-manager follow --stop` ends it"):
        scene.follow()
    with pytest.raises(BadInput, match=str(scene.job)):
        admin.follow(scene.store, scene.project, None, scene.clock.now())
    assert all(one.done for one in admin.stop_following(scene.store, scene.project, scene.clock.now()))
    scene.follow()


def test_somebody_elses_job_on_the_queue_is_named_with_the_command_that_ends_it(scene: Scene) -> None:
    other = TransferJobView(name="transferJobs/theirs", latest_operation=None, one_time=False, event_queue=QUEUE)

    class Project(StsProject):
        def transfer_jobs(self) -> Iterator[TransferJobView]:
            yield other

    project = Project({PROJECT: scene.client()})
    with pytest.raises(BadInput, match="`gcloud transfer jobs delete transferJobs/theirs` ends it"):
        admin.follow(scene.store, project, None, scene.clock.now(), queue=QUEUE)
    done = admin.follow(scene.store, project, None, scene.clock.now(), queue=f"{QUEUE}-2")
    assert all(one.done for one in done), "on another queue it is nobody's business"


def test_the_daemon_looks_for_another_listener_too(scene: Scene) -> None:
    """`follow` may not have been told the queue."""
    admin.follow(scene.store, scene.project, None, scene.clock.now())
    scene.service.create(theirs())
    scene.passes(2)
    assert scene.rows() == [(JobStatus.ERROR, "QUEUE_TAKEN")] * 2
    assert "transferJobs/theirs" in scene.row().error_message
    assert list(scene.service.jobs) == ["transferJobs/theirs"]


def theirs() -> sts.TransferJob:
    keys = sts.AwsAccessKey(access_key_id=KEYS.key_id, secret_access_key=KEYS.secret)
    return sts.TransferJob(
        name="transferJobs/theirs",
        project_id=PROJECT,
        status=sts.TransferJob.Status.ENABLED,
        transfer_spec=sts.TransferSpec(
            aws_s3_data_source=sts.AwsS3Data(bucket_name=SOURCE, aws_access_key=keys),
            gcs_data_sink=sts.GcsData(bucket_name=SINK),
        ),
        event_stream=sts.EventStream(name=QUEUE),
    )


def test_without_a_queue_intents_are_left_alone_and_what_is_followed_is_watched(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.follow()
    scene.restart(queue="")
    scene.passes(1)
    calls = sum(scene.stage.ledger.calls.values())
    scene.passes(5)
    assert scene.rows() == [(JobStatus.RUNNING, QUEUE_MISSING)] * 2
    assert [record.message for record in caplog.records].count("start_refused") == 1
    assert sum(scene.stage.ledger.calls.values()) <= calls + 2, "nor does anybody ask again and again"
    assert len(list(scene.store.history(LEAD))) == 2
    assert not scene.service.jobs
    scene.restart()
    scene.passes(2)
    assert scene.rows() == [(JobStatus.RUNNING, "")] * 2
    scene.copied("a/1")
    scene.restart(queue="")
    scene.passes(2)
    assert scene.row().counters.objects_copied == 1
    scene.end_day()
    scene.next_day()
    scene.passes()
    assert scene.row().operation_name == scene.present.name


def test_without_a_queue_what_a_crashed_daemon_began_is_adopted(scene: Scene) -> None:
    scene.follow()
    scene.passes(1)
    assert scene.row().operation_name is None
    scene.restart(queue="")
    scene.passes(2)
    assert scene.row().operation_name == scene.present.name


def test_an_intent_to_follow_outlives_a_hold(scene: Scene) -> None:
    """One by one its prefixes would come to be in several jobs, on one queue."""
    scene.follow()
    scene.store.set_hold(Hold(by="ops", at=scene.clock.now()))
    scene.passes(3)
    assert scene.rows() == [(JobStatus.RUNNING, "")] * 2
    assert not scene.service.jobs
    scene.store.set_hold(None)
    scene.passes(2)
    assert len(scene.service.jobs) == 1


def test_the_service_is_away_and_comes_back(scene: Scene) -> None:
    scene.begin()
    scene.fail("a/1")
    scene.end_day()
    scene.next_day()
    for method in ("ListOperations", "GetTransferJob", "CreateTransferJob"):
        scene.stage.ledger.add_rule({"service": "sts", "method": method, "times": 2})
    scene.passes(8)
    scene.repaired()
    scene.passes(2)
    assert scene.rows()[0] == (JobStatus.RUNNING, "")


@pytest.mark.parametrize("method", ["GetTransferJob", "CreateTransferJob"])
def test_a_right_that_is_missing_at_the_start_is_named_and_waited_for(scene: Scene, method: str) -> None:
    """The rows are started together, or not at all: an intent may be carried out already, and must not end in error."""
    scene.stage.ledger.add_rule({"service": "sts", "method": method, "error": "PERMISSION_DENIED", "times": 1})
    scene.follow()
    scene.passes(2)
    assert scene.rows() == [(JobStatus.RUNNING, "PERMISSION_DENIED")] * 2
    scene.passes(3, seconds=3600)
    assert scene.rows() == [(JobStatus.RUNNING, "")] * 2
    assert scene.row().operation_name == scene.present.name


@pytest.mark.parametrize("name", ["p/", "a/"])
def test_the_names_of_repairs(name: str) -> None:
    job, operation = JobName("transferJobs/stsm-0badcafe-ff-a12"), OperationName(f"transferOperations/{name}1")
    made = repair_name(job, operation, 3)
    assert repaired_job(made) == job
    assert made.endswith("-3")
    assert repaired_job(job) is None
    assert repaired_job("transferJobs/theirs-r0123456789ab-1") is None
    with pytest.raises(ValueError, match="numbered from 1"):
        repair_name(job, operation, 0)
