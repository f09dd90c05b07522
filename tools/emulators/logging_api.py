"""Cloud Logging: what the stage's services wrote, listed by a filter of `field="value"` and `field:"part"`, joined by AND."""

from __future__ import annotations

import json
import re
from typing import Any

from tools.emulators.ledger import Ledger
from tools.emulators.web import Request, Response

TERM = re.compile(r'([A-Za-z.]+)(=|:)"([^"]*)"')
PAGE_MAX = 1000


class CloudLogging:
    """A handler of requests."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def handle(self, request: Request) -> Response:
        self._ledger.count("logging", "ListLogEntries")
        if request.path != "/v2/entries:list" or request.method != "POST":
            return _refused(404, "Unknown path")
        asked = json.loads(request.body)
        projects = [name.removeprefix("projects/") for name in asked.get("resourceNames", [])]
        known = len(projects) == 1 and self._ledger.knows_project(projects[0])
        if not self._ledger.permits("logging.logEntries.list") or not known:
            return _refused(403, "Permission denied for all log views")
        terms = asked.get("filter", "").split(" AND ")
        parsed = [TERM.fullmatch(term.strip()) for term in terms]
        if not all(parsed):
            return _refused(400, f"Unparseable filter: {asked.get('filter')!r}")
        with self._ledger.lock:
            entries = [one for one in self._ledger.log_entries if one["logName"].startswith(f"projects/{projects[0]}/")]
            found = [one for one in entries if all(_meets(one, term) for term in parsed if term)]
        start = int(asked.get("pageToken") or 0)
        end = start + min(PAGE_MAX, int(asked.get("pageSize") or 50))
        return _json(200, {"entries": found[start:end]} | ({"nextPageToken": str(end)} if end < len(found) else {}))


def _meets(entry: dict[str, Any], term: re.Match[str]) -> bool:
    value: Any = entry
    for name in term[1].split("."):
        value = value.get(name, {}) if isinstance(value, dict) else {}
    return value == term[3] if term[2] == "=" else term[3] in str(value)


def _refused(status: int, message: str) -> Response:
    return _json(status, {"error": {"code": status, "message": message}})


def _json(status: int, value: object) -> Response:
    return Response(status, json.dumps(value).encode(), {"Content-Type": "application/json; charset=UTF-8"})
