"""What the pool's ledger costs: polls and tellings do not grow with what has failed, and what is over goes, a slice at a time."""

from __future__ import annotations

import random
import sqlite3
import tracemalloc
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from cdn_worker.protocol.codec import encoded
from cdn_worker.protocol.messages import ROOT, CopyReport, Counts, Failure, ListFailed, ListReport, Report, Trouble
from sts_manager.domain.model import FailedObject, KnownObject, OperationState, PrefixJob
from sts_manager.domain.names import JobName
from sts_manager.domain.names import Prefix as StorePrefix
from sts_manager.routes.pool import tidying
from sts_manager.routes.pool.controller import FAILURES_MAX, PoolKeeper, Told
from sts_manager.routes.pool.folding import ENDS_AFTER, ERRORS_MAX, WELL_FOR
from sts_manager.routes.pool.ledger import PoolLedger
from sts_manager.routes.pool.operation import CANCELLED, snapshot
from tests.fakes.clock import FakeClock
from tests.fakes.memory_queue import memory_queues
from tests.fakes.memory_store import MemoryStore
from tests.unit.test_pool_ledger import JOB, NOW, SPEC, Prefix, begun, copied, listed, state, swept

MIB = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pool.db"


@pytest.fixture
def ledger(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PoolLedger]:
    monkeypatch.setattr("sts_manager.routes.pool.ledger.PRUNE_S", 0.0)
    with closing(PoolLedger(path)) as made:
        yield made


def rows(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def attempt(number: int) -> str:
    return f"transferJobs/stsm-m-x-a{number}"


def failing(ledger: PoolLedger, number: int, job: str = JOB, each: int = 500) -> None:
    """A prefix of so many keys, none of which is copied."""
    reports: list[CopyReport | ListReport] = []
    for sequence in range(number // each):
        failures = tuple(
            Failure(key=f"p/{sequence:06}-{one:04}", size=1, etag="e" * 32, verdict="failed", error="exists", details="d" * 200)
            for one in range(each)
        )
        counts = Counts(objects={"failed": each}, bytes={"failed": each})
        reports.append(CopyReport(job=job, shard=ROOT, run="r", sequence=sequence, counts=counts, failures=failures))
        if len(reports) == 40:
            ledger.fold(reports, NOW)
            reports.clear()
    ledger.fold([*reports, listed("r", number // each, number, job=job)], NOW)


class Kept(MemoryStore):
    """Counts what it is given, and keeps nothing: its memory is not what is measured."""

    def __init__(self) -> None:
        super().__init__()
        self.put: list[int] = []

    def jobs_named(self, names: Collection[JobName]) -> Mapping[JobName, PrefixJob]:
        return {name: PrefixJob(prefix=StorePrefix("p/"), job_name=name) for name in names}

    def put_failures(self, prefix: StorePrefix, failures: Sequence[FailedObject], at: datetime) -> None:
        self.put.append(len(failures))

    def put_objects(self, objects: Iterable[KnownObject], at: datetime) -> None:
        self.put.append(sum(1 for _ in objects))


def test_a_hundred_thousand_failures_are_told_in_the_memory_of_those_that_are_kept(ledger: PoolLedger) -> None:
    """All of them were read to keep ten thousand: with a million the daemon died of it, at each start again (C6)."""
    begun(ledger)
    failing(ledger, 100_000)
    store = Kept()
    keeper = PoolKeeper(memory_queues(), ledger, FakeClock(), told=Told(store=lambda: store))
    tracemalloc.start()
    try:
        assert keeper.tell()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert store.put == [FAILURES_MAX]
    # About 1 KiB each: a tenth of all that there are.
    assert peak < 25 * MIB
    assert not keeper.tell()


def test_a_backlog_of_what_failed_is_taken_in_a_little_at_a_time(ledger: PoolLedger) -> None:
    """Five hundred reports were taken at once, however long: of a million failures that was 280 MiB."""
    begun(ledger)
    queues = memory_queues()
    failures = tuple(
        Failure(key=f"p/{one:0400}", size=1, etag="e" * 32, verdict="failed", error="exists", details="d" * 600)
        for one in range(500)
    )
    counts = Counts(objects={"failed": 500}, bytes={"failed": 500})
    number = 20
    for sequence in range(number):
        theirs = tuple(replace(one, key=f"{one.key}-{sequence}") for one in failures)
        report = CopyReport(job=JOB, shard=ROOT, run="r", sequence=sequence, counts=counts, failures=theirs)
        queues.reports.publish([encoded(report)])
    queues.reports.publish([encoded(listed("r", number, number * 500))])
    keeper = PoolKeeper(queues, ledger, FakeClock())
    turns = 0
    tracemalloc.start()
    try:
        while keeper.fold_reports():
            turns += 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert state(ledger) is OperationState.FAILED
    job = ledger.job(JOB)
    assert job is not None
    assert [one[:2] for one in job.errors] == [("exists", number * 500)]
    assert turns > 2
    assert peak < 9 * MIB, "all of them at once are 13"


def test_a_poll_does_not_look_at_what_has_failed(ledger: PoolLedger, path: Path) -> None:
    begun(ledger)
    failing(ledger, 10_000)
    with closing(sqlite3.connect(path, timeout=10)) as other, other:
        other.execute("DELETE FROM failure")
    job = ledger.job(JOB)
    assert job is not None
    assert [(one.code, one.count) for one in snapshot(job).errors] == [("EXISTS", 10_000)]


@pytest.mark.parametrize("seed", range(30))
def test_errors_are_counted_as_the_failures_of_believed_runs_are(ledger: PoolLedger, seed: int) -> None:
    prefix = Prefix(seed)
    draw = random.Random(seed)
    coming = prefix.as_they_come()
    for place, one in enumerate(coming):
        if isinstance(one, CopyReport) and draw.random() < 0.5:
            # The same report has the same failures, whenever it comes.
            own = random.Random(f"{one.shard} {one.run} {one.sequence}")
            error = own.choice(["forbidden", "exists"])
            key = f"p/{one.shard}-{one.run}-{one.sequence}"
            failure = Failure(key=key, size=1, etag="e", verdict="failed", error=error, details=f"of {key}")
            coming[place] = replace(one, failures=(failure,))
    begun(ledger)
    while coming:
        batch, coming = coming[: (size := draw.randrange(1, 6))], coming[size:]
        ledger.fold(batch, NOW)
        found = list(ledger.failures(JOB, 1000))
        with closing(sqlite3.connect(ledger._file.path)) as other:
            told = {error: (number, key, details) for _, error, number, key, details in other.execute("SELECT * FROM job_error")}
        numbers = Counter(one.error for one in found)
        firsts = {error: min(one.key for one in found if one.error == error) for error in numbers}
        assert told == {error: (numbers[error], key, f"of {key}") for error, key in firsts.items()}


def test_errors_without_end_are_told_apart_up_to_a_number(ledger: PoolLedger) -> None:
    begun(ledger)
    failures = tuple(
        Failure(key=f"p/{one:04}", size=1, etag="e", verdict="failed", error=f"odd{one}", details="") for one in range(500)
    )
    counts = Counts(objects={"failed": 500}, bytes={})
    ledger.fold([listed("r", 1, 500), replace(copied("r", 0), counts=counts, failures=failures)], NOW)
    job = ledger.job(JOB)
    assert job is not None
    assert len(job.errors) == ERRORS_MAX + 1
    assert job.errors[0][:2] == ("other", 500 - ERRORS_MAX)


# What is over


def test_what_a_job_left_goes_in_slices_and_others_read_and_write_between_them(
    ledger: PoolLedger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tidying, "ROWS_AT_ONCE", 10)
    begun(ledger)
    for sequence in range(40):
        ledger.fold([copied("dead", sequence, failed=3), copied("r", sequence, done=1, failed=1)], NOW)
    ledger.fold([listed("orphan", 0, 0, shard="nobodys"), listed("r", 40, 80)], NOW)
    assert state(ledger) is OperationState.FAILED
    assert rows(path, "failure") == 160
    other = replace(SPEC, job="transferJobs/stsm-m-y-a1", prefix="q/")
    begun(ledger, other)
    before = rows(path, "task") + rows(path, "failure")
    slices = 0
    while ledger.sweep(NOW):
        slices += 1
        after = rows(path, "task") + rows(path, "failure")
        assert before - after <= 10
        before = after
        ledger.fold([copied("s", slices, job=other.job)], NOW)
        before += 1
        job = ledger.job(JOB)
        assert job is not None
        assert [one.key for one in ledger.failures(JOB, 1000)] == sorted(f"p/root-{one}-0" for one in range(40))
        assert snapshot(job).counters.objects_failed == 40
    assert slices > 20
    assert rows(path, "failure") == 40
    assert rows(path, "early") == 0
    assert rows(path, "task") == slices, "those of the other job stay"


def test_who_is_killed_between_two_slices_goes_on_with_them(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tidying, "ROWS_AT_ONCE", 7)
    with closing(PoolLedger(path)) as ledger:
        begun(ledger)
        ledger.fold([*(copied("dead", one, failed=2) for one in range(20)), listed("r", 20, 60)], NOW)
        ledger.fold([copied("r", one, done=1, failed=2) for one in range(20)], NOW)
    slices = 0
    while True:
        with closing(PoolLedger(path)) as ledger:
            if not ledger.sweep(NOW):
                break
            slices += 1
    assert slices > 10
    with closing(PoolLedger(path)) as ledger:
        assert len(list(ledger.failures(JOB, 100))) == 40
        again = replace(SPEC, job=attempt(2))
        begun(ledger, again)
        assert len(ledger.replay(again.job)) == 40


@pytest.mark.parametrize("slices", [0, 1, 2, 100])
def test_the_failed_keys_are_tried_again_however_much_was_swept(ledger: PoolLedger, slices: int) -> None:
    begun(ledger)
    ledger.fold([copied("dead", 0, failed=4), listed("r", 1, 5), copied("r", 0, done=3, failed=2)], NOW)
    for _ in range(slices):
        ledger.sweep(NOW)
    spec = replace(SPEC, job=attempt(2))
    begun(ledger, spec)
    assert ledger.replay(spec.job) == ("p/root-0-0", "p/root-0-1")


def ended(ledger: PoolLedger, number: int, *, failed: int = 0, cancelled: bool = False, at: datetime = NOW) -> None:
    spec = replace(SPEC, job=attempt(number), storage_class="NEARLINE" if number % 2 else "")  # no replay
    begun(ledger, spec, at)
    if cancelled:
        ledger.end(spec.job, CANCELLED, "by a test", at)
    else:
        ledger.fold([listed("r", 1, 1 + failed, job=spec.job), copied("r", 0, done=1, failed=failed, job=spec.job)], at)
    for job, _ in ledger.untold():
        ledger.told(job, failures=bool(failed))


def test_of_each_prefix_the_last_attempt_stays(ledger: PoolLedger, path: Path) -> None:
    for number in range(1, 31):
        ended(ledger, number, failed=number % 3)
        swept(ledger)
    assert rows(path, "job") == 1
    assert ledger.job(attempt(30)) is not None
    assert rows(path, "failure") == 0
    assert rows(path, "job_error") == 0
    ended(ledger, 31, failed=2)
    swept(ledger)
    assert (rows(path, "job"), rows(path, "failure"), rows(path, "job_error")) == (1, 2, 1)


def test_an_attempt_stays_until_the_next_one_has_ended(ledger: PoolLedger, path: Path) -> None:
    """That one may have to be told again what it is to try."""
    ended(ledger, 2, failed=2)
    swept(ledger)
    spec = replace(SPEC, job=attempt(3))
    begun(ledger, spec)
    swept(ledger)
    assert rows(path, "job") == 2
    assert len(ledger.replay(spec.job)) == 2


def test_what_was_cancelled_stands_on_the_board_while_tasks_of_it_may_be_about(ledger: PoolLedger, path: Path) -> None:
    ended(ledger, 1, cancelled=True)
    ended(ledger, 2)
    swept(ledger, NOW + timedelta(days=6))
    assert attempt(1) in ledger.board()
    with closing(PoolLedger(path)) as later:
        swept(later, NOW + timedelta(days=8))
    assert (ledger.board(), rows(path, "job")) == ({}, 1)


def test_what_ended_a_month_ago_is_forgotten(ledger: PoolLedger, path: Path) -> None:
    ended(ledger, 1, failed=2)
    swept(ledger, NOW + timedelta(days=29))
    assert rows(path, "job") == 1
    with closing(PoolLedger(path)) as later:
        swept(later, NOW + timedelta(days=31))
    assert (rows(path, "job"), rows(path, "failure"), rows(path, "job_error")) == (0, 0, 0)


def test_what_is_not_told_yet_is_not_forgotten(ledger: PoolLedger, path: Path) -> None:
    begun(ledger).fold([listed("r", 1, 5), copied("r", 0, done=3, failed=2)], NOW)
    swept(ledger, NOW + timedelta(days=400))
    assert ledger.untold() == [(JOB, "p/")]


def test_a_late_report_of_what_was_forgotten_is_known_to_be_ours(ledger: PoolLedger) -> None:
    """Else it would be left for another ledger, for ever."""
    spec = ledger.address(replace(SPEC, job=attempt(1)))
    late = replace(copied("r", 0, job=spec.job), **spec.mark)
    assert not ledger.fold([late], NOW).unknown
    assert ledger.fold([replace(late, ledger="another")], NOW).unknown == {0}
    assert ledger.fold([replace(late, ledger="")], NOW).unknown == {0}


def test_the_last_dead_letters_are_kept_and_of_each_its_beginning(
    ledger: PoolLedger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tidying, "DEAD_LETTERS", 20)
    for number in range(50):
        ledger.bury(JOB, f"{number}", b"x" * 1_000_000, NOW)
    swept(ledger)
    with closing(sqlite3.connect(path)) as other:
        found = other.execute("SELECT reason, length(body) FROM dead_letter ORDER BY id").fetchall()
    assert found == [(f"{number}", tidying.LETTER_BYTES) for number in range(30, 50)]


def test_the_file_shrinks_when_what_was_in_it_is_gone(ledger: PoolLedger, path: Path) -> None:
    begun(ledger)
    failing(ledger, 20_000)
    ledger._read("PRAGMA wal_checkpoint(TRUNCATE)")
    full = path.stat().st_size
    ledger.told(JOB, failures=True)
    ended(ledger, 2)
    for _ in range(10):
        swept(ledger)
        ledger.sweep(NOW)
    ledger._read("PRAGMA wal_checkpoint(TRUNCATE)")
    assert path.stat().st_size < full / 5


def test_all_that_there_is_to_tell_is_told_before_the_end_however_seldom_it_is_told(ledger: PoolLedger) -> None:
    """Of five thousand lines three thousand stayed in a file that a container loses (M5)."""
    from cdn_worker.protocol.messages import Ledgered

    begun(ledger)
    for sequence in range(10):
        objects = tuple(
            Ledgered(key=f"p/{sequence}-{one}", size=1, etag="e", generation=1, crc32c="", verified="md5", verdict="done")
            for one in range(5)
        )
        counts = Counts(objects={"done": 5}, bytes={"done": 5}, verified={"md5": 5})
        ledger.fold([replace(copied("r", sequence), counts=counts, objects=objects)], NOW)
    ledger.fold([listed("r", 10, 50)], NOW)
    store = Kept()
    told = Told(store=lambda: store, objects_at_once=7, objects_every_s=3600.0)
    with PoolKeeper(memory_queues(), ledger, FakeClock(), told=told):
        pass
    assert (sum(store.put), max(store.put)) == (50, 7)
    assert not ledger.busy()


# Attempts, and files of earlier releases


def test_which_attempt_was_before_is_told_by_its_number_not_by_a_clock(ledger: PoolLedger) -> None:
    """A clock that was fast made what an old attempt had settled count a second time, beside a full listing (L10)."""
    fast = NOW + timedelta(days=8)
    ended(ledger, 2, failed=2, at=fast)
    spec = replace(SPEC, job=attempt(3))
    begun(ledger, spec, NOW)
    ledger.fold([listed("r", 1, 1, job=spec.job), copied("r", 0, done=1, job=spec.job)], NOW)
    spec = replace(SPEC, job=attempt(4))
    job = ledger.begin(spec, spec.prefix, "q", NOW + timedelta(minutes=1))
    assert (job.carried, ledger.replay(spec.job)) == (0, ())


def test_a_ledger_of_an_earlier_release_goes_on(path: Path, tmp_path: Path) -> None:
    old = Path(__file__).with_name("pool_ledger_schema_2.sql").read_text()
    with closing(sqlite3.connect(path)) as other, other:
        other.executescript(old)
    with closing(PoolLedger(path)) as ledger:
        assert ledger.id
        job = ledger.job(attempt(9))
        assert job is not None
        assert [(one[0], one[1], one[2]) for one in job.errors] == [("forbidden", 2, "p/root-0-0")], "of the run that is believed"
        again = replace(SPEC, job=attempt(10))
        begun(ledger, again)
        assert ledger.replay(again.job) == (), "the one before is not over"
        ledger.fold([copied("r", 1, job=attempt(9))], NOW)
        assert state(ledger, attempt(9)) is OperationState.FAILED
        swept(ledger)
        assert ledger.job(attempt(8)) is None, "attempt 9 has ended, and comes after it"
        assert [one.key for one in ledger.failures(attempt(9), 9)] == ["p/root-0-0", "p/root-0-1"]
    with closing(PoolLedger(path)) as same:
        assert same.id == ledger.id


# What is read while it is tidied


def test_failures_are_those_of_believed_runs_though_these_are_swept_meanwhile(
    ledger: PoolLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at first, and swept away before the rows were read: no failure was told to the store, none tried again."""
    begun(ledger).fold([listed("r", 1, 2), copied("dead", 0, done=0, failed=1), copied("r", 0, done=0, failed=2)], NOW)
    assert state(ledger) is OperationState.FAILED
    read = ledger._read

    def then_sweep(*question: object) -> object:
        found = read(*question)  # type: ignore[arg-type]
        monkeypatch.setattr(ledger, "_read", read)
        swept(ledger)
        return found

    monkeypatch.setattr(ledger, "_read", then_sweep)
    assert [one.key for one in ledger.failures(JOB, 9)] == ["p/root-0-0", "p/root-0-1"]
    swept(ledger)
    assert [one.key for one in ledger.failures(JOB, 9)] == ["p/root-0-0", "p/root-0-1"]


def test_an_attempt_whose_failed_keys_are_not_all_known_is_listed_anew(ledger: PoolLedger) -> None:
    """Only what is known by its name could be tried again: the prefix would be done without the rest."""
    begun(ledger, replace(SPEC, job=attempt(1)))
    first = attempt(1)
    ledger.fold([listed("r", 1, 4, job=first), copied("r", 0, done=2, failed=2, job=first)], NOW)
    with ledger._write() as connection:
        connection.execute("DELETE FROM failure WHERE key = 'p/root-0-1'")
    again = replace(SPEC, job=attempt(2))
    job = ledger.begin(again, again.prefix, "q", NOW)
    assert (job.carried, ledger.replay(again.job)) == (0, ())


# A cause that all tasks share

TROUBLE = Trouble(job=JOB, code="UNREACHABLE", why="storage.example: it does not resolve")


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def troubled(ledger: PoolLedger) -> tuple[str, str] | None:
    job = ledger.job(JOB)
    assert job is not None
    return snapshot(job).trouble


def test_a_job_of_which_nothing_went_well_ends_when_it_is_told_again_that_nothing_goes(ledger: PoolLedger) -> None:
    begun(ledger).fold([TROUBLE], NOW)
    assert (state(ledger), troubled(ledger)) == (OperationState.IN_PROGRESS, (TROUBLE.code, TROUBLE.why))
    ledger.fold([TROUBLE], after(ENDS_AFTER.total_seconds() - 1))
    assert state(ledger) is OperationState.IN_PROGRESS
    ledger.fold([TROUBLE], after(ENDS_AFTER.total_seconds()))
    job = ledger.job(JOB)
    assert job is not None
    assert (state(ledger), job.error_code, job.error_message) == (OperationState.FAILED, "UNREACHABLE", TROUBLE.why)
    assert ledger.board() == {JOB: "over"}, "its tasks are dropped"


def test_a_job_whose_only_object_is_at_work_elsewhere_is_not_ended_by_the_one_worker_that_is_cut_off(ledger: PoolLedger) -> None:
    """A TiB at one worker takes hours, and the other one has no credentials, and says so every ten seconds."""
    begun(ledger).fold([listed("r", 1, 2)], NOW)
    for seconds in range(60, 3600, 10):
        ledger.fold([TROUBLE], after(seconds))
    assert (state(ledger), troubled(ledger)) == (OperationState.IN_PROGRESS, (TROUBLE.code, TROUBLE.why))
    ledger.fold([copied("r", 0)], after(3600))
    assert (state(ledger), troubled(ledger)) == (OperationState.SUCCESS, None)


def test_a_job_that_was_listed_ends_when_what_was_tried_failed_alike(ledger: PoolLedger) -> None:
    denied = replace(TROUBLE, code="PERMISSION_DENIED")
    begun(ledger).fold([listed("r", 9, 18), copied("r", 0, done=0, failed=2)], NOW)
    ledger.fold([denied], after(60))
    ledger.fold([denied], after(60 + ENDS_AFTER.total_seconds()))
    job = ledger.job(JOB)
    assert job is not None
    assert (state(ledger), job.error_code) == (OperationState.FAILED, "PERMISSION_DENIED")


def test_a_job_that_has_got_somewhere_waits_and_says_for_what_until_it_goes_on(ledger: PoolLedger) -> None:
    begun(ledger).fold([listed("r", 2, 4), copied("r", 0)], NOW)
    ledger.fold([TROUBLE], after(60))
    ledger.fold([TROUBLE], after(3600))
    assert (state(ledger), troubled(ledger)) == (OperationState.IN_PROGRESS, (TROUBLE.code, TROUBLE.why))
    ledger.fold([copied("r", 1)], after(3601))
    assert (state(ledger), troubled(ledger)) == (OperationState.SUCCESS, None)


def test_what_one_worker_meets_while_others_get_on_is_its_own(ledger: PoolLedger) -> None:
    begun(ledger).fold([listed("r", 3, 6), copied("r", 0)], NOW)
    ledger.fold([TROUBLE], after(WELL_FOR.total_seconds() - 1))
    assert troubled(ledger) is None
    ledger.fold([TROUBLE], after(WELL_FOR.total_seconds()))
    assert troubled(ledger) is not None
    ledger.fold([copied("r", 1), TROUBLE], after(WELL_FOR.total_seconds() + 1))
    assert troubled(ledger) is None
    ledger.fold([replace(copied("r", 2, done=0, failed=2))], after(99))
    assert troubled(ledger) is None


def test_the_keeper_says_once_that_there_is_news(ledger: PoolLedger) -> None:
    queues, clock = memory_queues(), FakeClock()
    begun(ledger)
    keeper = PoolKeeper(queues, ledger, clock)

    def news_of(*reports: Report) -> bool:
        keeper.news = False
        queues.reports.publish([encoded(one) for one in reports])
        keeper.fold_reports()
        return keeper.news

    assert not news_of(copied("r", 0))
    clock.advance(WELL_FOR.total_seconds())
    assert news_of(TROUBLE)
    assert not news_of(*[TROUBLE] * 3), "a hundred workers say it every ten seconds: a pass for each would never end"
    assert news_of(replace(TROUBLE, code="UNAUTHENTICATED"))
    assert news_of(ListFailed(job=JOB, shard=ROOT, code="PERMISSION_DENIED", why="s3:ListBucket")), (
        "it has ended: a place is free"
    )
