"""`doctor --probe` against the stage: all as expected, and each contradicting answer that the stage can give."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sts_manager.cli.probe_options import ProbeOptions
from sts_manager.doctor.probe import bigquery as bigquery_probe
from sts_manager.doctor.probe import cloudfront, creates, monitoring, s3, transfers, uploads, url_lists
from sts_manager.doctor.probe.observation import Outcome
from sts_manager.doctor.probe.source import OWNER
from sts_manager.doctor.probe.transfer_log import LOG
from tests.end_to_end.commands import BUCKETS, Shell
from tests.end_to_end.test_pool import cdn_flags
from tests.probes import OBJECTS, Probing, contradicted, outcomes, remains, rows
from tests.stages import SOURCE, at_sink, fill, gcs_client, s3_client
from tools.emulators.stage import PROJECT, Stage

DOCUMENT = Path(__file__).parents[2] / "docs" / "probe.md"
BIGQUERY = {"store": "bigquery", "dataset_location": "europe-west1"}
ROLE = "arn:aws:iam::123456789012:role/stage-reader"


@pytest.fixture
def probing(stage: Stage, tmp_path: Path) -> Probing:
    fill(stage, OBJECTS)
    return Probing(stage, tmp_path)


def test_a_stage_as_expected_contradicts_nothing(stage: Stage, probing: Probing) -> None:
    probing.flags = BIGQUERY | {"s3_role_arn": ROLE}
    probing.prepare_store()
    before = at_sink(stage)
    report = probing.run()
    assert contradicted(report) == set()
    assert not report.failed
    assert report.left_behind == ()
    assert remains(stage) == []
    assert at_sink(stage) == before
    looked = {subject for subject, outcome in outcomes(report).items() if outcome is not Outcome.LEFT_OUT}
    wanted = {uploads.PUT, uploads.SESSION, uploads.METADATA, uploads.LISTING, uploads.MOVE, uploads.PATCH, uploads.DELETE}
    wanted |= {creates.NO_DESTINATION, creates.NO_SOURCE, creates.NO_ROLE, *transfers.FIRST, transfers.MANIFEST, transfers.FOLDER}
    wanted |= {LOG, *url_lists.ALL, *bigquery_probe.ALL, monitoring.POINTS, monitoring.REGION, monitoring.POLICIES}
    wanted |= {s3.PAYER, cloudfront.HEAD, cloudfront.RANGE, cloudfront.MATCH}
    wanted -= {transfers.CARRIED}  # it takes an object of the probe's own at the source
    assert wanted <= looked
    answers = report.answers
    assert (answers["transfer"], answers["url_list_names"], answers["url_list_md5"]) == ("succeeded", "decoded", "optional")
    assert (answers["missing_object_ends"], answers["monitoring_location"]) == ("FAILED", "taken")


def test_the_source_may_be_cloud_storage(stage: Stage, probing: Probing) -> None:
    with gcs_client(stage) as client:
        client.create_bucket("gcs-source")
        client.bucket("gcs-source").blob("p/1").upload_from_string(b"one")
    given = {"cdn_url": None, "cdn_key_pair_id": None, "cdn_private_key_file": None}
    probing.flags = given | {"source_bucket": "gs://gcs-source", "publish_heartbeat": False}
    report = probing.run()
    assert not report.failed, contradicted(report)
    assert outcomes(report)[transfers.RESULT] is Outcome.AGREES
    assert outcomes(report)[transfers.COPY] is Outcome.NOTED, "a Cloud Storage source has no ETag to be recorded"
    assert outcomes(report)[monitoring.POINTS] is Outcome.LEFT_OUT
    assert remains(stage) == []


def test_what_may_be_written_to_the_source_is_written_and_removed(stage: Stage, probing: Probing) -> None:
    probing.options = ProbeOptions(write_source=True)
    with s3_client(stage) as client:
        client.put_bucket_versioning(Bucket=SOURCE, VersioningConfiguration={"Status": "Enabled"})
    report = probing.run()
    for kind in (*cloudfront.KINDS.values(), cloudfront.UNICODE):
        assert rows(report)[f"{cloudfront.NAMES} with {kind}"].outcome is Outcome.AGREES
    assert rows(report)[s3.METADATA].outcome is Outcome.AGREES
    assert "as an encoded word (RFC 2047)" in rows(report)[s3.METADATA].observed
    assert repr(OWNER) in rows(report)[s3.METADATA].observed
    assert (rows(report)[transfers.CARRIED].outcome, report.answers["metadata_not_ascii"]) == (Outcome.NOTED, "encoded")
    assert not report.failed, contradicted(report)
    assert remains(stage) == [], "versions and delete markers, too"


class Headers:
    """An S3 client whose answers to HEAD have other headers."""

    def __init__(self, client: Any, change: Callable[[dict[str, str]], None]) -> None:
        self._client, self._change = client, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def head_object(self, **given: Any) -> Any:
        answer = self._client.head_object(**given)
        self._change(answer["ResponseMetadata"]["HTTPHeaders"])
        return answer


def withhold_metadata(headers: dict[str, str]) -> None:
    """As S3 does where it cannot show a value."""
    if headers.pop("x-amz-meta-owner", None):
        headers["x-amz-missing-meta"] = "1"


def garble_metadata(headers: dict[str, str]) -> None:
    if "x-amz-meta-owner" in headers:
        headers["x-amz-meta-owner"] = "Zo? ??"


@pytest.mark.parametrize("change", [withhold_metadata, garble_metadata])
def test_metadata_that_s3_shows_otherwise_is_named(
    stage: Stage, probing: Probing, change: Callable[[dict[str, str]], None]
) -> None:
    probing.options = ProbeOptions(write_source=True)
    report = probing.run(lambda clients: replace(clients, s3=Headers(clients.s3, change)))
    assert contradicted(report) == {s3.METADATA}
    assert remains(stage) == []


def fault(service: str, method: str, error: str, **more: Any) -> dict[str, Any]:
    return {"service": service, "method": method, "error": error, "times": 0} | more


SETTINGS: list[tuple[str, dict[str, Any], set[str]]] = [
    ("names with a query", {"sts.url_list_names": "query"}, {url_lists.NAMES}),
    ("rows need an MD5", {"sts.url_list_md5_required": "row"}, {url_lists.NO_MD5}),
    ("lists need an MD5 in each row", {"sts.url_list_md5_required": "list"}, {url_lists.NO_MD5}),
    ("deleted names are free", {"sts.deleted_names": "free"}, {transfers.REUSED}),
    ("a missing name is no failure", {"sts.manifest_missing": "ignored"}, {transfers.MANIFEST}),
    ("points too often", {"monitoring.sampling_seconds": 3600}, {monitoring.POINTS, monitoring.REGION}),
    ("the requester pays", {"s3.requester_pays": [SOURCE]}, {s3.PAYER}),
]


@pytest.mark.parametrize(("changed", "wanted"), [one[1:] for one in SETTINGS], ids=[one[0] for one in SETTINGS])
def test_each_contradicting_answer_is_named(stage: Stage, probing: Probing, changed: dict[str, Any], wanted: set[str]) -> None:
    probing.flags = BIGQUERY
    probing.prepare_store()
    stage.ledger.change(changed)
    report = probing.run()
    assert contradicted(report) == wanted
    assert report.failed
    assert all(rows(report)[one].meaning for one in wanted), "it says what that means"
    assert remains(stage) == []


FAULTS: list[tuple[str, dict[str, Any], set[str]]] = [
    ("a second PUT is refused otherwise", fault("gcs", "xml.put", "BAD_REQUEST", after=2, times=1), {uploads.AGAIN}),
    ("a move is not allowed", fault("gcs", "objects.move", "BAD_REQUEST"), {uploads.MOVE}),
    ("a patch fails", fault("gcs", "objects.patch", "GONE"), {uploads.PATCH}),
    ("a delete fails once", fault("gcs", "objects.delete", "GONE", times=1), {uploads.DELETE}),
    ("the CDN changes the ETag", fault("cdn", "GET", "CHANGED_ETAG"), {"CDN: signature SHA1", "CDN: name with a percent sign",
     "CDN: name with a space"}),
    ("the CDN answers whole for a part", fault("cdn", "GET", "WHOLE"), {cloudfront.RANGE}),
    ("the CDN takes no HEAD", fault("cdn", "HEAD", "FORBIDDEN"), {cloudfront.HEAD, url_lists.TAKEN}),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "wanted"), [one[1:] for one in FAULTS], ids=[one[0] for one in FAULTS])
def test_a_service_that_answers_otherwise_is_named(
    stage: Stage, probing: Probing, rule: dict[str, Any], wanted: set[str]
) -> None:
    probing.flags = {"publish_heartbeat": False}
    stage.ledger.add_rule(rule)
    report = probing.run()
    assert contradicted(report) == wanted
    assert remains(stage) == []


def test_the_key_may_be_an_elliptic_curve(stage: Stage, probing: Probing) -> None:
    pem = Path(stage.environment["CDN_PRIVATE_KEY_FILE"])
    curve = str(pem.with_name(f"{pem.stem}EC.pem"))
    probing.flags = {"cdn_key_pair_id": f"{stage.environment['CDN_KEY_PAIR_ID']}EC", "cdn_private_key_file": curve}
    probing.flags |= {"cdn_digest": "SHA256", "publish_heartbeat": False}
    report = probing.run()
    assert rows(report)["CDN: signature SHA256"].outcome is Outcome.AGREES
    assert rows(report)["CDN: signature SHA1"].outcome is Outcome.NOTED
    assert not report.failed


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "ABORTED", "UNKNOWN"])
def test_a_create_whose_refusal_the_daemon_misreads_is_named(stage: Stage, probing: Probing, code: str) -> None:
    stage.ledger.add_rule(fault("sts", "CreateTransferJob", code, times=2, message="no such bucket"))
    report = probing.run()
    assert contradicted(report) >= {creates.NO_DESTINATION, creates.NO_SOURCE}
    assert code in rows(report)[creates.NO_DESTINATION].observed
    assert report.answers["create_code_no_such_destination"] == code


def test_buckets_that_are_looked_at_late_are_noted(stage: Stage, probing: Probing) -> None:
    stage.ledger.change({"sts.buckets_checked_at": "run"})
    report = probing.run()
    assert rows(report)[creates.NO_DESTINATION].outcome is Outcome.NOTED
    assert report.answers["create_code_no_such_destination"] == "CREATED"
    assert remains(stage) == [], "the job that was created is deleted"


def test_a_script_without_rows_is_safe_and_noted(stage: Stage, probing: Probing) -> None:
    probing.flags = BIGQUERY
    probing.prepare_store()
    stage.ledger.change({"bigquery.script_answers": False, "bigquery.dml_seconds": 0.3})
    report = probing.run()
    assert rows(report)[bigquery_probe.SCRIPT].outcome is Outcome.NOTED
    assert rows(report)[bigquery_probe.CONFLICT].outcome is Outcome.AGREES
    assert "Could not serialize" in rows(report)[bigquery_probe.CONFLICT].observed or "concurrent" in (
        rows(report)[bigquery_probe.CONFLICT].observed
    )


def test_a_transfer_that_cannot_begin_is_unsettled_and_stops_no_other_part(stage: Stage, probing: Probing) -> None:
    stage.ledger.add_rule(fault("sts", "RunTransferJob", "PERMISSION_DENIED", message="the agent may not"))
    report = probing.run()
    assert outcomes(report)[transfers.RESULT] is Outcome.UNSETTLED
    assert "the agent may not" in rows(report)[transfers.RESULT].observed
    assert report.answers["transfer"] == "failed"
    assert outcomes(report)[cloudfront.HEAD] is Outcome.AGREES
    assert report.failed
    assert remains(stage) == []


def test_a_part_that_meets_an_unexpected_error_is_told_and_stops_no_other(stage: Stage, probing: Probing) -> None:
    stage.ledger.add_rule(fault("s3", "HeadObject", "AccessDenied"))
    report = probing.run()
    assert outcomes(report)["S3"] is Outcome.UNSETTLED
    assert outcomes(report)[monitoring.POINTS] is Outcome.AGREES


def test_a_machine_without_aws_credentials_probes_the_rest(
    stage: Stage, probing: Probing, monkeypatch: pytest.MonkeyPatch
) -> None:
    probing.flags = {"s3_role_arn": ROLE}
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    report = probing.run()
    assert "no AWS credentials" in rows(report)[transfers.RESULT].observed
    assert outcomes(report)[creates.NO_ROLE] is Outcome.AGREES
    assert not report.failed


# The command


def command(stage: Stage, folder: Path, *words: str) -> Any:
    return Shell(folder, stage.environment).run("doctor", *BUCKETS, *cdn_flags(stage), "--probe", *words)


@pytest.mark.slow
def test_the_command_tells_reports_and_keeps_what_it_found(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    shell = Shell(tmp_path, stage.environment)
    shell.run("prepare-tables")
    ran = command(stage, tmp_path, "--yes", "--probe-report", "report.json")
    assert ran.code == 0, ran.err
    assert "It costs about $" in ran.err
    assert "PUT answer" in ran.out
    text = (tmp_path / "report.json").read_text()
    report = json.loads(text)
    assert stat.S_IMODE((tmp_path / "report.json").stat().st_mode) == 0o600
    assert {"subject", "assumed", "observed", "outcome", "meaning"} <= set(report["observations"][0])
    for secret in (stage.environment["AWS_SECRET_ACCESS_KEY"], "Signature=", "Bearer ", "upload_id=", "Policy="):
        assert secret not in text + ran.out + ran.err
    assert remains(stage) == []


@pytest.mark.slow
def test_a_contradiction_ends_the_command_with_1(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    stage.ledger.change({"sts.url_list_names": "query"})
    ran = command(stage, tmp_path, "--yes", "--json")
    assert ran.code == 1
    told = {one["subject"]: one for one in json.loads(ran.out)["observations"]}
    assert told[url_lists.NAMES]["outcome"] == "contradicts"
    assert "Signature" not in ran.out
    assert "is not kept for the daemon" in ran.err, "the job table is not prepared"


def test_every_row_is_documented(stage: Stage, probing: Probing) -> None:
    probing.flags = BIGQUERY
    probing.prepare_store()
    document = DOCUMENT.read_text()
    documented = set(re.findall(r"^\| `([^`]+)` \|", document, flags=re.MULTILINE))
    for subject in outcomes(probing.run()):
        stem = next((one for one in documented if subject == one or (one.endswith("…") and subject.startswith(one[:-1]))), None)
        assert stem is not None, f"{subject!r} has no row in docs/probe.md"


def test_every_permission_that_is_used_is_documented(stage: Stage, probing: Probing) -> None:
    probing.flags = BIGQUERY
    probing.prepare_store()
    stage.ledger.permissions.clear()
    probing.run()
    document = DOCUMENT.read_text()
    assert [one for one in sorted(stage.ledger.permissions) if f"`{one}`" not in document] == []


def test_projects_are_named_as_they_are_used(probing: Probing) -> None:
    with probing.context() as context:
        assert context.record.project == PROJECT
        assert context.record.monitoring == PROJECT
