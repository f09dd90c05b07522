"""Before a probe writes anything: what is in the way is named, and without consent nothing is done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sts_manager.cli import probe as probe_wiring
from sts_manager.cli.probe_options import ProbeOptions
from sts_manager.doctor.probe import monitoring, transfers
from sts_manager.doctor.probe.observation import Outcome
from sts_manager.domain.errors import BadInput, Fatal
from tests.end_to_end.commands import BUCKETS, Shell
from tests.probes import OBJECTS, Probing, outcomes, remains, rows
from tests.stages import SINK, fill
from tools.emulators.stage import Stage

WRITES = {
    ("gcs", "xml.put"),
    ("gcs", "objects.insert"),
    ("gcs", "objects.delete"),
    ("sts", "CreateTransferJob"),
    ("sts", "DeleteTransferJob"),
    ("s3", "PutObject"),
    ("monitoring", "CreateTimeSeries"),
    ("monitoring", "CreateAlertPolicy"),
    ("bigquery", "tables.insert"),
}


@pytest.fixture
def probing(stage: Stage, tmp_path: Path) -> Probing:
    fill(stage, OBJECTS)
    stage.ledger.calls.clear()
    return Probing(stage, tmp_path)


def nothing_was_done(stage: Stage, probing: Probing) -> None:
    assert not WRITES & set(stage.ledger.calls)
    assert remains(stage) == []
    assert probing.file.records() == []


def kept(**resource: Any) -> dict[str, Any]:
    return {"gcs.buckets": {SINK: resource}}


IN_THE_WAY = [
    ({"iam.denied": ["storage.objects.create"]}, r"storage\.objects\.create missing .* grant roles/storage\.objectUser"),
    ({"iam.denied": ["storage.objects.delete"]}, r"storage\.objects\.delete missing"),
    (kept(retentionPolicy={"retentionPeriod": "3600", "isLocked": True}), r"retention policy of 3,600 s, and is locked"),
    (kept(defaultEventBasedHold=True), "event-based hold"),
]


@pytest.mark.parametrize(("changed", "told"), IN_THE_WAY)
def test_what_is_in_the_way_is_named_before_anything_is_written(
    stage: Stage, probing: Probing, changed: dict[str, Any], told: str
) -> None:
    stage.ledger.change(changed)
    with pytest.raises(Fatal, match=told):
        probe_wiring.probe(probing.settings(), ProbeOptions(yes=True, report=probing.folder / "r.json"), Console())
    nothing_was_done(stage, probing)


NO_CDN = {"cdn_url": None, "cdn_key_pair_id": None, "cdn_private_key_file": None}
WRONG: list[tuple[dict[str, Any], ProbeOptions, type[Exception], str]] = [
    ({"source_bucket": "s3://no-such-source"}, ProbeOptions(), Fatal, "s3://no-such-source does not exist: mend --source-bucket"),
    (
        NO_CDN | {"source_bucket": "gs://no-such-source"},
        ProbeOptions(),
        Fatal,
        "gs://no-such-source does not exist: mend --source-bucket",
    ),
    ({"cdn_private_key_file": "no-such.pem"}, ProbeOptions(), BadInput, r"--cdn-private-key-file no-such\.pem cannot be read"),
    ({}, ProbeOptions(kms_key="k"), BadInput, r"--probe-kms-key 'k' is no name .* projects/PROJECT/locations/"),
]


@pytest.mark.parametrize(("flags", "options", "error", "told"), WRONG)
def test_a_wrong_flag_is_named_before_anything_is_written(
    stage: Stage, probing: Probing, flags: dict[str, Any], options: ProbeOptions, error: type[Exception], told: str
) -> None:
    probing.flags = flags
    with pytest.raises(error, match=told):
        probe_wiring.probe(probing.settings(), replace(options, yes=True, report=probing.folder / "r.json"), Console())
    nothing_was_done(stage, probing)


def test_a_source_that_may_not_be_looked_at_is_no_reason_to_end(stage: Stage, probing: Probing) -> None:
    probing.flags = {"publish_heartbeat": False}
    stage.ledger.add_rule({"service": "s3", "method": "HeadBucket", "error": "AccessDenied", "times": 0})
    assert probe_wiring.probe(probing.settings(), ProbeOptions(yes=True, report=probing.folder / "r.json"), Console())


def test_a_bucket_that_may_not_be_looked_at_is_refused(stage: Stage, probing: Probing) -> None:
    stage.ledger.add_rule({"service": "gcs", "method": "buckets.get", "error": "FORBIDDEN", "times": 0})
    with pytest.raises(Fatal, match=r"storage\.buckets\.get is needed"):
        probing.run()
    nothing_was_done(stage, probing)


def test_a_bucket_that_does_not_exist_is_refused(stage: Stage, probing: Probing) -> None:
    probing.flags = {"destination_bucket": "gs://no-such-bucket"}
    with pytest.raises(Fatal, match="gs://no-such-bucket does not exist"):
        probing.run()
    nothing_was_done(stage, probing)


def test_a_transfer_that_could_not_be_removed_is_not_made(stage: Stage, probing: Probing) -> None:
    stage.ledger.change({"iam.denied": ["storagetransfer.jobs.delete"]})
    report = probing.run()
    assert "storagetransfer.jobs.delete missing" in rows(report)["transfers"].observed
    assert "roles/storagetransfer.admin" in rows(report)["transfers"].observed
    assert transfers.RESULT not in outcomes(report)
    assert ("sts", "CreateTransferJob") not in stage.ledger.calls
    assert report.failed
    assert report.left_behind == ()
    assert outcomes(report)[monitoring.POINTS] is Outcome.AGREES


def test_policies_that_could_not_be_removed_are_not_made(stage: Stage, probing: Probing) -> None:
    stage.ledger.change({"iam.denied": ["monitoring.alertPolicies.delete"]})
    report = probing.run()
    assert "monitoring.alertPolicies.delete missing" in rows(report)["Monitoring"].observed
    assert ("monitoring", "CreateAlertPolicy") not in stage.ledger.calls
    assert report.left_behind == ()


def test_a_no_is_a_no(stage: Stage, probing: Probing, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []

    def refuse(question: str) -> bool:
        asked.append(question)
        return False

    with pytest.raises(BadInput, match="nothing was done"):
        probe_wiring.probe(probing.settings(), ProbeOptions(report=probing.folder / "r.json"), Console(), refuse)
    assert asked == ["Go on?"]
    told = " ".join(capsys.readouterr().err.split())
    for wanted in ("objects under gs://sink-bucket/.sts-manager/probe-", "transfer jobs", "alert policies", "It costs about $"):
        assert wanted in told, "it says what it makes, and what that costs, before it asks"
    nothing_was_done(stage, probing)
    assert not (probing.folder / "r.json").exists()


def test_a_report_that_cannot_be_written_is_known_before_anything_is_done(stage: Stage, probing: Probing) -> None:
    for path in (probing.folder, probing.folder / "no-such-folder" / "r.json"):
        with pytest.raises(BadInput, match="--probe-report"):
            probe_wiring.probe(probing.settings(), ProbeOptions(yes=True, report=path), Console())
    nothing_was_done(stage, probing)


def test_only_s3_is_written_to(stage: Stage, probing: Probing) -> None:
    probing.flags = {"source_bucket": "gs://else", "cdn_url": None, "cdn_key_pair_id": None, "cdn_private_key_file": None}
    with pytest.raises(BadInput, match="--probe-source-write is for an S3 source"):
        probe_wiring.probe(probing.settings(), ProbeOptions(yes=True, write_source=True), Console())
    nothing_was_done(stage, probing)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--probe"], "give --yes to agree"),
        (["--yes"], "--yes goes with --probe"),
        (["--probe-report", "x.json"], "--probe-report goes with --probe"),
        (["--probe", "--yes", "--prefix", "p/"], "--prefix looks through a listing"),
    ],
)
def test_without_a_terminal_and_without_consent_the_command_ends_with_2(
    stage: Stage, probing: Probing, words: list[str], told: str
) -> None:
    ran = Shell(probing.folder, stage.environment).run("doctor", *BUCKETS, *words)
    assert (ran.code, told in ran.err) == (2, True), ran.err
    nothing_was_done(stage, probing)


@pytest.mark.slow
def test_what_is_in_the_way_ends_the_command_with_3(stage: Stage, probing: Probing) -> None:
    stage.ledger.change(kept(retentionPolicy={"retentionPeriod": "3600"}))
    ran = Shell(probing.folder, stage.environment).run("doctor", *BUCKETS, "--probe", "--yes")
    assert (ran.code, "retention policy" in ran.err) == (3, True), ran.err
    nothing_was_done(stage, probing)
