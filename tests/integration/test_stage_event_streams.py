"""Jobs with an event stream on the stage: an operation a day, one after the other, seen through the official client."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.cloud import storage_transfer_v1 as sts
from google.cloud.storage_transfer_v1.services.storage_transfer_service import transports

from tests.integration.test_stage_sts import Client, create, get, listed
from tests.stages import SOURCE, at_sink, fill, s3_client, wait_for
from tools.emulators.stage import PROJECT, Stage

QUEUE = "arn:aws:sqs:us-east-1:123456789012:changes"
JOB = "transferJobs/follows"
State = sts.TransferOperation.Status
DAY_S = 0.5


@pytest.fixture
def client(stage: Stage) -> Iterator[Client]:
    fill(stage, {"p/old": b"x"})
    stage.ledger.change({"sqs.queues": {QUEUE: SOURCE}})
    channel = grpc.insecure_channel(stage.environment["STORAGE_TRANSFER_EMULATOR_HOST"])
    yield Client(transport=transports.StorageTransferServiceGrpcTransport(channel=channel))
    channel.close()


def follow(client: Client, **stream: object) -> str:
    create(client, JOB, event_stream={"name": QUEUE, **stream})
    return latest(client)


def latest(client: Client) -> str:
    return str(client.get_transfer_job({"job_name": JOB, "project_id": PROJECT}).latest_operation_name)


def states(client: Client) -> list[str]:
    """Of all operations of the job, oldest first."""
    return [get(client, name).status.name for name in reversed(listed(client, jobNames=[JOB]))]


def put(key: str, stage: Stage, body: bytes = b"new") -> None:
    with s3_client(stage) as source:
        source.put_object(Bucket=SOURCE, Key=key, Body=body)


def test_the_days_operation_ends_and_the_next_one_begins(stage: Stage, client: Client) -> None:
    first = follow(client)
    put("p/1", stage)
    wait_for(lambda: "p/1" in at_sink(stage))
    stage.ledger.change({"sts.follow_operation_seconds": DAY_S})
    wait_for(lambda: len(listed(client, jobNames=[JOB])) > 1)
    stage.ledger.change({"sts.follow_operation_seconds": 86_400})
    assert latest(client) != first
    wait_for(lambda: get(client, first).status is State.SUCCESS)
    assert get(client, first).end_time is not None
    put("p/2", stage)
    wait_for(lambda: "p/2" in at_sink(stage))
    counted = [get(client, name).counters.objects_copied_to_sink for name in (first, latest(client))]
    assert counted == [1, 1]
    assert states(client)[-1] == "IN_PROGRESS"


@pytest.mark.parametrize("end", ["FAILED", "SUCCESS"])
def test_failed_objects_end_the_operation_as_they_end_any_other(stage: Stage, client: Client, end: str) -> None:
    stage.ledger.change({"sts.failed_objects_end": end})
    first = follow(client)
    stage.ledger.add_rule({"service": "s3", "method": "GetObject", "error": "InternalError", "times": 0})
    put("p/bad", stage)
    wait_for(lambda: get(client, first).counters.objects_from_source_failed == 1)
    assert get(client, first).status is State.IN_PROGRESS, "the day is not over"
    stage.ledger.change({"sts.follow_operation_seconds": DAY_S})
    wait_for(lambda: get(client, first).status.name == end)
    wait_for(lambda: latest(client) != first)
    assert "p/bad" not in at_sink(stage), "its event is spent"


def test_both_run_while_an_object_is_under_way(stage: Stage, client: Client) -> None:
    first = follow(client)
    stage.ledger.change({"sts.bytes_per_second": 0.001})  # until it is let go
    put("p/large", stage, b"x" * 300)
    wait_for(lambda: not stage.ledger.events[SOURCE])
    assert stage.sts is not None
    with stage.sts.lock:
        stage.sts.streams._began[first] -= 86_400
    wait_for(lambda: latest(client) != first)
    assert states(client)[:2] == ["IN_PROGRESS", "IN_PROGRESS"]
    stage.ledger.change({"sts.bytes_per_second": 0})
    wait_for(lambda: get(client, first).status is State.SUCCESS)
    assert get(client, first).counters.objects_copied_to_sink == 1


def test_between_two_operations_there_may_be_none(stage: Stage, client: Client) -> None:
    first = follow(client)
    stage.ledger.change({"sts.follow_operation_seconds": 0.1, "sts.follow_gap_seconds": 3600})
    wait_for(lambda: get(client, first).status is State.SUCCESS)
    put("p/between", stage)
    assert states(client) == ["SUCCESS"]
    assert latest(client) == first
    stage.ledger.change({"sts.follow_operation_seconds": 86_400, "sts.follow_gap_seconds": -86_400})
    wait_for(lambda: latest(client) != first)
    wait_for(lambda: "p/between" in at_sink(stage))


def test_after_a_cancel_the_job_goes_on_with_the_next_day(stage: Stage, client: Client) -> None:
    first = follow(client)
    stage.sts.cancel(first)  # type: ignore[union-attr]
    assert states(client) == ["ABORTED"]
    stage.ledger.change({"sts.follow_operation_seconds": DAY_S})
    wait_for(lambda: latest(client) != first)


@pytest.mark.parametrize("how", ["deleted", "disabled", "expired"])
def test_a_job_that_nobody_wants_any_more_has_no_next_operation(stage: Stage, client: Client, how: str) -> None:
    over = datetime.now(UTC) + timedelta(seconds=DAY_S if how == "expired" else 86_400)
    first = follow(client, event_stream_expiration_time=over)
    if how == "deleted":
        client.delete_transfer_job({"job_name": JOB, "project_id": PROJECT})
    elif how == "disabled":
        job = {"status": "DISABLED"}
        mask = {"paths": ["status"]}
        asked = {"job_name": JOB, "project_id": PROJECT, "transfer_job": job, "update_transfer_job_field_mask": mask}
        client.update_transfer_job(asked)
    wait_for(lambda: get(client, first).status is (State.ABORTED if how == "deleted" else State.SUCCESS))
    stage.ledger.change({"sts.follow_operation_seconds": 0})
    put("p/late", stage)
    stage.sts.tend()  # type: ignore[union-attr]
    assert len(states(client)) == 1
    assert "p/late" not in at_sink(stage)
