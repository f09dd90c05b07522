"""What the transfer service writes to Cloud Logging of objects that failed (--sts-log-failures): names, and a reason for each.

Over REST, as only one call of that API is needed. Read tolerantly: an entry that does not name an object is passed over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import google.auth
import requests
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import AuthorizedSession

from sts_manager.domain.errors import Denied, Permanent, Retryable
from sts_manager.domain.naming import OperationName

LOGGING, LOGGING_EMULATOR = "https://logging.googleapis.com", "LOGGING_EMULATOR_HOST"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
PAGE = 1000
DEADLINE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedFailure:
    """An object that failed: its name in the source, the error's code in lower case, and what was said."""

    key: str
    error: str
    details: str


def session_at(variable: str, service: str) -> tuple[str, requests.Session]:
    """Where one of Google's REST APIs is, and who may ask it: an emulator that the environment names, else the service."""
    base = os.environ.get(variable)
    if base:
        return base, requests.Session()
    credentials, _ = google.auth.default(scopes=[SCOPE])
    return service, AuthorizedSession(credentials)  # type: ignore[no-untyped-call]


def logged_failures(project: str, operation: OperationName, most: int) -> Iterator[LoggedFailure]:
    """The objects that an operation failed to copy, at most so many. Raises Denied, Retryable, Permanent."""
    wanted = (
        'resource.type="storage_transfer_job" AND jsonPayload.status.statusCode="FAILED" '
        f'AND jsonPayload.operation:"{operation.rpartition("/")[2]}"'
    )
    asked: dict[str, Any] = {"resourceNames": [f"projects/{project}"], "filter": wanted, "pageSize": min(PAGE, most)}
    found = 0
    try:
        base, session = session_at(LOGGING_EMULATOR, LOGGING)
        with session:
            while True:
                page = _asked(session, f"{base}/v2/entries:list", asked, project)
                for entry in page.get("entries", ()):
                    failure = _failure(entry.get("jsonPayload", {}))
                    if failure is not None:
                        yield failure
                        found += 1
                token = page.get("nextPageToken")
                if not token or found >= most:
                    return
                asked["pageToken"] = token
    except GoogleAuthError as error:
        raise Denied(f"Cloud Logging: {error}", code="UNAUTHENTICATED") from error
    except (requests.RequestException, ValueError) as error:
        raise Retryable(f"Cloud Logging cannot be read: {type(error).__name__}") from error


def _asked(session: requests.Session, url: str, asked: Mapping[str, Any], project: str) -> dict[str, Any]:
    answer = session.post(url, json=asked, timeout=DEADLINE_S)
    if answer.status_code in (401, 403):
        raise Denied(f"Cloud Logging of {project} may not be read: grant roles/logging.viewer (logging.logEntries.list)")
    if answer.status_code == 429 or answer.status_code >= 500:
        raise Retryable(f"Cloud Logging answered {answer.status_code}")
    if answer.status_code != 200:
        raise Permanent(f"Cloud Logging answered {answer.status_code}")
    found: dict[str, Any] = answer.json()
    return found


def _failure(payload: Mapping[str, Any]) -> LoggedFailure | None:
    source = payload.get("sourceObject", {})
    keys = [one["objectKey"] for one in source.values() if isinstance(one, dict) and isinstance(one.get("objectKey"), str)]
    if not keys:
        return None
    status = payload.get("status", {})
    return LoggedFailure(
        key=keys[0], error=str(status.get("errorType") or "failed").lower(), details=str(status.get("errorMessage") or "")
    )
