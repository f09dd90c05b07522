"""Cloud Logging on the stage: the query language, and what the transfer service writes of actions that failed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import requests
from google.cloud import storage_transfer_v1 as sts

from sts_manager.clock import SystemClock
from sts_manager.domain.errors import Denied, Throttled
from sts_manager.domain.names import OperationName
from sts_manager.routes.sts.route import connect
from sts_manager.routes.sts.transfer_log import LoggedFailure, read_failures
from tests.stages import SINK, SOURCE, fill, wait_for
from tools.emulators.log_filter import BadFilter, parse_filter
from tools.emulators.stage import KEYS, PROJECT, Stage

ENTRY: dict[str, Any] = {
    "logName": "projects/p/logs/storagetransfer.googleapis.com%2Ftransfer_activity",
    "severity": "ERROR",
    "timestamp": "2026-11-20T10:00:00.5Z",
    "resource": {"type": "storage_transfer_job", "labels": {"job_id": "transferJobs/j"}},
    "labels": {"compute.googleapis.com/id": "7"},
    "jsonPayload": {
        "operation": "transferOperations/j-1",
        "tries": 3,
        "words": ["one", "two"],
        "status": {"statusCode": "UNAVAILABLE", "errorMessage": 'said "no"'},
    },
}
TRUE = [
    "",
    'resource.type="storage_transfer_job"',
    "resource.type = STORAGE_transfer_job",
    'jsonPayload.operation:"j-1"',
    "jsonPayload.operation:*",
    "severity>=ERROR AND severity<CRITICAL",
    'severity != "INFO"',
    'timestamp>="2026-11-20T10:00:00Z" timestamp<"2026-11-20T11:00:01+01:00"',
    'timestamp > "2026-11-20"',
    'NOT jsonPayload.missing="x"',
    '-jsonPayload.missing="x"',
    'jsonPayload.status.statusCode=("NOT_FOUND" OR "UNAVAILABLE")',
    'jsonPayload.status.statusCode!=("NOT_FOUND" AND "OK")',
    'severity=INFO OR severity=ERROR AND resource.type="storage_transfer_job"',
    '(severity=INFO OR (NOT severity=INFO)) AND "UNAVAILABLE"',
    'jsonPayload.words="two"',
    "jsonPayload.tries>=3",
    'jsonPayload.status.errorMessage="said \\"no\\""',
    'labels."compute.googleapis.com/id"="7"',
    'logName=~"transfer_activity$"',
    'severity=ERROR -- what comes here is nobody\'s business\nAND resource.type="storage_transfer_job"',
]
FALSE = [
    'jsonPayload.missing!="x"',
    'jsonPayload.status.statusCode="FAILED"',
    "severity>=CRITICAL",
    "severity=INFO",
    'timestamp>="2026-11-20T10:00:01Z"',
    'jsonPayload.Operation:"j-1"',
    "severity=ERROR AND severity=INFO OR severity=DEBUG",
    "NOT (severity=ERROR OR severity=INFO)",
    "jsonPayload.tries>3",
    'jsonPayload.words="three"',
    'logName!~"transfer_activity$"',
    '"no such text"',
]
REFUSED = [
    ("thud=1", "Field not found"),
    ("textPayload.thud=1", "Field not found"),
    ("resource.thud=1", "Field not found"),
    ("severity>=LOUD", "Invalid value for severity"),
    ('timestamp>="yesterday"', "timestamp"),
    ("severity=ERROR AND", "a comparison was expected"),
    ("(severity=ERROR", "was expected, not 'the end"),
    ("severity=ERROR)", "unexpected"),
    ("severity==ERROR", "a value was expected"),
    ("insertId=abc:def", "unexpected|Unparseable"),
    ("insertId=a.b", "double quotes"),
    ('severity="ERROR', "syntax error"),
    ('log_id("x")', "not modelled"),
    ("x" * 20_001, "20,000"),
]


@pytest.mark.parametrize(("text", "wanted"), [(one, True) for one in TRUE] + [(one, False) for one in FALSE])
def test_what_a_filter_selects(text: str, wanted: bool) -> None:
    assert parse_filter(text)(ENTRY) is wanted


@pytest.mark.parametrize(("text", "told"), REFUSED)
def test_what_is_no_filter_is_refused(text: str, told: str) -> None:
    with pytest.raises(BadFilter, match=told):
        parse_filter(text)(ENTRY)


@pytest.fixture
def job(stage: Stage) -> sts.TransferJob:
    """A job that logs what fails."""
    fill(stage, {"in/p/a": b"1", "in/p/new\nline": b"2"})
    logged = sts.LoggingConfig
    return sts.TransferJob(
        name="transferJobs/j",
        project_id=PROJECT,
        status=sts.TransferJob.Status.ENABLED,
        transfer_spec=sts.TransferSpec(
            aws_s3_data_source=sts.AwsS3Data(
                bucket_name=SOURCE,
                path="in/",
                aws_access_key=sts.AwsAccessKey(access_key_id=KEYS.key_id, secret_access_key=KEYS.secret),
            ),
            gcs_data_sink=sts.GcsData(bucket_name=SINK, path="out/"),
        ),
        logging_config=logged(
            log_actions=[logged.LoggableAction.FIND, logged.LoggableAction.COPY],
            log_action_states=[logged.LoggableActionState.FAILED],
        ),
    )


def run(stage: Stage, job: sts.TransferJob) -> str:
    client = connect(PROJECT, stage.environment["STORAGE_TRANSFER_EMULATOR_HOST"], SystemClock())
    client.create(job)
    name = client.run(job.name)  # type: ignore[arg-type]
    wait_for(lambda: not next(iter(client.operations(operationNames=[name])))[1].active)
    return name


def read(stage: Stage, text: str = "", **more: Any) -> requests.Response:
    asked = {"resourceNames": [f"projects/{PROJECT}"], "filter": text, **more}
    return requests.post(f"{stage.environment['LOGGING_EMULATOR_HOST']}/v2/entries:list", json=asked, timeout=10)


def test_an_object_that_failed(stage: Stage, job: sts.TransferJob) -> None:
    name = run(stage, job)
    (entry,) = read(stage, f'severity>=ERROR AND jsonPayload.operation:"{name.rpartition("/")[2]}"').json()["entries"]
    payload = entry["jsonPayload"]
    assert entry["logName"] == f"projects/{PROJECT}/logs/storagetransfer.googleapis.com%2Ftransfer_activity"
    assert entry["resource"] == {"type": "storage_transfer_job", "labels": {"project_id": PROJECT, "job_id": job.name}}
    assert (entry["severity"], entry["timestamp"]) == ("ERROR", payload["completeTime"])
    assert payload["@type"].endswith("google.storagetransfer.logging.TransferActivityLog")
    assert (payload["action"], payload["operation"]) == ("COPY", name)
    assert payload["sourceObject"] == {"type": "AWS_S3", "awsS3Object": {"bucket": SOURCE, "objectKey": "in/p/new\nline"}}
    assert payload["destinationObject"] == {"type": "GCS", "gcsObject": {"bucket": SINK, "objectKey": "out/p/new\nline"}}
    assert payload["status"]["statusCode"] == "INVALID_ARGUMENT"
    assert payload["status"]["errorType"] not in ("INVALID_ARGUMENT", "FAILED")


def test_a_listing_that_failed_has_containers_and_no_object(stage: Stage, job: sts.TransferJob) -> None:
    stage.ledger.change({"sts.buckets_checked_at": "run"})
    job.transfer_spec.aws_s3_data_source.bucket_name = "no-such-bucket"
    run(stage, job)
    (entry,) = read(stage).json()["entries"]
    payload = entry["jsonPayload"]
    assert payload["action"] == "FIND"
    assert payload["sourceContainer"] == {"type": "AWS_S3", "awsS3Bucket": {"bucket": "no-such-bucket", "path": "in/"}}
    assert payload["destinationContainer"] == {"type": "GCS", "gcsBucket": {"bucket": SINK, "path": "out/"}}
    assert "sourceObject" not in payload


def test_what_is_not_to_be_logged_is_not(stage: Stage, job: sts.TransferJob) -> None:
    job.logging_config = sts.LoggingConfig(
        log_actions=[sts.LoggingConfig.LoggableAction.FIND], log_action_states=[sts.LoggingConfig.LoggableActionState.FAILED]
    )
    run(stage, job)
    assert read(stage).json()["entries"] == []


def test_entries_are_to_be_seen_late(stage: Stage, job: sts.TransferJob) -> None:
    stage.ledger.change({"logging.delay_seconds": 3600})
    run(stage, job)
    assert read(stage).json()["entries"] == []
    stage.ledger.log_entries[:] = [(at - 3600, entry) for at, entry in stage.ledger.log_entries]
    assert len(read(stage).json()["entries"]) == 1


def test_pages_orders_and_refusals(stage: Stage) -> None:
    log = f"projects/{PROJECT}/logs/x"
    for second in (2, 1, 3):
        stage.ledger.log({"logName": log, "timestamp": f"2026-11-20T10:00:0{second}Z", "severity": "INFO"})
    stage.ledger.log({"logName": "projects/another/logs/x", "timestamp": "2026-11-20T10:00:00Z"})
    page = read(stage, pageSize=2).json()
    assert [one["timestamp"][-2] for one in page["entries"]] == ["1", "2"]
    assert [one["timestamp"][-2] for one in read(stage, pageToken=page["nextPageToken"]).json()["entries"]] == ["3"]
    assert read(stage, orderBy="timestamp desc").json()["entries"][0]["timestamp"][-2] == "3"
    assert (read(stage, orderBy="severity").status_code, read(stage, "thud=1").status_code) == (400, 400)
    assert read(stage, resourceNames=["projects/another"]).status_code == 403
    stage.ledger.change({"logging.reads_per_minute": 1})
    assert read(stage).status_code == 429


def test_entries_as_the_documentation_shows_them_are_read(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects of each kind of source, and listings; not what went well, was deleted, or is of another operation or time."""
    monkeypatch.setenv("LOGGING_EMULATOR_HOST", stage.environment["LOGGING_EMULATOR_HOST"])
    failed = {"statusCode": "NOT_FOUND", "errorType": "GONE", "errorMessage": "it is gone"}

    def log(action: str, status: dict[str, str] = failed, at: str = "10:00:00", operation: str = "j-1", **sides: Any) -> None:
        payload = {"action": action, "operation": f"transferOperations/{operation}", "status": status, **sides}
        name = f"projects/{PROJECT}/logs/storagetransfer.googleapis.com%2Ftransfer_activity"
        entry = {"logName": name, "resource": {"type": "storage_transfer_job"}, "severity": "ERROR", "jsonPayload": payload}
        stage.ledger.log(entry | {"timestamp": f"2026-11-20T{at}Z"})

    log("COPY", sourceObject={"type": "AWS_S3", "awsS3Object": {"bucket": "b", "objectKey": "p/s3", "size": "7"}})
    log("COPY", sourceObject={"type": "GCS", "gcsObject": {"bucket": "b", "objectKey": "p/gcs"}})
    log("COPY", sourceObject={"type": "HTTP", "httpFile": {"url": "https://d1.example/p/url?Signature=secret"}})
    log("COPY", {"statusCode": "OK"}, sourceObject={"type": "GCS", "gcsObject": {"bucket": "b", "objectKey": "p/well"}})
    log("COPY", at="08:59:59", sourceObject={"type": "GCS", "gcsObject": {"bucket": "b", "objectKey": "p/before"}})
    log("COPY", operation="j-2", sourceObject={"type": "GCS", "gcsObject": {"bucket": "b", "objectKey": "p/other"}})
    log("COPY", sourceObject={"type": "POSIX_FS", "posixFile": {"path": "/x"}})
    log("DELETE", sourceObject={"type": "GCS", "gcsObject": {"bucket": "b", "objectKey": "p/deleted"}})
    log("FIND", sourceContainer={"type": "AWS_S3", "awsS3Bucket": {"bucket": "b", "path": "in/"}})
    log("FIND", sourceContainer={"type": "GCS", "gcsBucket": {"bucket": "b"}})
    log("FIND", sourceContainer={"type": "HTTP", "httpManifest": {"url": "https://d1.example/list.tsv?Signature=secret"}})
    since = datetime(2026, 11, 20, 9, tzinfo=UTC)
    found = read_failures(PROJECT, OperationName("transferOperations/j-1"), since, 100)
    assert set(found.objects) == {"p/s3", "p/gcs", "https://d1.example/p/url"}
    assert set(found.listings) == {"s3://b/in/", "gs://b/", "https://d1.example/list.tsv"}
    assert found.objects["p/s3"] == LoggedFailure(key="p/s3", error="not_found", details="GONE: it is gone")


@pytest.mark.parametrize(
    ("setting", "error"),
    [({"iam.denied": ["logging.logEntries.list"]}, Denied), ({"logging.reads_per_minute": 0}, Throttled)],
)
def test_a_log_that_may_not_be_read_now(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, setting: dict[str, Any], error: type[Exception]
) -> None:
    monkeypatch.setenv("LOGGING_EMULATOR_HOST", stage.environment["LOGGING_EMULATOR_HOST"])
    stage.ledger.change(setting)
    with pytest.raises(error, match=PROJECT):
        read_failures(PROJECT, OperationName("transferOperations/j-1"), datetime.now(UTC), 100)
