"""The few calls of the Storage Transfer Service that its gRPC types cannot say, over REST; errors as the gRPC client raises them.

`objectConditions.includeStorageClasses` of a job, and the counters of what an operation passed over for its storage class, are in
the REST API only (Storage Transfer Service, filtering-by-storage-class; client 1.22 has neither).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import google.auth
import grpc
import requests
from google.api_core import exceptions
from google.auth.transport.requests import AuthorizedSession
from google.cloud import storage_transfer_v1 as sts
from google.protobuf import json_format

SERVICE = "https://storagetransfer.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
INCLUDED = "includeStorageClasses"
_CODES = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ALREADY_EXISTS"}
_CODES |= {429: "RESOURCE_EXHAUSTED", 501: "UNIMPLEMENTED", 504: "DEADLINE_EXCEEDED"}


class PassedOver(NamedTuple):
    """Objects that an operation did not look at for their storage class, by the service's own count."""

    glacier: int = 0
    deep_archive: int = 0


class TransferRest:
    """base: of an emulator, which wants no credentials; the service when it is empty. Safe to use from several threads."""

    def __init__(self, base: str = "") -> None:
        self._base = base
        self._credentials: Any = None

    def create(self, job: sts.TransferJob, storage_classes: Sequence[str], timeout_s: float) -> sts.TransferJob:
        """Create a job that moves objects of these storage classes and no others. Raises GoogleAPICallError, GoogleAuthError."""
        value = json_format.MessageToDict(sts.TransferJob.pb(job))
        value["transferSpec"].setdefault("objectConditions", {})[INCLUDED] = list(storage_classes)
        return _job_of(self._ask("POST", "transferJobs", timeout_s, body=value))[0]

    def get(self, name: str, project: str, timeout_s: float) -> tuple[sts.TransferJob, tuple[str, ...]]:
        """A job, and the storage classes that it includes; none: it names none."""
        return _job_of(self._ask("GET", name, timeout_s, query={"projectId": project}))

    def passed_over(self, operation: str, timeout_s: float) -> PassedOver:
        """What an operation passed over, silently."""
        counters = self._ask("GET", operation, timeout_s).get("metadata", {}).get("counters", {})
        return PassedOver(
            int(counters.get("unsupportedS3GlacierObjectsSkippedCount", 0)),
            int(counters.get("unrestoredDeepArchiveObjectsSkippedCount", 0)),
        )

    def _ask(
        self, method: str, path: str, timeout_s: float, *, query: Mapping[str, str] | None = None, body: Any = None
    ) -> dict[str, Any]:
        url = f"{self._base or SERVICE}/v1/{path}"
        try:
            with self._session() as session:
                answer = session.request(method, url, params=query, json=body, timeout=timeout_s, allow_redirects=False)
        except requests.Timeout as error:
            raise _named("DEADLINE_EXCEEDED", f"{method} {path}: no answer in {timeout_s:g} s") from error
        except requests.RequestException as error:
            raise _named("UNAVAILABLE", f"{method} {path}: {type(error).__name__}") from error
        try:
            value = answer.json()
        except ValueError:
            value = None
        if answer.status_code == 200 and isinstance(value, dict):
            return value
        raise _error(answer.status_code, value)

    def _session(self) -> requests.Session:
        if self._base:
            return requests.Session()
        if self._credentials is None:
            self._credentials, _ = google.auth.default(scopes=[SCOPE])
        session: requests.Session = AuthorizedSession(self._credentials)  # type: ignore[no-untyped-call]
        return session


def _job_of(value: dict[str, Any]) -> tuple[sts.TransferJob, tuple[str, ...]]:
    classes = value.get("transferSpec", {}).get("objectConditions", {}).get(INCLUDED, ())
    job = sts.TransferJob()
    json_format.ParseDict(value, sts.TransferJob.pb(job), ignore_unknown_fields=True)
    return job, tuple(sorted(classes))


def _error(status: int, value: Any) -> exceptions.GoogleAPICallError:
    """The error in an answer, as gRPC's would be: the service names its code in both (google.rpc.Status)."""
    told = value.get("error", {}) if isinstance(value, dict) else {}
    name = told.get("status") or _CODES.get(status, "UNAVAILABLE")
    return _named(name, told.get("message") or f"status {status}: {json.dumps(value)[:200]}")


def _named(code: str, message: str) -> exceptions.GoogleAPICallError:
    known = code if code in grpc.StatusCode.__members__ else "UNKNOWN"
    error: exceptions.GoogleAPICallError = exceptions.from_grpc_status(grpc.StatusCode[known], message)  # type: ignore[no-untyped-call]
    return error
