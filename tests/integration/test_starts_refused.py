"""Starts that the service refuses for the whole project, in its own words: who mends it is told what to type."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sts_manager.domain.location import place
from sts_manager.domain.model import Breaker, JobStatus
from sts_manager.routes.sts.spec import S3Access, TransferSettings
from tests.integration.test_reconciler_on_stage import Migration
from tests.stages import SINK, SOURCE, at_sink, fill, gcs_client, wait_for
from tools.emulators.stage import KEYS, PROJECT, Stage

AGENT = f"{PROJECT}@storage-transfer-service.iam.gserviceaccount.com"
GRANT = "gcloud storage buckets add-iam-policy-binding gs://{} --member=serviceAccount:" + AGENT + " --role=roles/storage.{}"


@pytest.fixture
def migration(stage: Stage, tmp_path: Path) -> Iterator[Migration]:
    made = Migration(stage, tmp_path)
    yield made
    made.store.close()


def roles(bucket: str, *names: str) -> dict[str, Any]:
    """The setting that gives the agent just these roles on a bucket."""
    return {"gcs.policies": {bucket: [{"role": f"roles/storage.{one}", "members": [f"serviceAccount:{AGENT}"]} for one in names]}}


def open_breaker(migration: Migration) -> Breaker:
    """The breaker after one pass that starts, and one that records what became of it."""
    for _ in range(2):
        migration.reconciler.run_pass(dispatch=True)
    breaker = migration.store.control().breaker
    assert breaker is not None
    return breaker


@pytest.mark.parametrize("code", ["FAILED_PRECONDITION", "PERMISSION_DENIED", "NOT_FOUND"])
def test_an_agent_that_may_not_look_at_the_sink_opens_the_breaker_and_burns_nothing(migration: Migration, code: str) -> None:
    stage = migration.stage
    fill(stage, {"p/x": b"1", "q/x": b"1"})
    stage.ledger.change({"sts.gcs_bucket_code": code, **roles(SINK, "objectAdmin")})
    migration.load("p/", "q/")
    breaker = open_breaker(migration)
    assert breaker.code == code
    assert GRANT.format(SINK, "legacyBucketReader") in breaker.message
    assert GRANT.format(SINK, "objectAdmin") in breaker.message
    assert {(migration.row(one).status, migration.row(one).attempt) for one in ("p/", "q/")} == {(JobStatus.WAITING, 0)}
    # The person does as told: the probe goes through, and everything is done with first attempts.
    stage.ledger.change(roles(SINK, "objectAdmin", "legacyBucketReader"))
    migration.until_ended()
    assert migration.store.control().breaker is None
    assert {migration.row(one).attempt for one in ("p/", "q/")} == {1}
    assert at_sink(stage) == {"p/x": b"1", "q/x": b"1"}


def test_of_a_cloud_storage_source_the_end_that_the_service_names_is_told(stage: Stage, migration: Migration) -> None:
    with gcs_client(stage) as gcs:
        gcs.create_bucket(SOURCE).blob("p/x").upload_from_string(b"1")
        gcs.create_bucket(SINK)
    stage.ledger.change(roles(SOURCE, "objectViewer"))
    migration.settings = TransferSettings(project=PROJECT, source=place(f"gs://{SOURCE}"), sink=place(f"gs://{SINK}"))
    migration.restarted()
    migration.load("p/")
    told = open_breaker(migration).message
    assert GRANT.format(SOURCE, "legacyBucketReader") in told
    assert GRANT.format(SOURCE, "objectViewer") in told
    assert SINK not in told
    stage.ledger.change(roles(SOURCE, "objectViewer", "legacyBucketReader"))
    migration.until_ended()
    assert at_sink(stage) == {"p/x": b"1"}


@pytest.mark.parametrize(
    ("source", "secret", "said"),
    [
        ("no-such-bucket", KEYS.secret, "The specified bucket does not exist"),
        (SOURCE, "wrong", "The request signature we calculated does not match"),
    ],
)
def test_of_an_s3_source_the_bucket_is_told_and_that_the_api_may_be_off(
    migration: Migration, source: str, secret: str, said: str
) -> None:
    fill(migration.stage, {"p/x": b"1"})
    access = S3Access(key_id=KEYS.key_id, secret_key=secret)
    migration.settings = TransferSettings(
        project=PROJECT, source=place(f"s3://{source}"), sink=place(f"gs://{SINK}"), s3_access=access
    )
    migration.restarted()
    migration.load("p/")
    breaker = open_breaker(migration)
    assert breaker.code == "PERMISSION_DENIED"
    for part in (said, f"s3://{source}", "s3:GetBucketLocation", "gcloud services enable storagetransfer.googleapis.com"):
        assert part in breaker.message
    assert secret not in breaker.message


def test_an_api_that_is_off_is_told_with_the_command_that_turns_it_on(migration: Migration) -> None:
    fill(migration.stage, {"p/x": b"1"})
    migration.stage.ledger.change({"apis.disabled": ["storagetransfer.googleapis.com"]})
    migration.load("p/")
    told = open_breaker(migration).message
    assert f"gcloud services enable storagetransfer.googleapis.com --project {PROJECT}" in told
    assert "s3:GetBucketLocation" not in told, "the cause is known"
    migration.stage.ledger.change({"apis.disabled": []})
    migration.until_ended()


@pytest.mark.parametrize("error", ["FAILED_PRECONDITION", "ALREADY_EXISTS", "ABORTED"])
@pytest.mark.parametrize("applied", [True, False])
def test_a_run_that_finds_another_at_work_takes_its_operation_over(migration: Migration, error: str, applied: bool) -> None:
    """Which code the service has for that is not documented: none of them may start a second operation, or end the prefix."""
    fill(migration.stage, {"p/x": b"1"})
    migration.stage.ledger.add_rule(
        {"service": "sts", "method": "RunTransferJob", "error": error, "applied": applied, "times": 1}
    )
    migration.load("p/")
    migration.until_ended()
    service = migration.stage.sts
    assert service is not None
    assert len(service.operations) == 1
    assert (migration.row("p/").status, migration.row("p/").attempt) == (JobStatus.DONE, 1)


def test_an_operation_that_finds_its_bucket_forbidden_is_the_projects_fault(migration: Migration) -> None:
    """As the create may have been made before somebody took the role away."""
    fill(migration.stage, {"p/x": b"1", "q/x": b"1"})
    migration.stage.ledger.change({"sts.buckets_checked_at": "run", **roles(SINK, "objectAdmin")})
    migration.load("p/", "q/")
    wait_for(lambda: migration.reconciler.run_pass(dispatch=True).plan.breaker is not None)
    breaker = migration.store.control().breaker
    assert breaker is not None
    assert (breaker.code, SINK in breaker.message) == ("FAILED_PRECONDITION", True)
    assert {migration.row(one).tries for one in ("p/", "q/")} == {0}


def test_a_start_that_is_answered_oddly_for_ever_ends_the_prefix(migration: Migration) -> None:
    fill(migration.stage, {"p/x": b"1"})
    migration.policy = replace(migration.policy, uncertain_asks=5, uncertain_for=timedelta(0))
    migration.restarted()
    migration.stage.ledger.add_rule({"service": "sts", "method": "CreateTransferJob", "error": "INTERNAL", "times": 0})
    migration.load("p/")
    migration.until_ended()
    job = migration.row("p/")
    assert (job.status, job.error_code, job.attempt) == (JobStatus.ERROR, "START_UNCERTAIN", 1)
    assert "5 times" in job.error_message
    assert migration.stage.ledger.calls["sts", "CreateTransferJob"] == 5
