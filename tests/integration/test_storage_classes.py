"""Transfer jobs that are limited to storage classes: made over REST, with the manners of those that are made over gRPC."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
import requests

from sts_manager.clock import SystemClock
from sts_manager.domain.errors import Denied, NameTaken, Permanent, Retryable, Throttled
from sts_manager.domain.location import place
from sts_manager.domain.model import Route, StartJob
from sts_manager.domain.names import JobName, Prefix
from sts_manager.routes.sts.rest import PassedOver, TransferRest
from sts_manager.routes.sts.route import StsClient, StsRoute, connect
from sts_manager.routes.sts.spec import S3Access, TransferSettings
from tests.stages import SINK, SOURCE, archive, at_sink, fill, restore, wait_for
from tools.emulators.stage import KEYS, PROJECT, Stage

ORDER = StartJob(prefix=Prefix("p/"), attempt=1, job_name=JobName("transferJobs/j-a1"), route=Route.STS_S3)


def client_of(stage: Stage, rest: str | None = None) -> StsClient:
    found = rest or stage.environment["STORAGE_TRANSFER_REST_EMULATOR_HOST"]
    return connect(PROJECT, stage.environment["STORAGE_TRANSFER_EMULATOR_HOST"], SystemClock(), found)


def route(client: StsClient, *classes: str) -> StsRoute:
    return StsRoute(
        {PROJECT: client},
        TransferSettings(
            project=PROJECT,
            source=place(f"s3://{SOURCE}"),
            sink=place(f"gs://{SINK}"),
            s3_access=S3Access(key_id=KEYS.key_id, secret_key=KEYS.secret),
            storage_classes=classes,
        ),
    )


@pytest.fixture
def cold(stage: Stage) -> Stage:
    fill(stage, {"p/warm": b"warm"})
    for name in ("p/cold", "p/restored"):
        archive(stage, name, "GLACIER")
    restore(stage, "p/restored")
    return stage


def test_a_class_that_is_named_is_moved_when_it_is_restored(cold: Stage) -> None:
    client = client_of(cold)
    started = route(client, "GLACIER", "STANDARD").start(ORDER)
    assert started.operation_name is not None
    name = started.operation_name
    wait_for(lambda: route(client).operations([name])[name].raw_state == "SUCCESS")
    assert set(at_sink(cold)) == {"p/warm", "p/restored"}
    assert client.passed_over(name) == PassedOver(glacier=1, deep_archive=0)
    assert cold.sts is not None
    assert cold.sts.jobs[ORDER.job_name].description == "STS Manager (only GLACIER, STANDARD): p/ (attempt 1)"


def test_a_job_with_other_classes_is_another_job(cold: Stage) -> None:
    client = client_of(cold)
    route(client, "GLACIER").start(ORDER)
    assert route(client, "GLACIER").start(ORDER).adopted
    for classes in (("GLACIER", "STANDARD"), ()):
        with pytest.raises(NameTaken, match="storage_classes"):
            route(client, *classes).start(ORDER)
    plain = replace(ORDER, attempt=2, job_name=JobName("transferJobs/j-a2"))
    route(client).start(plain)
    with pytest.raises(NameTaken, match="storage_classes"):
        route(client, "GLACIER").start(plain)


@pytest.mark.parametrize(
    ("code", "raised"),
    [
        ("UNAVAILABLE", Retryable),
        ("DEADLINE_EXCEEDED", Retryable),
        ("INTERNAL", Retryable),
        ("RESOURCE_EXHAUSTED", Throttled),
        ("PERMISSION_DENIED", Denied),
        ("UNAUTHENTICATED", Denied),
        ("INVALID_ARGUMENT", Permanent),
    ],
)
def test_errors_are_those_of_grpc(cold: Stage, code: str, raised: type[Exception]) -> None:
    told = {}
    for classes in ((), ("GLACIER",)):
        cold.ledger.add_rule({"service": "sts", "method": "CreateTransferJob", "error": code, "message": "because"})
        with pytest.raises(raised) as caught:
            route(client_of(cold), *classes).start(ORDER)
        told[classes] = (type(caught.value), str(caught.value), getattr(caught.value, "code", ""))
    assert told[()] == told[("GLACIER",)]


def test_an_answer_that_is_lost_is_found_again(cold: Stage) -> None:
    cold.ledger.add_rule({"service": "sts", "method": "CreateTransferJob", "applied": True})
    client = client_of(cold)
    with pytest.raises(Retryable):
        route(client, "GLACIER").start(ORDER)
    assert route(client, "GLACIER").start(ORDER).operation_name is not None
    assert cold.sts is not None
    assert len(cold.sts.jobs) == 1


def test_what_is_no_answer_is_no_success_and_shows_no_key(cold: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(Retryable) as caught:
            route(client_of(cold, away), "GLACIER").start(ORDER)
    assert KEYS.secret not in str(caught.value)

    def portal(*_: object, **__: object) -> requests.Response:
        answer = requests.Response()
        answer.status_code, answer._content = 200, b"<html>log in</html>"
        return answer

    monkeypatch.setattr(requests.Session, "request", portal)
    with pytest.raises(Retryable, match="status 200"):
        route(client_of(cold), "GLACIER").start(ORDER)


def test_an_emulator_without_rest_is_never_left_for_the_service(stage: Stage) -> None:
    client = connect(PROJECT, stage.environment["STORAGE_TRANSFER_EMULATOR_HOST"], SystemClock())
    with pytest.raises(Permanent, match="STORAGE_TRANSFER_REST_EMULATOR_HOST"):
        route(client, "GLACIER").start(ORDER)


def test_the_service_is_asked_with_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, bool]] = []

    class Session(requests.Session):
        def request(self, method: str, url: str, **kwargs: object) -> requests.Response:  # type: ignore[override]
            asked.append((method, url, bool(kwargs["allow_redirects"])))
            answer = requests.Response()
            answer.status_code, answer._content = 200, b'{"name": "transferJobs/x"}'
            return answer

    monkeypatch.setattr("google.auth.default", lambda scopes: (scopes, "project"))
    monkeypatch.setattr("sts_manager.routes.sts.rest.AuthorizedSession", lambda _credentials: Session())
    TransferRest().get("transferJobs/x", "project-1", 1.0)
    assert asked == [("GET", "https://storagetransfer.googleapis.com/v1/transferJobs/x", False)]
