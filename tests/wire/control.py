"""The parsers of the control plane and of the queues, each as a function from a sample to plain values that can stand in JSON.

The official clients parse the answers (HTTP by a session that gives them out, gRPC by a stub behind the client's methods), and
the product's own code makes of that what it does in production.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from unittest import mock

import grpc
import requests
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.auth.transport.requests import AuthorizedSession
from google.cloud import bigquery
from google.cloud import storage_transfer_v1 as sts
from google.longrunning import operations_pb2
from google.protobuf import json_format
from google.pubsub_v1 import types as pubsub_types
from requests.adapters import BaseAdapter

from cdn_worker.credentials.signing_keys import signer_from_secret
from cdn_worker.domain.errors import BadInput
from cdn_worker.domain.signing import Digest
from cdn_worker.queues.pubsub import PubSubQueue
from sts_manager.domain.errors import StsManagerError
from sts_manager.domain.names import OperationName
from sts_manager.metrics import cloud_monitoring
from sts_manager.routes.sts import route, transfer_log
from sts_manager.routes.sts.rate_limiter import Pacer
from sts_manager.stores.bigquery.client import Warehouse, fault_of
from sts_manager.stores.bigquery.statements import Names
from tests.fakes.clock import FakeClock
from tests.wire.samples import Sample

Given = Mapping[str, Any]
PROJECT = "example-project"
TYPE = "type.googleapis.com/google.storagetransfer.v1.TransferOperation"
FIELD_OF_TOMORROW = b"\xfa\x7f\x05later"
"""Protobuf's field 2047, a string: what a newer service may send to an older client."""
DONE_JOB = {
    "kind": "bigquery#job",
    "id": f"{PROJECT}:EU.job",
    "jobReference": {"projectId": PROJECT, "jobId": "job", "location": "EU"},
    "configuration": {"jobType": "QUERY", "query": {"query": "SELECT 1"}},
    "status": {"state": "DONE"},
    "statistics": {"query": {"statementType": "UPDATE", "numDmlAffectedRows": "3"}},
}
RESULTS = {
    "kind": "bigquery#getQueryResultsResponse",
    "jobComplete": True,
    "jobReference": DONE_JOB["jobReference"],
    "totalRows": "0",
    "schema": {"fields": [{"name": "n", "type": "INTEGER"}]},
}


class _Answers(BaseAdapter):
    """Gives out HTTP answers in turn, the last one again and again, and keeps what was asked."""

    def __init__(self, answers: Sequence[tuple[int, Mapping[str, str], bytes]]) -> None:
        super().__init__()
        self._answers = list(answers)
        self.asked: list[requests.PreparedRequest] = []

    def send(self, request: requests.PreparedRequest, *_args: Any, **_kwargs: Any) -> requests.Response:
        self.asked.append(request)
        status, headers, body = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        answer = requests.Response()
        answer.status_code, answer._content, answer.request, answer.url = status, body, request, request.url or ""
        answer.headers.update(headers)
        return answer

    def close(self) -> None:
        """Nothing is open."""


def _session(sample: Sample, *then: Mapping[str, Any]) -> tuple[requests.Session, _Answers]:
    """A session that answers with the sample, then with these JSON values."""
    first = (sample.answer.status, sample.answer.headers, sample.body)
    adapter = _Answers([first, *((200, {"content-type": "application/json"}, json.dumps(one).encode()) for one in then)])
    session = AuthorizedSession(AnonymousCredentials())  # type: ignore[no-untyped-call]
    session.mount("https://", adapter)
    return session, adapter


def _grpc_error(sample: Sample) -> exceptions.GoogleAPICallError:
    """The error that Google's client raises for such an answer."""
    error: exceptions.GoogleAPICallError = exceptions.from_grpc_status(  # type: ignore[no-untyped-call]
        grpc.StatusCode[sample.code], sample.message
    )
    return error


def _raises(call: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"returns": call()}
    except StsManagerError as error:
        return {"raises": type(error).__name__, "code": getattr(error, "code", None), "text": str(error)}


def _client(**methods: Callable[..., Any]) -> route.StsClient:
    client: Any = SimpleNamespace(**methods)
    return route.StsClient(client, PROJECT, Pacer(FakeClock()))


def transfer_operation(sample: Sample, _given: Given) -> Any:
    """An operation as `operations.list` answers it: parsed from the bytes that gRPC would bring."""
    shown = sample.json
    metadata = {name: value for name, value in shown["metadata"].items() if name != "@type"}
    message = sts.TransferOperation.pb(sts.TransferOperation())
    json_format.ParseDict(metadata, message, ignore_unknown_fields=True)
    operation = operations_pb2.Operation(name=shown["name"], done=shown.get("done", False))
    operation.metadata.type_url = TYPE
    operation.metadata.value = message.SerializeToString() + FIELD_OF_TOMORROW
    client = _client(list_operations=lambda *_args, **_kwargs: operations_pb2.ListOperationsResponse(operations=[operation]))
    ((job, seen),) = client.operations(operationNames=[shown["name"]])
    counters = seen.counters
    return {
        "job": job,
        "name": str(seen.name),
        "state": seen.state.value,
        "raw_state": seen.raw_state,
        "active": seen.active,
        "counters": {name: getattr(counters, name) for name in counters.__dataclass_fields__},
        "errors": [
            {"code": one.code, "count": one.count, "url": one.sample_url, "details": one.sample_details} for one in seen.errors
        ],
        "results": seen.results,
    }


def transfer_job(sample: Sample, _given: Given) -> Any:
    """A job as `transferJobs.list` answers it."""
    message = sts.TransferJob.pb(sts.TransferJob())
    json_format.ParseDict(sample.json, message, ignore_unknown_fields=True)
    page = sts.ListTransferJobsResponse(transfer_jobs=[sts.TransferJob(message)])
    client = _client(list_transfer_jobs=lambda *_args, **_kwargs: SimpleNamespace(pages=iter([page])))
    ((found),) = route.StsProject({PROJECT: client}).transfer_jobs()
    latest = found.latest_operation
    return {"name": found.name, "latest": None if latest is None else str(latest), "one_time": found.one_time}


def _started(sample: Sample, failing: str) -> Any:
    job = sts.TransferJob(name="transferJobs/stsm-example-a1", project_id=PROJECT, status="ENABLED")
    there = sts.TransferJob(job)
    there.latest_operation_name = "transferOperations/transferJobs-stsm-example-a1-17"

    def fail(*_args: Any, **_kwargs: Any) -> Any:
        raise _grpc_error(sample)

    methods: dict[str, Callable[..., Any]] = {
        "create_transfer_job": lambda *_args, **_kwargs: job,
        "get_transfer_job": lambda *_args, **_kwargs: there,
        "run_transfer_job": lambda *_args, **_kwargs: None,
    }
    client = _client(**(methods | {failing: fail}))

    def start() -> dict[str, Any]:
        started = route.begun(client, job)
        return {"operation": str(started.operation_name), "adopted": started.adopted}

    return _raises(start)


def transfer_create(sample: Sample, _given: Given) -> Any:
    """What becomes of a start whose `create_transfer_job` is answered so; a job of that name, which ran, is there."""
    return _started(sample, "create_transfer_job")


def transfer_run(sample: Sample, _given: Given) -> Any:
    return _started(sample, "run_transfer_job")


def _logged(sample: Sample, operation: str) -> tuple[Any, _Answers]:
    session, adapter = _session(sample)
    with mock.patch.object(transfer_log, "session_at", lambda _variable, service: (service, session)):
        found = _raises(lambda: transfer_log.read_failures(PROJECT, OperationName(operation), BEGAN, 1000))
    if "returns" in found:
        read = found["returns"]
        found = {"failures": _described(read.objects), "listings": _described(read.listings)}
    return found, adapter


def _described(failures: Mapping[str, transfer_log.LoggedFailure]) -> list[dict[str, str]]:
    return [{"key": one.key, "error": one.error, "details": one.details} for one in failures.values()]


def log_failures(sample: Sample, given: Given) -> Any:
    """What is read from the entries that Cloud Logging answers with."""
    return _logged(sample, given.get("operation", "transferOperations/example"))[0]


def log_selected(sample: Sample, _given: Given) -> Any:
    """Which of the entries the filter selects that we send, were they all that Cloud Logging has."""
    entries = sample.json["entries"]
    _, adapter = _logged(sample, entries[0]["jsonPayload"]["operation"])
    asked = json.loads(adapter.asked[0].body or b"")
    return [_selects(asked["filter"], entry) for entry in entries]


BEGAN = datetime(2026, 11, 1, tzinfo=UTC)
SEVERITIES = ("DEFAULT", "DEBUG", "INFO", "NOTICE", "WARNING", "ERROR", "CRITICAL", "ALERT", "EMERGENCY")
_TERM = re.compile(r'\s*([A-Za-z_.]+)\s*(!=|>=|<=|=|:)\s*"?([^"]*?)"?\s*')


def _selects(text: str, entry: Mapping[str, Any]) -> bool:
    """Whether a filter of Cloud Logging selects an entry: comparisons joined by AND (Cloud Logging, query language)."""
    return all(_meets(entry, term) for term in re.split(r"\s+AND\s+|\n", text) if term.strip())


def _meets(entry: Mapping[str, Any], term: str) -> bool:
    if term.strip().startswith("NOT "):
        return not _meets(entry, term.strip().removeprefix("NOT "))
    found = _TERM.fullmatch(term)
    assert found is not None, f"this filter needs a better reader: {term!r}"
    value: Any = entry
    for name in found[1].split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if value is None:
        return found[2] == "!="
    said, wanted = str(value), found[3]
    if found[1] == "severity":
        said, wanted = (f"{SEVERITIES.index(one):02}" for one in (said, wanted))
    results = {"=": said == wanted, "!=": said != wanted, ":": wanted in said, ">=": said >= wanted, "<=": said <= wanted}
    return results[found[2]]


def queue_lease(sample: Sample, _given: Given) -> Any:
    """The messages of a pull."""
    answer = pubsub_types.PullResponse.from_json(sample.body.decode(), ignore_unknown_fields=True)
    client: Any = SimpleNamespace(pull=lambda **_kwargs: answer)
    queue = PubSubQueue(client, client, "topic", "subscription", "dead", 60)
    return [
        {"body": one.body.decode(), "token": one.token, "attempt": one.attempt, "reason": one.reason} for one in queue.lease(10)
    ]


def store_write(sample: Sample, _given: Given) -> Any:
    """A write that BigQuery answers so at first; whoever asks for the job afterwards is told that it is done."""
    session, adapter = _session(sample, DONE_JOB, RESULTS)
    client = bigquery.Client(
        project=PROJECT,
        location="EU",
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
        _http=session,
    )
    names = Names(project=PROJECT, dataset="data_migration", location="EU", job="job", history="history")
    store = Warehouse(client, names, patience_s=0.0, sleep=lambda _seconds: None)
    seen: list[str] = []

    def note(error: Exception) -> Any:
        seen.append(fault_of(error).value)
        return fault_of(error)

    with mock.patch("sts_manager.stores.bigquery.client.fault_of", note):
        found = _raises(lambda: store.write("UPDATE t SET a = 1 WHERE TRUE", {}))
    if "returns" in found:
        found = {"affected": found["returns"].affected}
    return found | {"fault": seen[0] if seen else None, "posts": sum(one.method == "POST" for one in adapter.asked)}


def _told(call: str, sample: Sample) -> None:
    with cloud_monitoring.translated(call, PROJECT):
        raise _grpc_error(sample)


def metrics_publish(sample: Sample, _given: Given) -> Any:
    """What becomes of points that Cloud Monitoring answers so."""
    return _raises(lambda: _told("create_time_series", sample))


def metrics_alert(sample: Sample, _given: Given) -> Any:
    """What becomes of an alert policy that Cloud Monitoring answers so."""
    return _raises(lambda: _told("create_alert_policy", sample))


def secret_access(sample: Sample, _given: Given) -> Any:
    """A private key from Secret Manager; `@KEY@` in the sample stands for one that is made for this test."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    status, body = sample.answer.status, sample.body.replace(b"@KEY@", base64.b64encode(pem))
    adapter = _Answers([(status, sample.answer.headers, body)])
    session = requests.Session()
    session.mount("https://", adapter)
    try:
        signer = signer_from_secret("projects/example-project/secrets/cdn-key", Digest.SHA1, session=session)
    except BadInput as error:
        return {"refused": str(error)}
    return {"signature_bytes": len(signer(b"message"))}


PARSERS: Mapping[str, Callable[[Sample, Given], Any]] = {
    "sts.operation": transfer_operation,
    "sts.job": transfer_job,
    "sts.create": transfer_create,
    "sts.run": transfer_run,
    "log.failures": log_failures,
    "log.selected": log_selected,
    "pubsub.lease": queue_lease,
    "bigquery.write": store_write,
    "monitoring.publish": metrics_publish,
    "monitoring.alert": metrics_alert,
    "secret": secret_access,
}
