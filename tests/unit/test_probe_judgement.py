"""What a probe says of each answer that a service may give: as assumed one way, contradicting the other."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
import requests
from google.cloud import storage_transfer_v1 as sts

from cdn_worker.domain.integrity import goog_hash
from cdn_worker.domain.metadata import SOURCE_ETAG
from sts_manager.doctor.probe import creates, transfer_log, transfers, uploads
from sts_manager.doctor.probe.creates import CreateFacts, classify
from sts_manager.doctor.probe.observation import Outcome
from sts_manager.doctor.probe.operations import JobStart, OperationTrace, compare_specs
from sts_manager.doctor.probe.source import CACHE_CONTROL, CONTENT_TYPE, OWNER, TEAM, SourceObject
from sts_manager.doctor.probe.storage import Answer, CloudStorage
from sts_manager.domain.errors import Denied, Permanent, Retryable, Throttled
from sts_manager.domain.model import Counters, ErrorBreakdown, OperationSnapshot, OperationState
from sts_manager.domain.names import OperationName

AGREES, CONTRADICTS, NOTED, UNSETTLED = Outcome.AGREES, Outcome.CONTRADICTS, Outcome.NOTED, Outcome.UNSETTLED
HASHES = goog_hash(crc32c=uploads.CRC32C)
CRC = base64.b64encode(uploads.CRC32C).decode()
SIZE = str(len(uploads.BODY))
WORD = f"=?UTF-8?B?{base64.b64encode(OWNER.encode()).decode()}?="
OPERATION = OperationName("transferOperations/op-1")


def put(*lines: tuple[str, str], status: int = 200, body: bytes = b"") -> Answer:
    return Answer(status, lines, body)


def document(value: Any, status: int = 200, kind: str = "application/json; charset=UTF-8", *more: tuple[str, str]) -> Answer:
    return Answer(status, (("Content-Type", kind), *more), json.dumps(value).encode())


LENGTH, GENERATION = ("x-goog-stored-content-length", SIZE), ("X-Goog-Generation", "17")
RESOURCE = {"generation": "17", "size": SIZE, "crc32c": CRC}


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (put(GENERATION, LENGTH, ("x-goog-hash", f"{HASHES},md5=xxxx")), AGREES),
        (put(GENERATION, LENGTH), CONTRADICTS),
        (put(GENERATION, LENGTH, ("x-goog-hash", "md5=xxxx")), CONTRADICTS),
        (put(GENERATION, LENGTH, ("x-goog-hash", "crc32c=AAAAAA==")), CONTRADICTS),
        (put(LENGTH, ("x-goog-hash", HASHES)), CONTRADICTS),
        (put(GENERATION, ("x-goog-hash", HASHES)), CONTRADICTS),
        (put(GENERATION, LENGTH, ("x-goog-hash", "no hash at all!")), CONTRADICTS),
        (put(status=503), UNSETTLED),
    ],
)
def test_a_put(answer: Answer, outcome: Outcome) -> None:
    assert uploads.judge_put(answer).outcome is outcome


def test_lines_of_a_hash_are_counted_as_they_came() -> None:
    two = put(GENERATION, LENGTH, ("x-goog-hash", "crc32c=" + CRC), ("x-goog-hash", "md5=AAAA"))
    assert uploads.judge_put(two).observed.startswith("2 lines of x-goog-hash")
    assert [one for one in uploads.judge_put(two).details["lines"] if one.startswith("x-goog-hash")] == [
        f"x-goog-hash: crc32c={CRC}",
        "x-goog-hash: md5=AAAA",
    ]


class TwoLines(BaseHTTPRequestHandler):
    """A service that repeats a header, as the real one does."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        for name, value in (("x-goog-hash", "crc32c=one"), ("Content-Length", "0"), ("X-Goog-Hash", "md5=two, and a comma")):
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_args: Any) -> None:
        """Nothing is logged."""


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_client_keeps_each_line_of_a_repeated_header() -> None:
    with serving(TwoLines) as url, requests.Session() as session:
        answer = CloudStorage(session, url).put("b", "n", b"x", {})
        assert answer.values("x-goog-hash") == ["crc32c=one", "md5=two, and a comma"]


@pytest.mark.parametrize(("status", "outcome"), [(412, AGREES), (200, CONTRADICTS), (400, CONTRADICTS), (429, UNSETTLED)])
def test_a_put_that_must_not_overwrite(status: int, outcome: Outcome) -> None:
    assert uploads.judge_again(put(status=status)).outcome is outcome


@pytest.mark.parametrize(
    ("answer", "outcome", "header"),
    [
        (document(RESOURCE), AGREES, "no"),
        (document(RESOURCE, 200, "application/json", GENERATION), AGREES, "yes"),
        (document(RESOURCE, 200, "text/plain"), CONTRADICTS, "no"),
        (document({"generation": "17", "size": SIZE}), CONTRADICTS, "no"),
        (document(RESOURCE | {"crc32c": "AAAAAA=="}), CONTRADICTS, "no"),
        (put(GENERATION, LENGTH, ("x-goog-hash", HASHES)), CONTRADICTS, "yes"),
    ],
)
def test_a_session(answer: Answer, outcome: Outcome, header: str) -> None:
    found = uploads.judge_session(answer)
    assert (found.outcome, found.answers["session_generation_header"]) == (outcome, header)


def test_metadata_is_read_back() -> None:
    assert uploads.judge_metadata(document({"metadata": {SOURCE_ETAG: uploads.ETAG}})).outcome is AGREES
    assert uploads.judge_metadata(document({"metadata": {"source-etag": uploads.ETAG}})).outcome is CONTRADICTS
    assert uploads.judge_metadata(document({})).outcome is CONTRADICTS
    assert uploads.judge_metadata(document({}, 404)).outcome is UNSETTLED


@pytest.mark.parametrize("subject", [uploads.PATCH, uploads.DELETE])
@pytest.mark.parametrize(
    ("status", "outcome"), [(200, AGREES), (204, AGREES), (412, CONTRADICTS), (403, UNSETTLED), (503, UNSETTLED)]
)
def test_a_change(subject: str, status: int, outcome: Outcome) -> None:
    found = uploads.judge_change(subject, document({}, status))
    assert found.outcome is outcome
    assert status != 403 or "storage.objects." in found.meaning


@pytest.mark.parametrize(
    ("status", "outcome"), [(200, AGREES), (404, CONTRADICTS), (405, NOTED), (501, NOTED), (403, UNSETTLED), (500, UNSETTLED)]
)
def test_a_move(status: int, outcome: Outcome) -> None:
    found = uploads.judge_move(document({}, status))
    assert found.outcome is outcome
    assert status != 403 or "storage.folders.create" in found.meaning


LISTED = {"name": "n", "size": SIZE, "generation": "17", "metadata": {SOURCE_ETAG: uploads.ETAG}}


@pytest.mark.parametrize(
    ("item", "key", "outcome", "subject"),
    [
        (LISTED | {"crc32c": CRC}, "", AGREES, uploads.LISTING),
        (LISTED, "", CONTRADICTS, uploads.LISTING),
        (LISTED | {"crc32c": CRC, "metadata": {}}, "", CONTRADICTS, uploads.LISTING),
        (LISTED, "k", AGREES, uploads.LISTING_KEY),
        (LISTED | {"crc32c": CRC}, "k", AGREES, uploads.LISTING_KEY),
        ({"name": "n", "size": SIZE, "generation": "17"}, "k", CONTRADICTS, uploads.LISTING_KEY),
        (LISTED | {"crc32c": CRC}, "ignored", UNSETTLED, uploads.LISTING_KEY),
    ],
)
def test_a_listing(item: dict[str, Any], key: str, outcome: Outcome, subject: str) -> None:
    whole = {"kmsKeyName": key} if key not in ("", "ignored") else {}
    found = uploads.judge_listing(item, with_key=bool(key), whole=whole)
    assert (found.outcome, found.subject) == (outcome, subject)
    if key == "k" and outcome is AGREES:
        assert found.answers["listing_hashes_with_key"] == ("yes" if "crc32c" in item else "no")


# Transfers


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Denied("m", code="FAILED_PRECONDITION"), AGREES),
        (Denied("m", code="NOT_FOUND"), AGREES),
        (Retryable("m", code="FAILED_PRECONDITION"), CONTRADICTS),
        (Permanent("m", code="INVALID_ARGUMENT"), CONTRADICTS),
        (Retryable("m"), UNSETTLED),
        (Throttled("m"), UNSETTLED),
    ],
)
def test_a_create_that_is_refused(error: Permanent | Retryable, outcome: Outcome) -> None:
    found = creates.judge_create(creates.NO_DESTINATION, classify(error))
    assert found.outcome is outcome
    assert error.code in found.observed


def test_a_create_that_is_not_refused_is_noted() -> None:
    assert creates.judge_create(creates.NO_SOURCE, CreateFacts(code="")).outcome is NOTED


def spec(**more: Any) -> sts.TransferSpec:
    made = sts.TransferSpec(
        aws_s3_data_source=sts.AwsS3Data(
            bucket_name="s", aws_access_key=sts.AwsAccessKey(access_key_id="k", secret_access_key="x")
        ),
        gcs_data_sink=sts.GcsData(bucket_name="d", path="p/"),
        object_conditions=sts.ObjectConditions(include_prefixes=["a/"]),
    )
    for name, value in more.items():
        setattr(made, name, value)
    return made


def test_a_spec_as_it_comes_back() -> None:
    sent, returned = spec(), spec()
    returned.aws_s3_data_source.aws_access_key = sts.AwsAccessKey()
    same = transfers.judge_spec(compare_specs(sent, returned))
    assert (same.outcome, same.observed) == (AGREES, "every field is the same")
    moved = spec(gcs_data_sink=sts.GcsData(bucket_name="d", path="q/"))
    found = transfers.judge_spec(compare_specs(sent, moved))
    assert found.outcome is CONTRADICTS
    assert "gcs_data_sink.path: sent 'p/', returned 'q/'" in found.observed
    assert "secret" not in json.dumps(found.details)
    sent.aws_s3_data_source.managed_private_network = False
    harmless = transfers.judge_spec(compare_specs(sent, returned))
    assert harmless.outcome is NOTED
    assert "managed_private_network: sent False, returned None" in harmless.observed


def test_an_operation_name() -> None:
    job = sts.TransferJob(name="transferJobs/stsm-x")
    assert transfers.judge_name(JobStart(job=job, operation=OPERATION)).outcome is AGREES
    assert transfers.judge_name(JobStart(job=job, malformed="operations/1")).outcome is CONTRADICTS


def snapshot(state: str, **counters: int) -> OperationSnapshot:
    known = state in OperationState.__members__
    return OperationSnapshot(
        name=OPERATION,
        state=OperationState(state) if known else OperationState.UNKNOWN,
        raw_state=state,
        counters=Counters(**counters),
        errors=(ErrorBreakdown(code="NOT_FOUND", count=1, sample_url="s3://b/k", sample_details="gone"),)
        if counters.get("objects_failed")
        else (),
    )


def watched(state: str, *before: str, **counters: int) -> OperationTrace:
    return OperationTrace(states=(*before, state), snapshot=snapshot(state, **counters))


@pytest.mark.parametrize(
    ("second", "first", "outcome"),
    [
        (classify(Retryable("m", code="FAILED_PRECONDITION")), watched("SUCCESS", "QUEUED"), AGREES),
        (CreateFacts(code="ALREADY_EXISTS", handled="each prefix ends in error by itself"), watched("SUCCESS"), AGREES),
        (classify(Permanent("m", code="INVALID_ARGUMENT")), watched("SUCCESS"), CONTRADICTS),
        (OPERATION, watched("SUCCESS", "IN_PROGRESS"), CONTRADICTS),
        (OPERATION, watched("SUCCESS"), NOTED),
    ],
)
def test_a_second_run(second: CreateFacts | OperationName, first: OperationTrace, outcome: Outcome) -> None:
    assert transfers.judge_second(second, first).outcome is outcome


@pytest.mark.parametrize(
    ("seen", "states", "result"),
    [
        (watched("SUCCESS", "QUEUED", "IN_PROGRESS", objects_found=1, objects_copied=1), AGREES, AGREES),
        (watched("SUCCESS", objects_skipped=1), AGREES, AGREES),
        (watched("SUCCESS", "FINISHING", objects_found=1, objects_copied=1), CONTRADICTS, AGREES),
        (watched("SUCCESS"), AGREES, CONTRADICTS),
        (watched("FAILED", objects_found=1, objects_failed=1), AGREES, CONTRADICTS),
        (watched("IN_PROGRESS"), UNSETTLED, UNSETTLED),
        (OperationTrace(), UNSETTLED, UNSETTLED),
    ],
)
def test_a_transfer(seen: OperationTrace, states: Outcome, result: Outcome) -> None:
    assert [one.outcome for one in transfers.judge_watched(seen)] == [states, result]


@pytest.mark.parametrize(
    ("answer", "from_s3", "outcome"),
    [
        (document({"size": "3", "metadata": {SOURCE_ETAG: "e"}}), True, AGREES),
        (document({"size": "3", "metadata": {SOURCE_ETAG: '"e"'}}), True, AGREES),
        (document({"size": "3"}), True, CONTRADICTS),
        (document({"size": "4", "metadata": {SOURCE_ETAG: "e"}}), True, CONTRADICTS),
        (document({}, 404), True, CONTRADICTS),
        (document({"size": "3"}), False, NOTED),
        (document({}, 404), False, CONTRADICTS),
    ],
)
def test_a_copy(answer: Answer, from_s3: bool, outcome: Outcome) -> None:
    assert transfers.judge_copy(answer, SourceObject(key="k", size=3, etag="e"), from_s3=from_s3).outcome is outcome


CARRIED = {"cacheControl": CACHE_CONTROL, "contentType": CONTENT_TYPE}


@pytest.mark.parametrize(
    ("resource", "outcome", "form"),
    [
        (CARRIED | {"metadata": {"owner": OWNER, "team": TEAM}}, AGREES, "decoded"),
        (CARRIED | {"metadata": {"owner": WORD, "team": TEAM}}, NOTED, "encoded"),
        (CARRIED | {"metadata": {"team": TEAM}}, CONTRADICTS, "lost"),
        (CARRIED | {"metadata": {"owner": "Zo? ??", "team": TEAM}}, CONTRADICTS, "lost"),
        (CARRIED | {"metadata": {"owner": OWNER}}, CONTRADICTS, "decoded"),
        (CARRIED | {"metadata": {"owner": WORD, "team": "else"}}, CONTRADICTS, "encoded"),
        (CARRIED, CONTRADICTS, "lost"),
        (CARRIED | {"cacheControl": "", "metadata": {"owner": OWNER, "team": TEAM}}, CONTRADICTS, "decoded"),
        (CARRIED | {"contentType": "text/plain", "metadata": {"owner": OWNER, "team": TEAM}}, CONTRADICTS, "decoded"),
    ],
)
def test_metadata_that_the_service_carries(resource: dict[str, Any], outcome: Outcome, form: str) -> None:
    found = transfers.judge_carried(document(resource))
    assert (found.outcome, found.answers["metadata_not_ascii"]) == (outcome, form)
    assert transfers.judge_carried(document({}, 404)).outcome is UNSETTLED


def test_the_agents_rights() -> None:
    seen = transfers.judge_rights([], "b", replaced=False)
    assert (seen.outcome, seen.answers["transfer_replaced"]) == (AGREES, "no")
    doubted = transfers.judge_rights(["the policy does not let it storage.objects.get"], "b", replaced=True)
    assert doubted.answers == {"transfer": "succeeded", "transfer_to": "b", "transfer_replaced": "yes"}
    assert (doubted.outcome, "storage.objects.get" in doubted.observed) == (NOTED, True)


def test_deleted_jobs() -> None:
    assert [transfers.judge_deleted(one).outcome for one in ("DELETED", "NOT_FOUND", "ENABLED")] == [AGREES, AGREES, CONTRADICTS]
    codes = ("ALREADY_EXISTS", "", "INVALID_ARGUMENT", "UNAVAILABLE")
    outcomes = [transfers.judge_reused(CreateFacts(code=one)).outcome for one in codes]
    assert outcomes == [AGREES, CONTRADICTS, CONTRADICTS, UNSETTLED]


@pytest.mark.parametrize(
    ("seen", "outcome"),
    [
        (watched("FAILED", objects_found=2, objects_copied=1, objects_failed=1), AGREES),
        (watched("SUCCESS", objects_found=2, objects_copied=1, objects_failed=1), AGREES),
        (watched("SUCCESS", objects_found=1, objects_copied=1), CONTRADICTS),
        (watched("FAILED", objects_found=2, objects_failed=2), CONTRADICTS),
        (watched("QUEUED"), UNSETTLED),
    ],
)
def test_a_manifest_with_a_missing_name(seen: OperationTrace, outcome: Outcome) -> None:
    assert transfers.judge_manifest(seen).outcome is outcome


@pytest.mark.parametrize(
    ("names", "counters", "outcome", "answer"),
    [
        (["f/"], {"objects_copied": 1}, AGREES, "copied"),
        ([], {"objects_failed": 1}, AGREES, "failed"),
        ([], {}, AGREES, "passed_over"),
        (["f/", "f/more"], {"objects_copied": 2}, CONTRADICTS, "copied"),
    ],
)
def test_a_manifest_with_a_folder(names: list[str], counters: dict[str, int], outcome: Outcome, answer: str) -> None:
    found = transfers.judge_folder(watched("SUCCESS", **counters), names, "f/")
    assert (found.outcome, found.answers["manifest_folders"]) == (outcome, answer)


@pytest.mark.parametrize(
    ("raw_s", "own_s", "outcome"), [(5, 5, AGREES), (5, -1, CONTRADICTS), (-1, -1, UNSETTLED), (-1, 9, AGREES)]
)
def test_the_log(raw_s: float, own_s: float, outcome: Outcome) -> None:
    assert transfer_log.judge_log({}, raw_s, own_s).outcome is outcome
