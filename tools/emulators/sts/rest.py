"""The REST face, as far as gRPC's types do not reach: storage classes of a job, and what an operation left out for its class.

Documented (Storage Transfer Service, filtering-by-storage-class; REST reference): `objectConditions.includeStorageClasses`, the
counters `unsupportedS3GlacierObjectsSkippedCount` and `unrestoredDeepArchiveObjectsSkippedCount`. Assumed: a class that S3 does
not have, and classes beside a source that is not S3, are INVALID_ARGUMENT.
"""

from __future__ import annotations

import json
from typing import Any

import grpc
from google.cloud import storage_transfer_v1 as sts
from google.protobuf import json_format

from tools.emulators.ledger import Ledger
from tools.emulators.rpc import APIS, Refused, disabled, invalid
from tools.emulators.sts.copier import ACTIVE
from tools.emulators.sts.service import TransferService, described
from tools.emulators.web import Request, Response, pause_for

CODES = {
    "INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "OUT_OF_RANGE": 400, "UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404, "ALREADY_EXISTS": 409, "ABORTED": 409, "RESOURCE_EXHAUSTED": 429, "CANCELLED": 499, "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503, "DEADLINE_EXCEEDED": 504,
}  # fmt: skip
"""Statuses of HTTP for codes of gRPC (google/rpc/code.proto); others are 500."""
CLASSES = frozenset({
    "STANDARD", "REDUCED_REDUNDANCY", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER", "DEEP_ARCHIVE", "GLACIER_IR",
    "OUTPOSTS", "SNOW", "EXPRESS_ONEZONE",
})  # fmt: skip
OPERATION_TYPE = "type.googleapis.com/google.storagetransfer.v1.TransferOperation"


class StsRest:
    """A handler of requests over the same service as gRPC's."""

    def __init__(self, ledger: Ledger, service: TransferService) -> None:
        self._ledger, self._service = ledger, service

    def handle(self, request: Request) -> Response:
        match request.method, request.path.removeprefix("/v1/").partition("/"):
            case "POST", ("transferJobs", "", ""):
                method, permission = "CreateTransferJob", "storagetransfer.jobs.create"
            case "GET", ("transferJobs", "/", _):
                method, permission = "GetTransferJob", "storagetransfer.jobs.get"
            case "GET", ("transferOperations", "/", _):
                method, permission = "GetOperation", "storagetransfer.operations.get"
            case _:
                return Response(404, b"<html>404. That's an error.</html>", {"Content-Type": "text/html"})
        fault = self._ledger.count("sts", method)
        if fault is not None:
            pause_for(fault.delay_s)
            if not fault.applied:
                return _refused(fault.error, fault.message)
        try:
            self._check(permission)
            answer = self._answered(method, request)
        except Refused as refused:
            return _refused(refused.code.name, refused.message)
        if fault is not None:
            return _refused(fault.error, f"{fault.message} (applied, then the answer was lost)")
        return _json(200, answer)

    def _check(self, permission: str) -> None:
        if APIS["sts"] in self._ledger.setting("apis.disabled"):
            raise Refused(grpc.StatusCode.PERMISSION_DENIED, disabled(APIS["sts"], self._service.project))
        if not self._ledger.permits(permission):
            message = f"Permission {permission} denied (or the resource may not exist)."
            raise Refused(grpc.StatusCode.PERMISSION_DENIED, message)

    def _answered(self, method: str, request: Request) -> dict[str, Any]:
        name = request.path.removeprefix("/v1/")
        if method == "CreateTransferJob":
            job, classes = _job_of(request.body)
            return self._shown(self._service.create(job, classes))
        if method == "GetTransferJob":
            return self._shown(self._service.get(name, request.query.get("projectId", "")))
        operation = self._service.operation(name)
        shown = json_format.MessageToDict(sts.TransferOperation.pb(described(operation, self._service.project)))
        counts = operation.work.counts
        counters = shown.setdefault("counters", {})
        # An int64 is text in JSON, and a zero is left out (protobuf, JSON mapping).
        if counts.glacier:
            counters["unsupportedS3GlacierObjectsSkippedCount"] = str(counts.glacier)
        if counts.deep_archive:
            counters["unrestoredDeepArchiveObjectsSkippedCount"] = str(counts.deep_archive)
        done = operation.work.status not in ACTIVE
        return {"name": name, "metadata": {"@type": OPERATION_TYPE, **shown}, "done": done}

    def _shown(self, job: sts.TransferJob) -> dict[str, Any]:
        shown: dict[str, Any] = json_format.MessageToDict(sts.TransferJob.pb(job))
        if classes := self._service.storage_classes.get(job.name):
            shown["transferSpec"].setdefault("objectConditions", {})["includeStorageClasses"] = sorted(classes)
        return shown


def _job_of(body: bytes) -> tuple[sts.TransferJob, frozenset[str]]:
    try:
        value = json.loads(body)
        conditions = value.get("transferSpec", {}).get("objectConditions", {})
        classes = conditions.pop("includeStorageClasses", [])
        job = sts.TransferJob()
        json_format.ParseDict(value, sts.TransferJob.pb(job))
    except (ValueError, AttributeError, json_format.ParseError) as error:
        raise invalid(f"Invalid JSON payload received. {error}") from error
    if unknown := sorted(set(classes) - CLASSES):
        raise invalid(f"object_conditions.include_storage_classes: {unknown[0]!r} is no storage class of S3")
    if classes and "aws_s3_data_source" not in job.transfer_spec:
        raise invalid("object_conditions.include_storage_classes goes with an S3 source")
    return job, frozenset(classes)


def _refused(code: str, message: str) -> Response:
    status = CODES.get(code, 500)
    return _json(status, {"error": {"code": status, "message": message, "status": code}})


def _json(status: int, value: object) -> Response:
    return Response(status, json.dumps(value).encode(), {"Content-Type": "application/json; charset=UTF-8"})
