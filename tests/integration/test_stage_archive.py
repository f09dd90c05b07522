"""Archived objects on the stage: S3, the CDN before it and the transfer service treat them as their documentation says."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import pytest
from botocore.exceptions import ClientError

from tests.integration.test_stage_sts import Client, client, create, get, run, spec
from tests.stages import SOURCE, archive, at_sink, fill, restore, s3_client, wait_for
from tools.emulators.s3_archive import Archive
from tools.emulators.stage import PROJECT, Stage

__all__ = ["client"]
KINDS = ("GLACIER", "DEEP_ARCHIVE", "ARCHIVE_ACCESS", "DEEP_ARCHIVE_ACCESS")
OPTIONAL = {"OptionalObjectAttributes": ["RestoreStatus"]}


@pytest.fixture
def s3(stage: Stage) -> Iterator[Any]:
    fill(stage, {"p/warm": b"warm"})
    for kind in KINDS:
        archive(stage, f"p/{kind}", kind)
    with s3_client(stage) as client:
        yield client


def refused(s3: Any, key: str) -> ClientError:
    with pytest.raises(ClientError) as caught:
        s3.get_object(Bucket=SOURCE, Key=key)
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_an_archived_object_is_refused_by_its_state(s3: Any, kind: str) -> None:
    answer = refused(s3, f"p/{kind}").response
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert answer["Error"]["Code"] == "InvalidObjectState"
    tiered = kind.endswith("_ACCESS")
    assert answer["StorageClass"] == ("INTELLIGENT_TIERING" if tiered else kind)
    assert answer.get("AccessTier") == (kind if tiered else None)
    head = s3.head_object(Bucket=SOURCE, Key=f"p/{kind}")
    assert (head.get("ArchiveStatus"), head.get("Restore")) == (kind if tiered else None, None)
    if tiered:  # moto refuses the others, which S3 does not
        assert s3.get_object_tagging(Bucket=SOURCE, Key=f"p/{kind}")["TagSet"] == [], "only its bytes are away"


@pytest.mark.parametrize("kind", KINDS)
def test_a_restore_makes_it_readable(stage: Stage, s3: Any, kind: str) -> None:
    key = f"p/{kind}"
    stage.ledger.change({"s3.restore_seconds": 3600})
    restore(stage, key)
    assert s3.head_object(Bucket=SOURCE, Key=key)["Restore"] == 'ongoing-request="true"'
    assert refused(s3, key).response["Error"]["Code"] == "InvalidObjectState"
    listed = {one["Key"]: one for one in s3.list_objects_v2(Bucket=SOURCE, **OPTIONAL)["Contents"]}
    assert {name: one["RestoreStatus"] for name, one in listed.items() if "RestoreStatus" in one} == {
        key: {"IsRestoreInProgress": True}
    }
    with pytest.raises(ClientError) as again:
        restore(stage, key)
    assert again.value.response["Error"]["Code"] == "RestoreAlreadyInProgress"
    assert stage.s3 is not None
    stage.s3.archive.expire(SOURCE, key)
    stage.ledger.change({"s3.restore_seconds": 0})
    restore(stage, key)
    assert s3.get_object(Bucket=SOURCE, Key=key)["Body"].read() == b"cold"


def test_a_restored_copy_has_an_end_and_one_in_intelligent_tiering_has_none(stage: Stage, s3: Any) -> None:
    restore(stage, "p/GLACIER")
    restore(stage, "p/ARCHIVE_ACCESS")
    listed = {one["Key"]: one for one in s3.list_objects_v2(Bucket=SOURCE, **OPTIONAL)["Contents"]}
    status = listed["p/GLACIER"]["RestoreStatus"]
    assert status["IsRestoreInProgress"] is False
    assert status["RestoreExpiryDate"] > datetime.now(UTC)
    assert "RestoreStatus" not in listed["p/ARCHIVE_ACCESS"]
    assert listed["p/GLACIER"]["StorageClass"] == "GLACIER", "its class stays what it was"
    assert 'ongoing-request="false", expiry-date="' in s3.head_object(Bucket=SOURCE, Key="p/GLACIER")["Restore"]
    assert "ArchiveStatus" not in s3.head_object(Bucket=SOURCE, Key="p/ARCHIVE_ACCESS")
    assert stage.s3 is not None
    later = Archive(stage.ledger, now=lambda: datetime(2999, 1, 1, tzinfo=UTC))
    later._restores = stage.s3.archive._restores
    assert later.unreadable(SOURCE, "p/GLACIER") is not None, "its days are over"


def test_the_restore_status_is_told_only_to_whoever_asks(stage: Stage, s3: Any) -> None:
    restore(stage, "p/GLACIER")
    assert all("RestoreStatus" not in one for one in s3.list_objects_v2(Bucket=SOURCE)["Contents"])


def test_days_are_for_those_that_have_an_end(s3: Any) -> None:
    for key, asked in (("p/GLACIER", {}), ("p/ARCHIVE_ACCESS", {"Days": 1})):
        with pytest.raises(ClientError) as caught:
            s3.restore_object(Bucket=SOURCE, Key=key, RestoreRequest=asked)
        assert caught.value.response["Error"]["Code"] == "MalformedXML"
    with pytest.raises(ClientError) as warm:
        s3.restore_object(Bucket=SOURCE, Key="p/warm", RestoreRequest={"Days": 1})
    assert warm.value.response["Error"]["Code"] == "InvalidObjectState"


def test_what_is_written_anew_is_not_archived(stage: Stage, s3: Any) -> None:
    s3.put_object(Bucket=SOURCE, Key="p/ARCHIVE_ACCESS", Body=b"new", StorageClass="INTELLIGENT_TIERING")
    assert s3.get_object(Bucket=SOURCE, Key="p/ARCHIVE_ACCESS")["Body"].read() == b"new"


def test_a_header_of_amazons_must_be_signed(stage: Stage, s3: Any) -> None:
    def add(request: Any, **_: Any) -> None:
        request.headers["x-amz-optional-object-attributes"] = "RestoreStatus"

    s3.meta.events.register("before-send.s3.ListObjectsV2", add)
    with pytest.raises(ClientError, match="not signed"):
        s3.list_objects_v2(Bucket=SOURCE)


@pytest.mark.parametrize(
    ("given", "returned"),
    [
        ("plain", "plain"),
        ("=?UTF-8?Q?plain?=", "plain"),
        ("=?UTF-8?B?5pel5pys?=", "=?UTF-8?B?5pel5pys?="),
        ("=?utf-8?b?Y2Fmw6k=?=", "=?UTF-8?Q?caf=C3=A9?="),
        ("=?nonsense?=", "=?nonsense?="),
    ],
)
def test_metadata_comes_back_mail_safe(s3: Any, given: str, returned: str) -> None:
    s3.put_object(Bucket=SOURCE, Key="m", Body=b"x", Metadata={"name": given})
    assert s3.head_object(Bucket=SOURCE, Key="m")["Metadata"] == {"name": returned}


def test_the_example_of_the_s3_user_guide(stage: Stage, s3: Any) -> None:
    """Raw bytes are taken for ISO-8859-1: what comes back is what the guide shows."""
    stage.ledger.change({"s3.verify_signatures": False})
    parts = urlsplit(os.environ["AWS_ENDPOINT_URL"])
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    try:
        connection.request("PUT", f"/{SOURCE}/Key", b"x", {"x-amz-meta-nonascii": "ÄMÄZÕÑ S3".encode()})
        assert connection.getresponse().read() is not None
    finally:
        connection.close()
    assert s3.head_object(Bucket=SOURCE, Key="Key")["Metadata"] == {"nonascii": "=?UTF-8?B?w4PChE3Dg8KEWsODwpXDg8KRIFMz?="}


# The CDN


@pytest.mark.parametrize("kind", ["GLACIER", "ARCHIVE_ACCESS"])
def test_the_cdn_passes_the_refusal_on(stage: Stage, s3: Any, kind: str) -> None:
    stage.ledger.change({"cdn.public": True})
    url = f"http://{os.environ['CDN_EMULATOR_HOST']}/{SOURCE}/p/{kind}"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(url, timeout=10)
    with caught.value as answer:
        body = ET.fromstring(answer.read())
        assert answer.status == 403
    assert body.findtext("Code") == "InvalidObjectState"
    assert body.findtext("StorageClass") == ("GLACIER" if kind == "GLACIER" else "INTELLIGENT_TIERING")
    stage.ledger.change({"cdn.error_page": "<html>not here</html>"})
    with pytest.raises(urllib.error.HTTPError) as custom:
        urllib.request.urlopen(url, timeout=10)
    with custom.value as answer:
        assert (answer.status, answer.read()) == (403, b"<html>not here</html>")


# The transfer service


def ended(client: Client, name: str = "transferJobs/j1") -> Any:
    operation = run(client, name)
    wait_for(lambda: get(client, operation).status.name in ("SUCCESS", "FAILED"))
    return get(client, operation)


def rest(stage: Stage, verb: str, path: str, value: Any = None) -> tuple[int, Any]:
    data = None if value is None else json.dumps(value).encode()
    request = urllib.request.Request(f"{stage.environment['STORAGE_TRANSFER_REST_EMULATOR_HOST']}/v1/{path}", data, method=verb)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def job(name: str, classes: list[str], **changes: Any) -> dict[str, Any]:
    source = spec()["aws_s3_data_source"]
    return {
        "name": f"transferJobs/{name}",
        "projectId": PROJECT,
        "status": "ENABLED",
        "transferSpec": {
            "awsS3DataSource": {
                "bucketName": SOURCE,
                "awsAccessKey": {
                    "accessKeyId": source["aws_access_key"]["access_key_id"],
                    "secretAccessKey": source["aws_access_key"]["secret_access_key"],
                },
            },
            "gcsDataSink": {"bucketName": spec()["gcs_data_sink"]["bucket_name"]},
            "objectConditions": {"includePrefixes": ["p/"], "includeStorageClasses": classes},
        },
    } | changes


def test_by_default_glacier_is_skipped_also_when_restored_and_deep_archive_unless(stage: Stage, client: Client) -> None:
    for kind in ("GLACIER", "DEEP_ARCHIVE"):
        archive(stage, f"p/{kind}", kind)
        archive(stage, f"p/{kind}-restored", kind)
        restore(stage, f"p/{kind}-restored")
    create(client)
    operation = ended(client)
    assert operation.status.name == "SUCCESS"
    assert sorted(at_sink(stage)) == ["p/0", "p/1", "p/2", "p/DEEP_ARCHIVE-restored"]
    assert operation.counters.objects_found_from_source == 4, "what is skipped for its class is found nowhere"
    status, shown = rest(stage, "GET", operation.name)
    counters = shown["metadata"]["counters"]
    assert (status, shown["done"]) == (200, True)
    assert counters["unsupportedS3GlacierObjectsSkippedCount"] == "2"
    assert counters["unrestoredDeepArchiveObjectsSkippedCount"] == "1"


def test_classes_that_a_job_includes_are_all_that_it_moves(stage: Stage, client: Client) -> None:
    archive(stage, "p/cold", "GLACIER")
    archive(stage, "p/restored", "GLACIER")
    restore(stage, "p/restored")
    status, made = rest(stage, "POST", "transferJobs", job("j1", ["GLACIER"]))
    assert status == 200, made
    assert made["transferSpec"]["objectConditions"]["includeStorageClasses"] == ["GLACIER"]
    assert "secretAccessKey" not in json.dumps(made)
    assert rest(stage, "GET", f"transferJobs/j1?projectId={PROJECT}")[1] == made
    assert ended(client).status.name == "SUCCESS"
    assert set(at_sink(stage)) == {"p/restored"}


@pytest.mark.parametrize(
    ("value", "status", "code"),
    [
        (job("j1", ["GLACIRE"]), 400, "INVALID_ARGUMENT"),
        (job("j1", ["GLACIER"], surplus=1), 400, "INVALID_ARGUMENT"),
        (job("OPIx", ["GLACIER"]), 400, "INVALID_ARGUMENT"),
        (job("j0", ["GLACIER"]), 409, "ALREADY_EXISTS"),
        (job("j1", ["GLACIER"], projectId="another"), 403, "PERMISSION_DENIED"),
    ],
)
def test_by_rest_the_same_is_refused(stage: Stage, client: Client, value: Any, status: int, code: str) -> None:
    create(client, "transferJobs/j0")
    got, answer = rest(stage, "POST", "transferJobs", value)
    assert (got, answer["error"]["status"]) == (status, code)


@pytest.mark.parametrize(("setting", "status", "failed"), [("PERMISSION_DENIED", "FAILED", 1), ("skip", "SUCCESS", 0)])
def test_an_archive_tier_is_found_out_by_reading(stage: Stage, client: Client, setting: str, status: str, failed: int) -> None:
    stage.ledger.change({"sts.archived_tiering": setting})
    archive(stage, "p/tiered", "ARCHIVE_ACCESS")
    create(client)
    operation = ended(client)
    assert (operation.status.name, operation.counters.objects_from_source_failed) == (status, failed)
    assert operation.counters.objects_found_from_source == 3 + failed
    if failed:
        assert "InvalidObjectState" in operation.error_breakdowns[0].error_log_entries[0].error_details[0]
