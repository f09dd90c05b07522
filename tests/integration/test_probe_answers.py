"""`doctor --probe` where a service answers otherwise than the stage does by itself: contradicting, or safe either way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sts_manager.cli.probe_options import ProbeOptions
from sts_manager.doctor.probe import creates, monitoring, transfers, uploads
from sts_manager.doctor.probe.context import Clients
from sts_manager.doctor.probe.observation import Outcome
from sts_manager.doctor.probe.source import OWNER
from sts_manager.doctor.probe.storage import CloudStorage
from sts_manager.doctor.probe.transfer_log import LOG
from tests.probes import OBJECTS, Probing, contradicted, remains, rows
from tests.stages import SINK, fill
from tools.emulators.stage import Stage

DOCUMENT = Path(__file__).parents[2] / "docs" / "probe.md"
BIGQUERY = {"store": "bigquery", "dataset_location": "europe-west1"}
ROLE = "arn:aws:iam::123456789012:role/stage-reader"


@pytest.fixture
def probing(stage: Stage, tmp_path: Path) -> Probing:
    fill(stage, OBJECTS)
    return Probing(stage, tmp_path)


class Tampering:
    """A session to Cloud Storage whose answers are changed on their way: `change` is given the method, the URL and the answer."""

    def __init__(self, session: Any, change: Callable[[str, str, Any], None]) -> None:
        self._session, self._change = session, change

    def request(self, method: str, url: str, **more: Any) -> Any:
        answer = self._session.request(method, url, **more)
        self._change(method, url, answer)
        return answer


def tampered(change: Callable[[str, str, Any], None]) -> Callable[[Clients], Clients]:
    def apply(clients: Clients) -> Clients:
        session: Any = Tampering(clients.storage.session, change)
        return replace(clients, storage=CloudStorage(session, clients.storage.base))

    return apply


def edit(answer: Any, change: Callable[[dict[str, Any]], None]) -> None:
    """Change each object's resource in an answer: of a listing, or alone."""
    value = json.loads(answer.content)
    for resource in value.get("items", [value]):
        change(resource)
    answer._content = json.dumps(value).encode()


def no_hash(method: str, _url: str, answer: Any) -> None:
    if method == "PUT":
        answer.raw.headers.discard("x-goog-hash")


def as_it_comes(_method: str, _url: str, _answer: Any) -> None:
    """The stage sends a line for each hash, as the service does."""


def one_line(method: str, _url: str, answer: Any) -> None:
    """As a proxy may join them."""
    hashes = answer.raw.headers.getlist("x-goog-hash")
    if method == "PUT" and hashes:
        answer.raw.headers.discard("x-goog-hash")
        answer.raw.headers.add("x-goog-hash", ",".join(hashes))


def no_metadata(method: str, url: str, answer: Any) -> None:
    if method == "GET" and "/o/" in url and answer.status_code == 200:
        edit(answer, lambda resource: resource.pop("metadata", None))


def another_owner(method: str, url: str, answer: Any) -> None:
    """As if the service had changed a value of the object that it copied."""
    if method == "GET" and "%2Fmetadata" in url and answer.status_code == 200:
        edit(answer, lambda resource: resource["metadata"].update(owner="Zo? ??"))


def decoded_owner(method: str, url: str, answer: Any) -> None:
    if method == "GET" and "%2Fmetadata" in url and answer.status_code == 200:
        edit(answer, lambda resource: resource["metadata"].update(owner=OWNER))


def no_body(method: str, url: str, answer: Any) -> None:
    if method == "PUT" and "upload_id=" in url:
        answer._content = b""
        answer.raw.headers["x-goog-generation"] = "17"


def no_listed_hash(method: str, url: str, answer: Any) -> None:
    if method == "GET" and "crc32c" in url:
        edit(answer, lambda resource: resource.pop("crc32c", None))


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (no_hash, {uploads.PUT}),
        (no_metadata, {uploads.METADATA, transfers.COPY}),
        (no_body, {uploads.SESSION}),
        (no_listed_hash, {uploads.LISTING}),
    ],
)
def test_an_answer_of_cloud_storage_that_was_not_expected_is_named(
    stage: Stage, probing: Probing, change: Callable[[str, str, Any], None], wanted: set[str]
) -> None:
    probing.flags = {"publish_heartbeat": False}
    report = probing.run(tampered(change))
    assert contradicted(report) == wanted
    assert remains(stage) == []


@pytest.mark.parametrize(
    ("change", "outcome", "form"), [(another_owner, Outcome.CONTRADICTS, "lost"), (decoded_owner, Outcome.AGREES, "decoded")]
)
def test_metadata_that_the_service_carries_is_read_at_the_destination(
    stage: Stage, probing: Probing, change: Callable[[str, str, Any], None], outcome: Outcome, form: str
) -> None:
    probing.flags, probing.options = {"publish_heartbeat": False}, ProbeOptions(write_source=True)
    report = probing.run(tampered(change))
    assert (rows(report)[transfers.CARRIED].outcome, report.answers["metadata_not_ascii"]) == (outcome, form)
    assert contradicted(report) == ({transfers.CARRIED} if outcome is Outcome.CONTRADICTS else set())
    assert remains(stage) == []


@pytest.mark.parametrize(("change", "number"), [(as_it_comes, 2), (one_line, 1)])
def test_lines_of_hashes_are_counted_as_they_come(
    stage: Stage, probing: Probing, change: Callable[[str, str, Any], None], number: int
) -> None:
    probing.flags = {"publish_heartbeat": False}
    put = rows(probing.run(tampered(change)))[uploads.PUT]
    assert put.observed.startswith(f"{number} {'line' if number == 1 else 'lines'} of x-goog-hash, read as: crc32c, md5;")
    assert len([line for line in put.details["lines"] if line.startswith("x-goog-hash")]) == number
    assert put.outcome is Outcome.AGREES


KEY = "projects/p/locations/us/keyRings/r/cryptoKeys/k"


@pytest.mark.parametrize("default", [False, True])
def test_a_listing_without_hashes_is_as_assumed_under_a_key(stage: Stage, probing: Probing, default: bool) -> None:
    probing.flags = {"publish_heartbeat": False}
    if default:
        stage.ledger.change({"gcs.buckets": {SINK: {"encryption": {"defaultKmsKeyName": KEY}}}})
    else:
        probing.options = ProbeOptions(kms_key=KEY)
    report = probing.run()
    assert not report.failed, contradicted(report)
    assert rows(report)[uploads.LISTING_KEY].outcome is Outcome.AGREES
    assert rows(report)[uploads.LISTING_KEY].observed.startswith("no hashes in the listing")
    assert rows(report)[uploads.LISTING].outcome is (Outcome.LEFT_OUT if default else Outcome.AGREES)
    assert report.answers["listing_hashes_with_key"] == "no"


# Answers that are safe either way, and told


@pytest.mark.parametrize("code", ["FAILED_PRECONDITION", "PERMISSION_DENIED", "NOT_FOUND"])
def test_each_code_of_a_missing_destination_is_understood(stage: Stage, probing: Probing, code: str) -> None:
    stage.ledger.change({"sts.gcs_bucket_code": code})
    report = probing.run()
    assert rows(report)[creates.NO_DESTINATION].outcome is Outcome.AGREES
    assert report.answers["create_code_no_such_destination"] == code


def test_defaults_that_a_service_spells_out_are_told_and_harmless(stage: Stage, probing: Probing) -> None:
    probing.flags = BIGQUERY
    probing.prepare_store()
    stage.ledger.change({"sts.fill_defaults": True, "monitoring.fill_defaults": True})
    report = probing.run()
    assert rows(report)[transfers.SPEC].outcome is Outcome.NOTED
    assert "transfer_options.metadata_options.storage_class" in rows(report)[transfers.SPEC].observed
    assert rows(report)[monitoring.POLICIES].outcome is Outcome.AGREES
    assert contradicted(report) == set()


@pytest.mark.parametrize(("way", "became"), [("fail", "failed"), ("refuse", "passed_over"), ("take", "copied")])
def test_what_becomes_of_a_folder_in_a_manifest_is_told(stage: Stage, probing: Probing, way: str, became: str) -> None:
    stage.ledger.change({"sts.manifest_folders": way})
    report = probing.run()
    assert rows(report)[transfers.FOLDER].outcome is Outcome.AGREES
    assert report.answers["manifest_folders"] == became


def test_a_log_that_comes_late_is_waited_for(stage: Stage, probing: Probing) -> None:
    stage.ledger.change({"logging.delay_seconds": 0.5})
    report = probing.run()
    assert rows(report)[LOG].outcome is Outcome.AGREES
    assert int(report.answers["log_delay_seconds"]) > 0


def test_a_log_that_does_not_come_in_time_settles_nothing(stage: Stage, probing: Probing) -> None:
    # The clock of the test goes faster than that of the stage's quota.
    stage.ledger.change({"logging.delay_seconds": 3600.0, "logging.reads_per_minute": 1000})
    report = probing.run()
    assert rows(report)[LOG].outcome is Outcome.UNSETTLED
    assert "no entry of the operation within 180 s" in rows(report)[LOG].observed
    assert "log_delay_seconds" not in report.answers


class Rewriting:
    """Alert policies of a service that keeps another duration than it was given."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def list_alert_policies(self, **given: Any) -> list[Any]:
        listed = list(self._client.list_alert_policies(**given))
        for policy in listed:
            for condition in policy.conditions:
                if "condition_threshold" in condition:
                    condition.condition_threshold.duration += timedelta(minutes=1)
        return listed


def test_policies_that_come_back_changed_are_named(stage: Stage, probing: Probing) -> None:
    def change(clients: Clients) -> Clients:
        def policies(project: str) -> Any:
            assert clients.policies is not None
            made: Any = clients.policies(project)
            made._alerts = Rewriting(made._alerts)
            return made

        return replace(clients, policies=policies)

    report = probing.run(change)
    assert contradicted(report) == {monitoring.POLICIES}
    assert "updated (conditions)" in rows(report)[monitoring.POLICIES].observed
    assert remains(stage) == []
