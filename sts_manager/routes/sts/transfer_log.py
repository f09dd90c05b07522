"""What the transfer service writes to Cloud Logging of what failed (--sts-log-failures): names, and a reason for each.

Over REST, as only one call of that API is needed. Of the entries see google/storagetransfer/logging/transfer_activity_log.proto,
and Storage Transfer Service, "Cloud Logging for Storage Transfer Service". Read tolerantly: what names nothing is passed over.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import google.auth
import requests
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import AuthorizedSession

from sts_manager.domain.errors import Denied, Permanent, Retryable, Throttled
from sts_manager.domain.names import OperationName

LOGGING, LOGGING_EMULATOR = "https://logging.googleapis.com", "LOGGING_EMULATOR_HOST"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
PAGE = 1000
PAGES_MAX = 200
"""In one reading. A page may be empty although more come (Cloud Logging, `entries.list`, `nextPageToken`)."""
DEADLINE_S = 30.0
CONTAINERS = {"awsS3Bucket": "s3://", "gcsBucket": "gs://"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedFailure:
    """What failed: the key of an object in the source, or the place that could not be listed; and why.

    error     the name of the google.rpc code, in lower case
    details   the kind of the error, and what was said
    """

    key: str
    error: str
    details: str


@dataclass(slots=True)
class LoggedFailures:
    """objects by key, each once; listings by place: s3://…, gs://…, or the address of a URL list."""

    objects: dict[str, LoggedFailure] = field(default_factory=dict)
    listings: dict[str, LoggedFailure] = field(default_factory=dict)


def session_at(variable: str, service: str) -> tuple[str, requests.Session]:
    """Where one of Google's REST APIs is, and who may ask it: an emulator that the environment names, else the service."""
    base = os.environ.get(variable)
    if base:
        return base, requests.Session()
    credentials, _ = google.auth.default(scopes=[SCOPE])
    return service, AuthorizedSession(credentials)  # type: ignore[no-untyped-call]


def read_failures(project: str, operation: OperationName, since: datetime, most: int) -> LoggedFailures:
    """What the service has logged by now of what an operation failed to do: entries may come minutes after its end.

    since   when the operation began, by the service's clock or earlier: older entries are not searched
    most    so many objects are enough

    Raises Denied, Throttled, Retryable, Permanent.
    """
    asked: dict[str, Any] = {
        "resourceNames": [f"projects/{project}"],
        "filter": filter_of(project, operation, since),
        "pageSize": min(PAGE, most),
    }
    found = LoggedFailures()
    try:
        base, session = session_at(LOGGING_EMULATOR, LOGGING)
        with session:
            for _ in range(PAGES_MAX):
                page = _asked(session, f"{base}/v2/entries:list", asked, project)
                for entry in page.get("entries", ()):
                    _add(found, entry.get("jsonPayload", {}))
                token = page.get("nextPageToken")
                if not token or len(found.objects) >= most:
                    break
                asked["pageToken"] = token
    except GoogleAuthError as error:
        raise Denied(f"Cloud Logging: {error}", code="UNAUTHENTICATED") from error
    except (requests.RequestException, ValueError) as error:
        raise Retryable(f"Cloud Logging cannot be read: {type(error).__name__}") from error
    return found


def filter_of(project: str, operation: OperationName, since: datetime) -> str:
    """The entries of what one operation failed to do, in the Logging query language: FAILED is logged with severity ERROR."""
    began = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return (
        f'logName="projects/{project}/logs/storagetransfer.googleapis.com%2Ftransfer_activity" '
        'AND resource.type="storage_transfer_job" AND severity>=ERROR '
        f'AND jsonPayload.operation:"{operation.rpartition("/")[2]}" AND timestamp>="{began}"'
    )


def _asked(session: requests.Session, url: str, asked: Mapping[str, Any], project: str) -> dict[str, Any]:
    answer = session.post(url, json=asked, timeout=DEADLINE_S)
    if answer.status_code in (401, 403):
        raise Denied(f"Cloud Logging of {project} may not be read: grant roles/logging.viewer (logging.logEntries.list)")
    if answer.status_code == 429:
        raise Throttled(f"Cloud Logging of {project} has no quota left for this minute")
    if answer.status_code >= 500:
        raise Retryable(f"Cloud Logging answered {answer.status_code}")
    if answer.status_code != 200:
        raise Permanent(f"Cloud Logging answered {answer.status_code}")
    found: dict[str, Any] = answer.json()
    return found


def _add(found: LoggedFailures, payload: Mapping[str, Any]) -> None:
    status = payload.get("status", {})
    code = str(status.get("statusCode") or "UNKNOWN")
    if code == "OK":
        return
    said = (status.get("errorType"), status.get("errorMessage"))
    told = {"error": code.lower(), "details": ": ".join(str(one) for one in said if one)}
    if payload.get("action") == "FIND":
        place = _place(payload.get("sourceContainer", {}))
        found.listings[place] = LoggedFailure(key=place, **told)
    elif payload.get("action") == "COPY":
        key = _key(payload.get("sourceObject", {}))
        if key:
            found.objects[key] = LoggedFailure(key=key, **told)


def _key(source: Mapping[str, Any]) -> str:
    for name in ("awsS3Object", "gcsObject"):
        if isinstance(key := source.get(name, {}).get("objectKey"), str):
            return key
    # Of a URL list; what follows the '?' may be a signature.
    return str(source.get("httpFile", {}).get("url", "")).partition("?")[0]


def _place(container: Mapping[str, Any]) -> str:
    for name, scheme in CONTAINERS.items():
        if name in container:
            return f"{scheme}{container[name].get('bucket', '')}/{container[name].get('path', '')}"
    return str(container.get("httpManifest", {}).get("url", "the source")).partition("?")[0]
