"""Cloud Resource Manager: which permissions the caller has on the project. Nothing else."""

from __future__ import annotations

import json
import re

from tools.emulators.ledger import Ledger
from tools.emulators.web import Request, Response

PATH = re.compile(r"/v1/projects/([^/:]+):testIamPermissions")
API = "cloudresourcemanager.googleapis.com"


class ResourceManager:
    """A handler of requests."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def handle(self, request: Request) -> Response:
        self._ledger.count("resourcemanager", "TestIamPermissions")
        found = PATH.fullmatch(request.path)
        if found is None or request.method != "POST":
            return _refused(404, "Unknown path")
        if API in self._ledger.setting("apis.disabled") or not self._ledger.knows_project(found[1]):
            return _refused(403, "The caller does not have permission")
        asked = json.loads(request.body).get("permissions", [])
        return _json(200, {"permissions": [one for one in asked if self._ledger.grants(one)]})


def _refused(status: int, message: str) -> Response:
    return _json(status, {"error": {"code": status, "message": message, "status": "PERMISSION_DENIED"}})


def _json(status: int, value: object) -> Response:
    return Response(status, json.dumps(value).encode(), {"Content-Type": "application/json; charset=UTF-8"})
