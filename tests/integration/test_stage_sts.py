"""The stage's Storage Transfer Service is as strict as the service, seen through the official client."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.cloud import storage_transfer_v1 as sts
from google.cloud.storage_transfer_v1.services.storage_transfer_service import transports
from google.longrunning import operations_pb2

from tests.stages import SINK, SOURCE, at_sink, fill, s3_client, wait_for
from tools.emulators.gcs.objects import Attributes
from tools.emulators.stage import KEYS, PROJECT, Stage

Client = sts.StorageTransferServiceClient


@pytest.fixture
def client(stage: Stage) -> Iterator[Client]:
    fill(stage, {f"p/{index}": b"x" * 10 for index in range(3)})
    channel = grpc.insecure_channel(stage.environment["STORAGE_TRANSFER_EMULATOR_HOST"])
    yield Client(transport=transports.StorageTransferServiceGrpcTransport(channel=channel))
    channel.close()


def spec(**changes: Any) -> dict[str, Any]:
    keys = {"access_key_id": KEYS.key_id, "secret_access_key": KEYS.secret}
    made: dict[str, Any] = {
        "aws_s3_data_source": {"bucket_name": SOURCE, "aws_access_key": keys},
        "gcs_data_sink": {"bucket_name": SINK},
        "object_conditions": {"include_prefixes": ["p/"]},
    }
    return made | changes


def create(client: Client, name: str = "transferJobs/j1", **fields: Any) -> sts.TransferJob:
    values = {"name": name, "project_id": PROJECT, "status": "ENABLED", "transfer_spec": spec()} | fields
    return client.create_transfer_job({"transfer_job": values})


def run(client: Client, name: str = "transferJobs/j1") -> str:
    return str(client.run_transfer_job({"job_name": name, "project_id": PROJECT}).operation.name)


def get(client: Client, name: str) -> sts.TransferOperation:
    found = client.get_operation({"name": name})
    operation: sts.TransferOperation = sts.TransferOperation.deserialize(found.metadata.value)
    return operation


def listed(client: Client, **wanted: Any) -> list[str]:
    text = json.dumps({"project_id": PROJECT} | wanted)
    request = operations_pb2.ListOperationsRequest(name="transferOperations", filter=text, page_size=2)
    names: list[str] = []
    while True:
        page = client.list_operations(request)
        names += [operation.name for operation in page.operations]
        if not page.next_page_token:
            return names
        request.page_token = page.next_page_token


def s3(**fields: Any) -> dict[str, Any]:
    return spec(aws_s3_data_source={"bucket_name": SOURCE} | fields)


def prefixes(*include: str, exclude: tuple[str, ...] = ()) -> dict[str, Any]:
    return spec(object_conditions={"include_prefixes": list(include), "exclude_prefixes": list(exclude)})


KEY = {"access_key_id": "a", "secret_access_key": "b"}
REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"name": "transferJobs/OPIx"}, exceptions.InvalidArgument, "name"),
    ({"name": "transferJobs/x-"}, exceptions.InvalidArgument, "name"),
    ({"name": "jobs/x"}, exceptions.InvalidArgument, "name"),
    ({"name": "transferJobs/" + "x" * 116}, exceptions.InvalidArgument, "name"),
    ({"project_id": ""}, exceptions.InvalidArgument, "project_id"),
    ({"project_id": "another"}, exceptions.PermissionDenied, "permission"),
    ({"status": "STATUS_UNSPECIFIED"}, exceptions.InvalidArgument, "status"),
    ({"description": "x" * 1025}, exceptions.InvalidArgument, "description"),
    ({"transfer_spec": {"gcs_data_sink": {"bucket_name": SINK}}}, exceptions.InvalidArgument, "source"),
    ({"transfer_spec": {"gcs_data_source": {"bucket_name": SINK}}}, exceptions.InvalidArgument, "sink"),
    ({"transfer_spec": s3()}, exceptions.InvalidArgument, "exactly one"),
    (
        {"transfer_spec": s3(aws_access_key=KEY, role_arn="arn:aws:iam::123456789012:role/x")},
        exceptions.InvalidArgument,
        "exactly one",
    ),
    ({"transfer_spec": s3(role_arn="x")}, exceptions.InvalidArgument, "role_arn"),
    ({"transfer_spec": s3(role_arn="arn:aws:iam::123456789012:role/x")}, exceptions.PermissionDenied, "AssumeRole"),
    ({"transfer_spec": s3(credentials_secret="projects/p/secrets/s")}, exceptions.InvalidArgument, "project_number"),
    ({"transfer_spec": s3(credentials_secret="projects/1/secrets/s")}, exceptions.PermissionDenied, "secret"),
    ({"transfer_spec": s3(aws_access_key=KEY)}, exceptions.PermissionDenied, "The AWS Access Key Id you provided does not exist"),
    ({"transfer_spec": s3(aws_access_key=KEY, path="/x/")}, exceptions.InvalidArgument, "path"),
    ({"transfer_spec": s3(aws_access_key=KEY, path="x")}, exceptions.InvalidArgument, "path"),
    ({"transfer_spec": s3(aws_access_key=KEY, cloudfront_domain="http://x")}, exceptions.InvalidArgument, "https://"),
    (
        {"transfer_spec": spec(gcs_data_sink={"bucket_name": "nowhere-bucket"})},
        exceptions.FailedPrecondition,
        "Failed to obtain the location of the GCS bucket nowhere-bucket .*or it may not exist",
    ),
    ({"transfer_spec": prefixes("a", "ab")}, exceptions.InvalidArgument, "prefix of"),
    ({"transfer_spec": prefixes("/a")}, exceptions.InvalidArgument, "prefix"),
    ({"transfer_spec": prefixes("a\nb")}, exceptions.InvalidArgument, "prefix"),
    ({"transfer_spec": prefixes("")}, exceptions.InvalidArgument, "prefix"),
    ({"transfer_spec": prefixes("é" * 513)}, exceptions.InvalidArgument, "1024"),
    ({"transfer_spec": prefixes(*(f"{n:04}/" for n in range(1001)))}, exceptions.InvalidArgument, "1000"),
    ({"transfer_spec": prefixes("a/", exclude=("b/",))}, exceptions.InvalidArgument, "include"),
    (
        {"transfer_spec": spec(transfer_options={"overwrite_objects_already_existing_in_sink": True, "overwrite_when": "NEVER"})},
        exceptions.InvalidArgument,
        "exclude each other",
    ),
    (
        {"transfer_spec": spec(transfer_options={"metadata_options": {"storage_class": "STORAGE_CLASS_PRESERVE"}})},
        exceptions.InvalidArgument,
        "only supported for transfers from Google Cloud Storage",
    ),
]


@pytest.mark.parametrize(("fields", "error", "told"), REFUSED)
def test_what_create_refuses(client: Client, fields: dict[str, Any], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        create(client, **fields)
    assert list(client.list_transfer_jobs({"filter": json.dumps({"projectId": PROJECT})})) == []


def test_names_are_taken_once_and_kept_after_a_delete(client: Client) -> None:
    create(client)
    with pytest.raises(exceptions.AlreadyExists):
        create(client)
    client.delete_transfer_job({"job_name": "transferJobs/j1", "project_id": PROJECT})
    with pytest.raises(exceptions.AlreadyExists):
        create(client)
    with pytest.raises(exceptions.NotFound):
        run(client)
    assert client.get_transfer_job({"job_name": "transferJobs/j1", "project_id": PROJECT}).status.name == "DELETED"


def test_keys_are_taken_in_and_never_given_out(client: Client) -> None:
    create(client)
    shown = client.get_transfer_job({"job_name": "transferJobs/j1", "project_id": PROJECT})
    assert KEYS.secret not in str(shown)
    assert not shown.latest_operation_name
    assert KEYS.secret not in str(get(client, run(client)))


@pytest.mark.parametrize("secret", [True, False])
def test_a_role_and_a_secret_open_the_source(stage: Stage, client: Client, secret: bool) -> None:
    access = {"role_arn": "arn:aws:iam::123456789012:role/stage-reader"}
    if secret:
        stage.ledger.change({"sts.secrets": {"projects/1/secrets/s": f"{KEYS.key_id}:{KEYS.secret}"}})
        access = {"credentials_secret": "projects/1/secrets/s"}
    create(client, transfer_spec=s3(**access))
    name = run(client)
    wait_for(lambda: get(client, name).status.name == "SUCCESS")
    assert len(at_sink(stage)) == 3


def test_one_active_operation_a_job(stage: Stage, client: Client) -> None:
    stage.ledger.change({"sts.objects_per_second": 1})
    create(client)
    name = run(client)
    with pytest.raises(exceptions.FailedPrecondition, match="active operation"):
        run(client)
    stage.ledger.change({"sts.objects_per_second": 0})
    wait_for(lambda: get(client, name).status.name == "SUCCESS")
    assert run(client) != name


def test_counters_grow_and_a_pause_keeps_the_position(stage: Stage, client: Client) -> None:
    stage.ledger.change({"sts.objects_per_second": 5, "sts.suspend_seconds": 0.3})
    create(client)
    name = run(client)
    wait_for(lambda: get(client, name).counters.objects_copied_to_sink >= 1)
    client.pause_transfer_operation({"name": name})
    assert get(client, name).status.name in {"SUSPENDING", "PAUSED"}
    wait_for(lambda: get(client, name).status.name == "PAUSED")
    with pytest.raises(exceptions.FailedPrecondition):
        client.pause_transfer_operation({"name": name})
    client.resume_transfer_operation({"name": name})
    wait_for(lambda: get(client, name).status.name == "SUCCESS")
    counters = get(client, name).counters
    assert (counters.objects_copied_to_sink, counters.objects_found_from_source) == (3, 3)
    assert counters.objects_from_source_skipped_by_sync == 0
    with pytest.raises(exceptions.FailedPrecondition):
        client.resume_transfer_operation({"name": name})


@pytest.mark.parametrize("way", ["cancel", "delete"])
def test_a_cancel_or_a_delete_stops_a_run(stage: Stage, client: Client, way: str) -> None:
    stage.ledger.change({"sts.objects_per_second": 1})
    create(client)
    name = run(client)
    if way == "cancel":
        client.cancel_operation({"name": name})
    else:
        client.delete_transfer_job({"job_name": "transferJobs/j1", "project_id": PROJECT})
    assert get(client, name).status.name == "ABORTED"


def test_errors_are_counted_with_five_samples(stage: Stage, client: Client) -> None:
    with s3_client(stage) as source:
        for index in range(8):
            source.put_object(Bucket=SOURCE, Key=f"p/bad\n{index}", Body=b"x")
    create(client)
    name = run(client)
    wait_for(lambda: get(client, name).status.name == "FAILED")
    (summary,) = get(client, name).error_breakdowns
    assert (summary.error_count, len(summary.error_log_entries)) == (8, 5)
    assert get(client, name).counters.objects_from_source_failed == 8


def test_archived_objects_are_skipped_silently(stage: Stage, client: Client) -> None:
    with s3_client(stage) as source:
        for name in ("GLACIER", "DEEP_ARCHIVE"):
            source.put_object(Bucket=SOURCE, Key=f"p/{name}", Body=b"x", StorageClass=name)
    create(client)
    name = run(client)
    wait_for(lambda: get(client, name).status.name == "SUCCESS")
    assert get(client, name).counters.objects_found_from_source == 3


@pytest.mark.parametrize(("when", "copied"), [("NEVER", b"old"), ("ALWAYS", b"x" * 10), ("DIFFERENT", b"x" * 10)])
def test_overwrite_rules(stage: Stage, client: Client, when: str, copied: bytes) -> None:
    stage.objects.put(SINK, "p/0", b"old", Attributes())
    create(client, transfer_spec=spec(transfer_options={"overwrite_when": when}))
    name = run(client)
    wait_for(lambda: get(client, name).status.name == "SUCCESS")
    assert at_sink(stage)["p/0"] == copied


def test_filters_and_pages(stage: Stage, client: Client) -> None:
    for index in range(5):
        create(client, name=f"transferJobs/j{index}")
        run(client, f"transferJobs/j{index}")
    wait_for(lambda: len(listed(client, transferStatuses=["SUCCESS"])) == 5)
    assert len(listed(client)) == 5
    assert len(listed(client, job_names=["transferJobs/j1", "transferJobs/j2"])) == 2
    assert len(listed(client, jobNamePattern="transferJobs/j[12]")) == 2
    assert listed(client, operationNames=["transferOperations/ghost"]) == []
    assert listed(client, minCreationTime="2999-01-01T00:00:00Z") == []
    jobs = client.list_transfer_jobs(
        {"filter": json.dumps({"projectId": PROJECT, "jobNames": ["transferJobs/j3"]}), "page_size": 1}
    )
    assert [job.name for job in jobs] == ["transferJobs/j3"]


@pytest.mark.parametrize(
    "call",
    [
        lambda client: listed(client, projectId=""),
        lambda client: listed(client, nonsense=1),
        lambda client: client.list_operations({"name": "transferOperations", "filter": "{"}),
        lambda client: client.list_operations({"name": "x", "filter": json.dumps({"projectId": PROJECT})}),
        lambda client: client.list_operations(
            {"name": "transferOperations", "filter": json.dumps({"projectId": PROJECT}), "page_size": 257}
        ),
    ],
)
def test_bad_filters_are_refused(client: Client, call: Callable[[Client], Any]) -> None:
    with pytest.raises(exceptions.InvalidArgument):
        call(client)


def test_an_update_takes_only_what_the_service_takes(client: Client) -> None:
    create(client)
    request = {"job_name": "transferJobs/j1", "project_id": PROJECT, "transfer_job": {"description": "new"}}
    assert client.update_transfer_job(request | {"update_transfer_job_field_mask": "description"}).description == "new"
    with pytest.raises(exceptions.InvalidArgument, match="schedule"):
        client.update_transfer_job(request | {"update_transfer_job_field_mask": "schedule"})


@pytest.mark.parametrize("setting", ["sts.creates_per_minute", "sts.creates_per_day"])
def test_create_quotas(stage: Stage, client: Client, setting: str) -> None:
    stage.ledger.change({setting: 2})
    create(client, name="transferJobs/a")
    create(client, name="transferJobs/b")
    with pytest.raises(exceptions.ResourceExhausted):
        create(client, name="transferJobs/c")


def test_each_kind_of_call_has_the_quota_of_the_services_page(stage: Stage, client: Client) -> None:
    one_each = {f"sts.{kind}_per_minute": 1 for kind in ("updates", "deletes", "pauses")}
    stage.ledger.change(one_each | {"sts.objects_per_second": 1})
    for name in ("transferJobs/a", "transferJobs/b"):
        create(client, name=name)
    operations = [run(client, "transferJobs/a"), run(client, "transferJobs/b")]  # a run is counted by no quota
    client.pause_transfer_operation({"name": operations[0]})
    with pytest.raises(exceptions.ResourceExhausted, match="cancel"):
        client.cancel_operation(operations_pb2.CancelOperationRequest(name=operations[1]))
    deleting = [{"job_name": name, "project_id": PROJECT} for name in ("transferJobs/a", "transferJobs/b")]
    client.delete_transfer_job(deleting[0])
    with pytest.raises(exceptions.ResourceExhausted, match="delete"):
        client.delete_transfer_job(deleting[1])
    patch = {"transfer_job": {"description": "new"}, "update_transfer_job_field_mask": "description"}
    client.update_transfer_job(deleting[1] | patch)
    with pytest.raises(exceptions.ResourceExhausted, match="update"):
        client.update_transfer_job(deleting[1] | patch)


def ask(stage: Stage, verb: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
    url = stage.environment["EMULATOR_ADMIN"] + path
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, method=verb), timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_the_admin_endpoint(stage: Stage, client: Client) -> None:
    assert ask(stage, "POST", "/faults", {"service": "sts", "method": "CreateTransferJob", "error": "INTERNAL"})[0] == 200
    with pytest.raises(exceptions.InternalServerError):
        create(client)
    create(client)
    assert ask(stage, "GET", "/calls")[1]["sts"] == {"CreateTransferJob": 2}
    assert ask(stage, "GET", "/faults")[1]["faults"][0]["fired"] == 1
    assert ask(stage, "POST", "/settings", {"sts.objects_per_second": 7})[1]["sts.objects_per_second"] == 7
    status, told = ask(stage, "POST", "/settings", {"sts.typo": 7})
    assert (status, "unknown setting 'sts.typo'" in told["error"]) == (400, True)
    assert ask(stage, "POST", "/faults", {"nonsense": 1})[0] == 400
    assert ask(stage, "GET", "/nowhere")[0] == 400
    assert ask(stage, "POST", "/reset")[0] == 200
    assert ask(stage, "GET", "/calls")[1] == {}
