"""Refusals in the service's shape, and the forms of names."""

from __future__ import annotations

import json
import re

from tools.emulators.web import Response

STATUS_OF = {
    "invalid": 400,
    "invalidQuery": 400,
    "resourcesExceeded": 400,
    "accessDenied": 403,
    "quotaExceeded": 403,
    "rateLimitExceeded": 403,
    "notFound": 404,
    "duplicate": 409,
    "conditionNotMet": 412,
    "internalError": 500,
    "notImplemented": 501,
    "backendError": 503,
}
DATASET = re.compile(r"[A-Za-z0-9_]{1,1024}")
TABLE = re.compile(r"[\w \-]{1,1024}")
COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,299}")
JOB = re.compile(r"[A-Za-z0-9_\-]{1,1024}")


class Refused(Exception):
    """What the service would not do. `reason` is BigQuery's own word; the HTTP status follows from it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message

    @property
    def result(self) -> dict[str, str]:
        """As a job's errorResult."""
        return {"reason": self.reason, "message": self.message}


def refusal(refused: Refused) -> Response:
    code = STATUS_OF[refused.reason]
    error = {
        "code": code,
        "message": refused.message,
        "errors": [{"domain": "global", **refused.result}],
        "status": {403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ALREADY_EXISTS"}.get(code, "INVALID_ARGUMENT"),
    }
    return Response(code, json.dumps({"error": error}).encode(), {"Content-Type": "application/json"})


def invalid(message: str) -> Refused:
    return Refused("invalid", message)


def no_table(project: str, dataset: str, table: str) -> Refused:
    return Refused("notFound", f"Not found: Table {project}:{dataset}.{table}")


def no_dataset(project: str, dataset: str, location: str = "") -> Refused:
    where = f" was not found in location {location}" if location else ""
    return Refused("notFound", f"Not found: Dataset {project}:{dataset}{where}")
