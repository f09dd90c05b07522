"""Whatever ends a probe, what it made is removed: by itself where it lives, by the next one where it was killed."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import stat
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sts_manager.cli.probe_options import ProbeOptions
from sts_manager.doctor.probe import transfers
from sts_manager.doctor.probe.cleaning import clean_earlier
from sts_manager.doctor.probe.observation import Outcome
from sts_manager.doctor.probe.record import MARKER, ProbeRecord, RecordFile, make_id
from sts_manager.doctor.probe.run import LATE_S
from sts_manager.domain.errors import BadInput, Fatal
from tests.end_to_end.commands import BUCKETS, Shell
from tests.probes import OBJECTS, Death, Hours, Killed, Probing, deadly, outcomes, remains, rows
from tests.proofs import sized
from tests.stages import SINK, SOURCE, fill, gcs_client, s3_client, wait_for
from tools.emulators.stage import PROJECT, Stage

BIGQUERY = {"store": "bigquery"}
CALLS = 150
"""That a whole probe makes at least."""


@pytest.fixture
def probing(stage: Stage, tmp_path: Path) -> Probing:
    fill(stage, OBJECTS)
    made = Probing(stage, tmp_path, dict(BIGQUERY), ProbeOptions(write_source=True))
    made.prepare_store()
    return made


def next_probe(probing: Probing) -> None:
    """What the next probe does first: it knows the dead one by the record on this machine, and removes what that left."""
    with probing.context() as context, probing.file.locked():
        assert clean_earlier(context, probing.file, probing.told.append) == []


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, CALLS, sized(12, 1)))
def test_killed_at_any_call_the_next_one_cleans_up(stage: Stage, probing: Probing, at: int, before: bool) -> None:
    death = Death(at, before)
    with pytest.raises(Killed):
        probing.run(deadly(death))
    assert len(death.calls) >= at
    next_probe(probing)
    assert remains(stage) == []
    assert probing.file.records() == []


@pytest.mark.slow
def test_a_whole_probe_has_that_many_calls_and_what_the_next_one_removes_is_real(stage: Stage, probing: Probing) -> None:
    death = Death(10**6)
    probing.run(deadly(death))
    assert len(death.calls) > CALLS
    death = Death(len(death.calls) // 2)
    with pytest.raises(Killed):
        probing.run(deadly(death))
    left = remains(stage)
    assert any(one.startswith("gs: ") for one in left)
    assert any(one.startswith("s3: ") for one in left)
    report = probing.run()
    assert report.left_behind == ()
    assert remains(stage) == []


@pytest.mark.parametrize("at", [5, 40, 80, 120])
def test_a_probe_that_is_interrupted_cleans_up_itself(stage: Stage, probing: Probing, at: int) -> None:
    interrupting = Interrupt(at)
    with pytest.raises(KeyboardInterrupt):
        probing.run(deadly(interrupting))
    assert remains(stage) == []
    assert probing.file.records() == []


class Interrupt(Death):
    """Ctrl-C at one call: those that follow are made."""

    def call(self, name: str, function: Any, /, *args: Any, **more: Any) -> Any:
        self.calls.append(name)
        if len(self.calls) == self.at:
            raise KeyboardInterrupt
        return function(*args, **more)


class CutOff(Death):
    """Ctrl-C while a transfer job is being created: the service creates it a moment later, all the same."""

    def __init__(self) -> None:
        super().__init__(0)
        self.late: list[Any] = []

    def call(self, name: str, function: Any, /, *args: Any, **more: Any) -> Any:
        if name == "create" and not self.late and "-no-" not in args[0].name:
            self.late.append(partial(function, *args, **more))
            raise KeyboardInterrupt
        return function(*args, **more)


class CarriedOutLate(Hours):
    """Hours in which, once the interrupted probe waits, the call that was cut off is carried out."""

    def __init__(self, cut_off: CutOff) -> None:
        super().__init__()
        self._cut_off = cut_off

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if seconds == LATE_S and len(self._cut_off.late) == 1:
            self._cut_off.late.append(self._cut_off.late[0]())


def test_what_a_call_that_was_cut_off_makes_afterwards_is_removed_too(stage: Stage, probing: Probing) -> None:
    cut_off = CutOff()
    probing.hours = CarriedOutLate(cut_off)
    with pytest.raises(KeyboardInterrupt):
        probing.run(deadly(cut_off))
    assert len(cut_off.late) == 2, "it was carried out"
    assert remains(stage) == []
    assert probing.file.records() == []


def test_killed_while_cleaning_the_marker_is_the_last_to_go(stage: Stage, probing: Probing) -> None:
    with pytest.raises(Killed):
        probing.run(deadly(Death(120)))
    assert len(remains(stage)) > 10
    deaths = 0
    for at in itertools.count(1, 2):
        with probing.context(deadly(Death(at))) as context, probing.file.locked():
            try:
                assert clean_earlier(context, probing.file, probing.told.append) == []
                break
            except Killed:
                deaths += 1
        left = remains(stage)
        assert not left or any(one.endswith(MARKER) for one in left), left
        assert probing.file.records()
    assert deaths > 5
    assert remains(stage) == []


def lose_record(probing: Probing) -> ProbeRecord:
    """The machine that probed is gone, and its record with it."""
    (record,) = probing.file.records()
    (probing.folder / "probes.jsonl").unlink()
    return record


def test_what_another_machine_left_is_found_by_its_marker_once_it_is_old(stage: Stage, probing: Probing) -> None:
    with pytest.raises(Killed):
        probing.run(deadly(Death(110)))
    record = lose_record(probing)
    before = remains(stage)
    next_probe(probing)
    assert remains(stage) == before, "it may still run"
    assert any(record.id in one and "left alone" in one for one in probing.told)
    probing.hours = Hours(ahead=timedelta(hours=2))
    next_probe(probing)
    assert remains(stage) == []


def test_without_a_readable_marker_the_id_tells_how_old_it_is(stage: Stage, probing: Probing) -> None:
    with pytest.raises(Killed):
        probing.run(deadly(Death(60)))
    record = lose_record(probing)
    with gcs_client(stage) as client:
        client.bucket(SINK).blob(f"{record.path}{MARKER}").upload_from_string("what is this")
    probing.hours = Hours(ahead=timedelta(hours=2))
    next_probe(probing)
    assert remains(stage) == []


def test_a_marker_that_somebody_forged_removes_nothing_else(stage: Stage, probing: Probing) -> None:
    probe = make_id(datetime.now(UTC) - timedelta(days=1), "0a0a0a")
    forged = {
        "id": probe,
        "began_at": (datetime.now(UTC) - timedelta(days=1)).isoformat(),
        "project": PROJECT,
        "destination": "gs://another-bucket",
        "source": f"s3://{SOURCE}/p/",
        "dataset": f"{PROJECT}.data_migration",
    }
    with gcs_client(stage) as client:
        client.create_bucket("another-bucket").blob(f".sts-manager/probe-{probe}/x").upload_from_string("theirs")
        client.bucket(SINK).blob(f".sts-manager/probe-{probe}/{MARKER}").upload_from_string(json.dumps(forged))
        client.bucket(SINK).blob(f".sts-manager/probes-of-mine/{MARKER}").upload_from_string(json.dumps(forged))
        next_probe(probing)
        assert [blob.name for blob in client.list_blobs("another-bucket")] == [f".sts-manager/probe-{probe}/x"]
        assert [blob.name for blob in client.list_blobs(SINK)] == [f".sts-manager/probes-of-mine/{MARKER}"]
    with s3_client(stage) as client:
        assert {one["Key"] for one in client.list_objects_v2(Bucket=SOURCE)["Contents"]} == set(OBJECTS)
    assert stage.bigquery is not None
    assert "sts_job" in stage.bigquery.catalog.datasets["data_migration"].tables


def test_what_cannot_be_removed_is_told_kept_in_mind_and_removed_later(stage: Stage, probing: Probing) -> None:
    stage.ledger.add_rule({"service": "gcs", "method": "objects.delete", "error": "FORBIDDEN", "times": 0})
    report = probing.run()
    assert report.failed
    assert any("objects under gs://sink-bucket/.sts-manager/probe-" in one for one in report.left_behind)
    assert len(probing.file.records()) == 1
    assert all(one.startswith("gs: ") for one in remains(stage)), "all else is removed all the same"
    stage.ledger.rules.clear()
    assert probing.run().left_behind == ()
    assert remains(stage) == []


def test_a_probe_of_another_project_is_not_touched(stage: Stage, probing: Probing) -> None:
    with pytest.raises(Killed):
        probing.run(deadly(Death(100)))
    (record,) = probing.file.records()
    probing.file.remove(record)
    probing.file.add(replace(record, project="another-project"))
    before = remains(stage)
    report = probing.run()
    assert remains(stage) == before
    assert any("ran in project another-project" in one for one in probing.told)
    assert report.left_behind == (), "that is no matter of this probe"
    assert len(probing.file.records()) == 1, "and it is kept in mind"


def test_a_scratch_table_without_its_store_is_told(stage: Stage, probing: Probing) -> None:
    probe = ProbeRecord(
        id=make_id(datetime.now(UTC), "0a0a0a"),
        began_at=datetime.now(UTC).isoformat(),
        project=PROJECT,
        destination=f"gs://{SINK}",
        dataset=f"{PROJECT}.data_migration",
    )
    probing.flags = {}
    probing.file.add(probe)
    report = probing.run()
    assert any("run the probe with the --store of that time" in one for one in report.left_behind)
    assert probing.file.records() == [probe]


@pytest.mark.parametrize("field", ["source", "dataset", "destination", "transfers"])
def test_a_marker_with_nonsense_in_it_stops_no_probe(stage: Stage, probing: Probing, field: str) -> None:
    record = ProbeRecord(
        id=make_id(datetime.now(UTC) - timedelta(days=1), "0a0a0a"),
        began_at=datetime.now(UTC).isoformat(),
        project=PROJECT,
        destination=f"gs://{SINK}",
    )
    text = json.dumps(asdict(record) | {field: {"no": "text"}})
    with gcs_client(stage) as client:
        client.bucket(SINK).blob(f"{record.path}{MARKER}").upload_from_string(text)
    next_probe(probing)
    assert remains(stage) == [], "the id tells that it is old"


def test_a_listing_that_fails_leaves_the_probe_to_go_on_and_is_told(stage: Stage, probing: Probing) -> None:
    stage.ledger.add_rule({"service": "gcs", "method": "objects.list", "error": "UNAVAILABLE", "times": 1})
    report = probing.run()
    assert any("nobody knows what other machines' probes left" in one for one in report.left_behind)
    assert len(report.observations) > 30
    assert remains(stage) == []


def test_a_table_that_could_not_be_made_need_not_be_dropped(stage: Stage, probing: Probing) -> None:
    stage.ledger.change({"iam.denied": ["bigquery.tables.create", "bigquery.tables.delete"]})
    report = probing.run()
    assert report.left_behind == ()
    assert outcomes(report)["BigQuery"] is Outcome.UNSETTLED
    assert "bigquery.tables.create" in rows(report)["BigQuery"].observed


def test_a_source_that_may_not_be_written_to_is_told_and_the_rest_goes_on(stage: Stage, probing: Probing) -> None:
    stage.ledger.add_rule({"service": "s3", "method": "PutObject", "error": "AccessDenied", "times": 0})
    report = probing.run()
    assert "grant s3:PutObject" in rows(report)["source: written to"].meaning
    assert outcomes(report)[transfers.RESULT] is Outcome.AGREES
    assert remains(stage) == []


def test_a_service_that_is_off_is_told_and_nothing_is_left_there(stage: Stage, probing: Probing) -> None:
    stage.ledger.change({"apis.disabled": ["storagetransfer.googleapis.com"]})
    report = probing.run()
    assert "disabled" in rows(report)["transfers"].observed
    assert report.left_behind == ()
    assert probing.file.records() == []


# The record


def test_a_record_is_private_and_gone_when_nothing_is_left(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "probes.jsonl")
    one = ProbeRecord(id="20261103t101500-abcdef", began_at="2026-11-03T10:15:00+00:00", project="p", destination="gs://b")
    two = replace(one, id="20261103t101501-abcdef")
    file.add(one)
    file.add(two)
    assert file.records() == [one, two]
    assert stat.S_IMODE((tmp_path / "probes.jsonl").stat().st_mode) == 0o600
    file.remove(one)
    assert file.records() == [two]
    file.remove(two)
    assert not (tmp_path / "probes.jsonl").exists()


@pytest.mark.parametrize("text", ["{}", "nonsense", '{"id": "../../x", "began_at": "2026-11-03T10:15:00+00:00"}', "[]"])
def test_a_record_that_is_none_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "probes.jsonl").write_text(text)
    with pytest.raises(BadInput, match=r"probes\.jsonl is no record of probes"):
        RecordFile(tmp_path / "probes.jsonl").records()


def _hold(path: Path, ready: Any, done: Any) -> None:
    with RecordFile(path).locked():
        ready.set()
        done.wait(30)


def test_two_probes_of_one_machine_exclude_each_other(stage: Stage, probing: Probing) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(probing.folder / "probes.jsonl", ready, done))
    other.start()
    try:
        assert ready.wait(30)
        with pytest.raises(BadInput, match="another probe runs on this machine"):
            probing.run()
    finally:
        done.set()
        other.join(30)
    assert remains(stage) == []


def test_a_record_that_cannot_be_written_stops_the_probe_before_it_begins(stage: Stage, probing: Probing) -> None:
    probing.folder = Path("/proc/nowhere")
    probing.flags = {"store": f"sqlite:///{Path('/proc/nowhere')}/store.db"}
    with pytest.raises(BadInput, match="cannot be written"):
        probing.run()
    assert remains(stage) == []


def test_a_bucket_that_takes_nothing_is_fatal_and_leaves_nothing(stage: Stage, probing: Probing) -> None:
    stage.ledger.add_rule({"service": "gcs", "method": "xml.put", "error": "FORBIDDEN", "times": 0})
    with pytest.raises(Fatal, match=r"storage\.objects\.create is needed"):
        probing.run()
    assert remains(stage) == []
    assert probing.file.records() == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_and_it_cleans_up(stage: Stage, tmp_path: Path, number: int) -> None:
    fill(stage, OBJECTS)
    stage.ledger.change({"sts.objects_per_second": 0.01})
    shell = Shell(tmp_path, stage.environment)
    with shell.started("doctor", *BUCKETS, "--probe", "--yes") as process:
        wait_for(lambda: bool(stage.ledger.calls["sts", "RunTransferJob"]))
        os.kill(process.pid, number)
        assert process.wait(timeout=60) == 3
        assert process.stderr is not None
        assert "interrupted" in process.stderr.read()
    assert remains(stage) == []
