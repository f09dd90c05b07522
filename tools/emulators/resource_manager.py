"""Cloud Resource Manager: which permissions the caller has on the project, and the project's IAM policy. Nothing else."""

from __future__ import annotations

import json
import re

from tools.emulators.gcs.json_resources import project_number
from tools.emulators.ledger import Ledger
from tools.emulators.web import Request, Response

PATH = re.compile(r"/v1/projects/([^/:]+):(testIamPermissions|getIamPolicy)")
API = "cloudresourcemanager.googleapis.com"
"""Of the stage's project; buckets name it so."""


class ResourceManager:
    """A handler of requests."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def handle(self, request: Request) -> Response:
        found = PATH.fullmatch(request.path)
        if found is None or request.method != "POST":
            return _refused(404, "Unknown path")
        self._ledger.count("resourcemanager", found[2][0].upper() + found[2][1:])
        projects = (*self._ledger.projects, *self._ledger.setting("projects.others"))
        known = found[1] in projects or found[1] in map(project_number, projects)
        if API in self._ledger.setting("apis.disabled") or not known:
            return _refused(403, "The caller does not have permission")
        if found[2] == "getIamPolicy":
            return self._policy()
        asked = json.loads(request.body).get("permissions", [])
        return _json(200, {"permissions": [one for one in asked if self._ledger.grants(one)]})

    def _policy(self) -> Response:
        if not self._ledger.permits("resourcemanager.projects.getIamPolicy"):
            return _refused(403, "The caller does not have permission")
        return _json(200, {"version": 3, "etag": "BwX=", "bindings": self._ledger.setting("iam.project_policy")})


def _refused(status: int, message: str) -> Response:
    return _json(status, {"error": {"code": status, "message": message, "status": "PERMISSION_DENIED"}})


def _json(status: int, value: object) -> Response:
    return Response(status, json.dumps(value).encode(), {"Content-Type": "application/json; charset=UTF-8"})
