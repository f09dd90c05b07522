"""The suite's projects are those it is given; each service takes them, keeps them apart, and refuses any other."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery, storage  # type: ignore[attr-defined]
from google.cloud import monitoring_v3 as monitoring
from google.cloud import storage_transfer_v1 as sts
from google.cloud.monitoring_v3.services.metric_service.transports import MetricServiceGrpcTransport
from google.cloud.storage_transfer_v1.services.storage_transfer_service.transports import StorageTransferServiceGrpcTransport
from google.pubsub_v1 import PublisherClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport

from tools.emulators.stage import Stage

ONE, TWO, NONE = "first-project", "second-project", "third-project"


@pytest.fixture(scope="module")
def suite() -> Iterator[Stage]:
    made = Stage(projects=(ONE, TWO))
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def _empty(suite: Stage) -> None:
    suite.reset()


@contextmanager
def channel(suite: Stage, variable: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(suite.environment[variable]) as opened:
        yield opened


@contextmanager
def warehouse(suite: Stage, project: str) -> Iterator[bigquery.Client]:
    options = {"api_endpoint": suite.environment["BIGQUERY_EMULATOR_HOST"]}
    made = bigquery.Client(project=project, credentials=AnonymousCredentials(), client_options=options)  # type: ignore[no-untyped-call]
    with closing(made):
        yield made


@contextmanager
def buckets(suite: Stage, project: str) -> Iterator[Any]:
    options = {"api_endpoint": suite.environment["STORAGE_EMULATOR_HOST"]}
    made = storage.Client(project=project, credentials=AnonymousCredentials(), client_options=options)  # type: ignore[no-untyped-call]
    with closing(made):
        yield made


def post(url: str, body: object) -> tuple[int, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_the_environment_names_the_first_one(suite: Stage) -> None:
    assert suite.environment["GOOGLE_CLOUD_PROJECT"] == ONE


def test_bigquery_keeps_datasets_and_jobs_of_each_apart(suite: Stage) -> None:
    for project in (ONE, TWO):
        with warehouse(suite, project) as client:
            client.create_dataset("d")
            client.create_table(bigquery.Table(f"{project}.d.t", schema=[bigquery.SchemaField("x", "STRING")]))
            client.query(f"INSERT INTO d.t (x) VALUES ('{project}')").result()
            assert [row.x for row in client.query(f"SELECT x FROM `{project}.d.t`").result()] == [project]
    with warehouse(suite, ONE) as client:
        with pytest.raises(exceptions.ServerError, match="models no query of project first-project over second-project"):
            client.query(f"SELECT x FROM `{TWO}.d.t`", job_retry=None).result(job_retry=None)
        with pytest.raises(exceptions.Forbidden, match="third-project"):
            client.query(f"SELECT x FROM `{NONE}.d.t`").result()
    with warehouse(suite, NONE) as client, pytest.raises(exceptions.Forbidden, match="third-project"):
        client.create_dataset("d")
    assert suite.bigquery is not None
    assert len(suite.bigquery.billed()) == 6


def test_pubsub_takes_them_and_no_other(suite: Stage) -> None:
    with channel(suite, "PUBSUB_EMULATOR_HOST") as opened:
        client: Any = PublisherClient(transport=PublisherGrpcTransport(channel=opened))
        for project in (ONE, TWO):
            client.create_topic(name=f"projects/{project}/topics/work")
        with pytest.raises(exceptions.NotFound, match="third-project"):
            client.create_topic(name=f"projects/{NONE}/topics/work")


def test_the_transfer_service_keeps_jobs_and_operations_of_each_apart(suite: Stage) -> None:
    for name, project in (("from-here", ONE), ("to-there", ONE)):
        suite.objects.create_bucket(name, project=project)
    spec = {"gcs_data_source": {"bucket_name": "from-here"}, "gcs_data_sink": {"bucket_name": "to-there"}}
    with channel(suite, "STORAGE_TRANSFER_EMULATOR_HOST") as opened:
        client = sts.StorageTransferServiceClient(transport=StorageTransferServiceGrpcTransport(channel=opened))
        for project in (ONE, TWO):
            job = {"name": f"transferJobs/{project}", "project_id": project, "status": "ENABLED", "transfer_spec": spec}
            client.create_transfer_job({"transfer_job": job})
            operation = client.run_transfer_job({"job_name": job["name"], "project_id": project}).operation.name
            found = client.get_operation({"name": operation})
            assert sts.TransferOperation.deserialize(found.metadata.value).project_id == project
            listed = client.list_transfer_jobs({"filter": json.dumps({"projectId": project})})
            assert [one.name for one in listed] == [job["name"]]
        with pytest.raises(exceptions.PermissionDenied, match="third-project"):
            client.get_google_service_account({"project_id": NONE})


def test_monitoring_keeps_series_of_each_apart(suite: Stage) -> None:
    metric = "custom.googleapis.com/x"
    now = datetime.now(UTC)
    with channel(suite, "MONITORING_EMULATOR_HOST") as opened:
        client: Any = monitoring.MetricServiceClient(transport=MetricServiceGrpcTransport(channel=opened))

        def write(project: str, value: int) -> None:
            point = {"interval": {"end_time": now}, "value": {"int64_value": value}}
            resource = {"type": "global", "labels": {"project_id": project}}
            series = {"metric": {"type": metric}, "resource": resource, "points": [point]}
            client.create_time_series(name=f"projects/{project}", time_series=[series])

        write(ONE, 1)
        write(TWO, 2)
        for project, value in ((ONE, 1), (TWO, 2)):
            interval = {"start_time": now - timedelta(minutes=5), "end_time": now + timedelta(minutes=5)}
            wanted = {"name": f"projects/{project}", "filter": f'metric.type = "{metric}"', "interval": interval}
            (series,) = client.list_time_series(request=wanted)
            assert [point.value.int64_value for point in series.points] == [value]
            assert client.get_metric_descriptor(name=f"projects/{project}/metricDescriptors/{metric}").type == metric
        with pytest.raises(exceptions.PermissionDenied, match="third-project"):
            write(NONE, 3)


def test_a_bucket_is_of_the_project_that_made_it(suite: Stage) -> None:
    numbers = set()
    for project in (ONE, TWO):
        with buckets(suite, project) as client:
            made = client.create_bucket(f"bucket-of-{project}")
            numbers.add(made.project_number)
            assert [bucket.name for bucket in client.list_buckets()] == [made.name]
            members = {member for binding in made.get_iam_policy().bindings for member in binding["members"]}
            assert members == {f"serviceAccount:{project}@storage-transfer-service.iam.gserviceaccount.com"}
    assert len(numbers) == 2
    with buckets(suite, NONE) as client:
        for call in (lambda: client.create_bucket("bucket-of-none"), lambda: list(client.list_buckets())):
            with pytest.raises(exceptions.BadRequest, match="Unknown project id: third-project"):
                call()
        assert client.bucket(f"bucket-of-{ONE}").exists(), "names of buckets are everybody's"
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(f"{suite.environment['STORAGE_EMULATOR_HOST']}/storage/v1/b", timeout=10)


def test_resource_manager_and_logging_take_them_and_no_other(suite: Stage) -> None:
    manager, logging = (suite.environment[f"{name}_EMULATOR_HOST"] for name in ("CLOUDRESOURCEMANAGER", "LOGGING"))
    for project, status in ((ONE, 200), (TWO, 200), (NONE, 403)):
        assert post(f"{manager}/v1/projects/{project}:testIamPermissions", {"permissions": ["a.b.c"]})[0] == status
        entry = {"logName": f"projects/{project}/logs/x", "severity": "ERROR", "timestamp": "2026-11-24T00:00:00Z"}
        suite.ledger.log_entries.append((0.0, entry))
        asked = {"resourceNames": [f"projects/{project}"], "filter": 'severity="ERROR"'}
        told = post(f"{logging}/v2/entries:list", asked)
        assert (told[0], told[1].get("entries")) == (status, [entry] if status == 200 else None)


def test_more_projects_by_setting(suite: Stage) -> None:
    suite.ledger.change({"projects.others": [NONE]})
    with buckets(suite, NONE) as client:
        client.create_bucket("bucket-of-none")
    suite.reset()
    with buckets(suite, NONE) as client, pytest.raises(exceptions.BadRequest):
        client.create_bucket("bucket-of-none")
    with buckets(suite, TWO) as client:
        client.create_bucket("bucket-of-two")


@pytest.mark.parametrize("names", [(), ("UPPER-CASE",), ("short",), ("same-name", "same-name"), ("ends-in-",)])
def test_what_is_no_project_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="project"):
        Stage(only=(), projects=names)
