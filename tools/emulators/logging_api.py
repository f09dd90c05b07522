"""Cloud Logging: what the stage's services wrote, listed by a filter of the Logging query language, once it is to be seen.

Documented: pages of at most 1,000, oldest first unless `orderBy` says `timestamp desc`
(https://docs.cloud.google.com/logging/docs/reference/v2/rest/v2/entries/list); 60 requests a minute and project
(https://docs.cloud.google.com/logging/quotas). Assumed: how late entries come (setting `logging.delay_seconds`).
"""

from __future__ import annotations

import json
from typing import Any

from tools.emulators.ledger import Ledger
from tools.emulators.log_filter import BadFilter, parse_filter
from tools.emulators.web import Request, Response

PAGE_MAX = 1000
ORDERS = ("", "timestamp asc", "timestamp desc")


class CloudLogging:
    """A handler of requests."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def handle(self, request: Request) -> Response:
        self._ledger.count("logging", "ListLogEntries")
        if request.path != "/v2/entries:list" or request.method != "POST":
            return _refused(404, "Unknown path")
        asked = json.loads(request.body)
        named = asked.get("resourceNames") or []
        known = all(self._ledger.knows_project(one.removeprefix("projects/")) for one in named)
        if not self._ledger.permits("logging.logEntries.list") or not named or not known:
            return _refused(403, "Permission denied for all log views")
        if not self._ledger.within("logging.reads_per_minute", 60, named[0]):
            return _refused(429, "Quota exceeded for quota metric 'Read requests' and limit 'Read requests per minute'")
        try:
            matches = parse_filter(asked.get("filter", ""))
        except BadFilter as error:
            return _refused(400, str(error))
        if asked.get("orderBy", "") not in ORDERS:
            return _refused(400, f"orderBy must be 'timestamp asc' or 'timestamp desc', not {asked['orderBy']!r}")
        logs = tuple(f"{one}/logs/" for one in named)
        found = [one for one in self._ledger.logged() if one["logName"].startswith(logs) and matches(one)]
        found.sort(key=lambda one: str(one["timestamp"]), reverse=asked.get("orderBy") == "timestamp desc")
        start = int(asked.get("pageToken") or 0)
        end = start + min(PAGE_MAX, int(asked.get("pageSize") or 50))
        return _json(200, {"entries": found[start:end]} | ({"nextPageToken": str(end)} if end < len(found) else {}))


def _refused(status: int, message: str) -> Response:
    return _json(status, {"error": {"code": status, "message": message}})


def _json(status: int, value: Any) -> Response:
    return Response(status, json.dumps(value).encode(), {"Content-Type": "application/json; charset=UTF-8"})
