"""URL lists and manifests of the stage's Storage Transfer Service, as strict as the service, seen through the official client."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.cloud import storage_transfer_v1 as sts
from google.cloud.storage_transfer_v1.services.storage_transfer_service import transports

from tests.stages import SINK, SOURCE, at_sink, fill, gcs_client, s3_client, wait_for
from tools.emulators.gcs.objects import Attributes
from tools.emulators.stage import KEYS, PROJECT, Stage

Client = sts.StorageTransferServiceClient
LIST = "lists/one.tsv"
BODY = b"x" * 10


@pytest.fixture
def client(stage: Stage) -> Iterator[Client]:
    fill(stage, {"p/a": BODY, "p/b c": BODY})
    stage.ledger.change({"cdn.public": True})
    channel = grpc.insecure_channel(stage.environment["STORAGE_TRANSFER_EMULATOR_HOST"])
    yield Client(transport=transports.StorageTransferServiceGrpcTransport(channel=channel))
    channel.close()


def host(stage: Stage) -> str:
    return str(stage.environment["CDN_EMULATOR_HOST"])


def url(stage: Stage, path: str) -> str:
    return f"http://{host(stage)}/{SOURCE}/{path}"


def put(stage: Stage, name: str, text: str) -> None:
    stage.objects.put(SINK, name, text.encode(), Attributes())


def ran(client: Client, spec: dict[str, Any]) -> sts.TransferOperation:
    """The operation of a job with this spec, at its end."""
    spec = {"gcs_data_sink": {"bucket_name": SINK, "path": "in/"}} | spec
    job = {"name": "transferJobs/j1", "project_id": PROJECT, "status": "ENABLED", "transfer_spec": spec}
    client.create_transfer_job({"transfer_job": job})
    name = client.run_transfer_job({"job_name": "transferJobs/j1", "project_id": PROJECT}).operation.name

    def seen() -> sts.TransferOperation:
        found: sts.TransferOperation = sts.TransferOperation.deserialize(client.get_operation({"name": name}).metadata.value)
        return found

    wait_for(lambda: seen().status.name in ("SUCCESS", "FAILED"))
    return seen()


def listed(client: Client, stage: Stage, *lines: str, header: str = "TsvHttpData-1.0") -> sts.TransferOperation:
    put(stage, LIST, "\n".join([header, *lines]) + "\n")
    return ran(client, {"http_data_source": {"list_url": f"gs://{SINK}/{LIST}"}})


def told(operation: sts.TransferOperation) -> str:
    return " ".join(
        detail for one in operation.error_breakdowns for entry in one.error_log_entries for detail in entry.error_details
    )


def md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def landed(stage: Stage) -> list[str]:
    return sorted(name for name in at_sink(stage) if name.startswith("in/"))


@pytest.mark.parametrize(
    ("naming", "name"),
    [("decoded", "p/b c"), ("encoded", "p/b%20c"), ("query", "p/b c?v=1")],
    ids=["decoded", "encoded", "query"],
)
def test_objects_are_named_after_the_host_and_lose_their_metadata(stage: Stage, client: Client, naming: str, name: str) -> None:
    stage.ledger.change({"sts.url_list_names": naming})
    with s3_client(stage) as source:
        source.put_object(Bucket=SOURCE, Key="p/b c", Body=BODY, Metadata={"owner": "me"}, ContentType="text/x")
    seen = listed(client, stage, f"{url(stage, 'p/b%20c')}?v=1\t10\t{md5(BODY)}")
    assert (seen.status.name, seen.counters.objects_copied_to_sink) == ("SUCCESS", 1)
    assert landed(stage) == [f"in/127.0.0.1/{SOURCE}/{name}"]
    with gcs_client(stage) as gcs:
        blob = gcs.bucket(SINK).get_blob(landed(stage)[0])
        assert (blob.content_type, blob.metadata) == ("text/x", None)


@pytest.mark.parametrize(
    ("header", "rows", "why"),
    [
        ("TsvHttpData-2.0", ["{a}"], "must begin with"),
        ("TsvHttpData-1.0", ["{b}", "{a}"], "not sorted"),
        ("TsvHttpData-1.0", ["{a}#part"], "fragment"),
        ("TsvHttpData-1.0", ["ftp://x/y"], "no http"),
        ("TsvHttpData-1.0", ["{a}\tten"], "no size"),
        ("TsvHttpData-1.0", ["{a}\t10\tabc-2"], "no base64 MD5"),
        ("TsvHttpData-1.0", ["{a}\t10\t\tx"], "more than 3 columns"),
    ],
)
def test_a_list_that_breaks_the_rules_fails_whole(stage: Stage, client: Client, header: str, rows: list[str], why: str) -> None:
    filled = [row.format(a=url(stage, "p/a"), b=url(stage, "p/b%20c")) for row in rows]
    seen = listed(client, stage, *filled, header=header)
    assert seen.status.name == "FAILED"
    assert why in told(seen)
    assert landed(stage) == []


def test_a_list_over_128_mb_fails_whole(stage: Stage, client: Client) -> None:
    row = f"{url(stage, 'p/a')}?{'x' * 1_000_000}"
    seen = listed(client, stage, *[row] * 129)
    assert (seen.status.name, "128 MB" in told(seen)) == ("FAILED", True)


@pytest.mark.parametrize(
    ("row", "fault", "why"),
    [
        ("{a}\t11", "", "the URL list says 11 bytes"),
        (f"{{a}}\t10\t{md5(b'other')}", "", "the MD5"),
        ("{host}/p/none", "", "answered 404"),
        ("{a}", "REDIRECT", "redirects"),
        ("{a}", "FORBIDDEN", "answered 403"),
        ("{a}", "NO_LENGTH", "Content-Length"),
    ],
)
def test_an_object_that_is_not_as_the_list_says_fails_alone(stage: Stage, client: Client, row: str, fault: str, why: str) -> None:
    if fault:
        stage.ledger.add_rule({"service": "cdn", "method": "HEAD", "error": fault})
    lines = sorted([row.format(a=url(stage, "p/a"), host=f"http://{host(stage)}/{SOURCE}"), url(stage, "p/b%20c")])
    seen = listed(client, stage, *lines)
    assert why in told(seen)
    assert (seen.status.name, len(landed(stage))) == ("FAILED", 1)


def test_robots_txt_is_obeyed(stage: Stage, client: Client) -> None:
    robots = "User-agent: *\nDisallow: /source-bucket/p/a\n"
    assert stage.cdn is not None
    stage.cdn.files["/robots.txt"] = robots.encode()
    try:
        seen = listed(client, stage, url(stage, "p/a"), url(stage, "p/b%20c"))
    finally:
        stage.cdn.files.clear()
    assert "robots.txt" in told(seen)
    assert seen.counters.objects_copied_to_sink == 1


def test_a_manifest_names_what_is_moved(stage: Stage, client: Client) -> None:
    put(stage, "m/one.csv", '"b c"\nmissing\n')
    keys = {"access_key_id": KEYS.key_id, "secret_access_key": KEYS.secret}
    spec = {
        "aws_s3_data_source": {"bucket_name": SOURCE, "path": "p/", "aws_access_key": keys},
        "transfer_manifest": {"location": f"gs://{SINK}/m/one.csv"},
    }
    seen = ran(client, spec)
    assert landed(stage) == ["in/b c"]
    counters = seen.counters
    assert (counters.objects_copied_to_sink, counters.objects_from_source_failed) == (1, 1)


@pytest.mark.parametrize(("folders", "copied", "failed"), [("fail", 1, 1), ("refuse", 0, 0), ("take", 2, 0)])
def test_a_manifest_that_names_a_folder(stage: Stage, client: Client, folders: str, copied: int, failed: int) -> None:
    stage.ledger.change({"sts.manifest_folders": folders})
    with s3_client(stage) as s3:
        s3.put_object(Bucket=SOURCE, Key="p/folder/", Body=b"")
    put(stage, "m/one.csv", '"b c"\nfolder/\n')
    keys = {"access_key_id": KEYS.key_id, "secret_access_key": KEYS.secret}
    spec = {
        "aws_s3_data_source": {"bucket_name": SOURCE, "path": "p/", "aws_access_key": keys},
        "transfer_manifest": {"location": f"gs://{SINK}/m/one.csv"},
    }
    seen = ran(client, spec)
    counters = seen.counters
    assert (counters.objects_copied_to_sink, counters.objects_from_source_failed) == (copied, failed)
    assert ("Folder names" in told(seen)) == (folders != "take")


@pytest.mark.parametrize(
    ("conditions", "moved", "failed"),
    [
        ({"include_prefixes": ["b"]}, ["in/b c"], 0),
        ({"include_prefixes": ["a", "m"]}, ["in/a"], 1),
        ({"include_prefixes": [f"x{index:02}" for index in range(11)]}, [], 0),
        ({"exclude_prefixes": ["b", "missing"]}, ["in/a"], 0),
    ],
)
def test_conditions_still_apply_to_what_a_manifest_names(
    stage: Stage, client: Client, conditions: dict[str, Any], moved: list[str], failed: int
) -> None:
    put(stage, "m/one.csv", "a\nb c\nmissing\n")
    keys = {"access_key_id": KEYS.key_id, "secret_access_key": KEYS.secret}
    spec = {
        "aws_s3_data_source": {"bucket_name": SOURCE, "path": "p/", "aws_access_key": keys},
        "transfer_manifest": {"location": f"gs://{SINK}/m/one.csv"},
        "object_conditions": conditions,
    }
    seen = ran(client, spec)
    assert landed(stage) == moved
    assert seen.counters.objects_from_source_failed == failed


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"transfer_manifest": {"location": "/tmp/x.csv"}}, "gs://"),
        ({"transfer_manifest": {"location": "gs://b-b/x"}, "http_data_source": {"list_url": "gs://b-b/l"}}, "exclude each other"),
        ({"http_data_source": {"list_url": "file:///l.tsv"}}, "list_url"),
    ],
)
def test_what_create_refuses_of_them(stage: Stage, client: Client, change: dict[str, Any], why: str) -> None:
    spec = {"gcs_data_sink": {"bucket_name": SINK}, **change}
    if "http_data_source" not in change:
        spec["aws_s3_data_source"] = {"bucket_name": SOURCE, "role_arn": "arn:aws:iam::123456789012:role/stage-reader"}
    job = {"name": "transferJobs/j1", "project_id": PROJECT, "status": "ENABLED", "transfer_spec": spec}
    with pytest.raises(exceptions.InvalidArgument, match=why):
        client.create_transfer_job({"transfer_job": job})
