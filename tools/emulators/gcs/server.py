"""One HTTP server for both APIs, with counts and faults in front."""

from __future__ import annotations

from tools.emulators.gcs import json_api, xml_api
from tools.emulators.gcs.json_api import JsonApi
from tools.emulators.gcs.objects import ObjectStore, Refused
from tools.emulators.gcs.xml_api import XmlApi
from tools.emulators.ledger import Ledger, Rule
from tools.emulators.web import Request, Response, pause_for

SOFT_ERRORS = {"REQUEST_TIMEOUT": 408, "TOO_MANY_REQUESTS": 429, "INTERNAL": 500, "UNAVAILABLE": 503, "FORBIDDEN": 403}


class Gcs:
    """A handler of requests."""

    def __init__(self, ledger: Ledger, store: ObjectStore) -> None:
        self.store = store
        self._ledger = ledger
        self._json, self._xml = JsonApi(store), XmlApi(store)

    def at(self, url: str) -> None:
        """Be told where clients reach this server."""
        self._json.url = url

    def handle(self, request: Request) -> Response:
        is_json = request.path.startswith(("/storage/v1/", "/upload/storage/v1/", "/download/storage/v1/"))
        api: JsonApi | XmlApi = self._json if is_json else self._xml
        shape = json_api.refusal if is_json else xml_api.refusal
        fault = self._ledger.count("gcs", api.name(request))
        if fault is not None:
            pause_for(fault.delay_s)
            if not fault.applied:
                return shape(_soft(fault))
        try:
            response = api.handle(request)
        except Refused as refused:
            response = shape(refused)
        response.hang_up = fault is not None and fault.applied
        return response


def _soft(fault: Rule) -> Refused:
    return Refused(SOFT_ERRORS.get(fault.error, 503), "backendError", fault.message, "InternalError")
