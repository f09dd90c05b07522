"""The whole stage in one process: servers, their environment variables, and the admin endpoint."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tools.emulators.bigquery.server import BigQuery
from tools.emulators.cdn import KEY_PAIR_ID, Cdn
from tools.emulators.gcs.objects import ObjectStore
from tools.emulators.gcs.server import Gcs
from tools.emulators.ledger import DEFAULT_PROJECT, BadFault, Ledger, check_projects
from tools.emulators.logging_api import CloudLogging
from tools.emulators.monitoring.server import MonitoringServer
from tools.emulators.pubsub.server import PubSubServer
from tools.emulators.resource_manager import ResourceManager
from tools.emulators.rpc import Refused
from tools.emulators.s3 import S3
from tools.emulators.sigv4 import Keys
from tools.emulators.sts.rest import StsRest
from tools.emulators.sts.server import StsServer
from tools.emulators.sts.service import Places, TransferService
from tools.emulators.web import Request, Response, WebServer, application

PROJECT = DEFAULT_PROJECT
SERVICES = ("s3", "gcs", "sts", "bigquery", "monitoring", "cdn", "pubsub", "resourcemanager", "logging")
KEYS = Keys("AKIASTAGEREHEARSAL00", "stage-secret-access-key-of-no-worth")


class Stage:
    """Starts the servers that were asked for; the others are taken from the environment.

    projects: the names of its projects; the first one is for whatever names none.

    Raises ValueError for an unknown service, for a project's name that is none, or when STS is wanted and S3 or GCS is neither
    started nor named.
    """

    def __init__(self, only: Sequence[str] = SERVICES, folder: Path | None = None, projects: Sequence[str] = (PROJECT,)) -> None:
        unknown = sorted(set(only) - set(SERVICES))
        if unknown:
            raise ValueError(f"unknown service {unknown[0]!r}; the stage has {', '.join(SERVICES)}")
        self.ledger = Ledger(projects=check_projects(projects))
        self.objects = ObjectStore(folder)
        self._stops: list[Callable[[], None]] = []
        self._resets: list[Callable[[], None]] = [self.ledger.reset, self.objects.reset]
        self.environment: dict[str, str] = {
            "GOOGLE_CLOUD_PROJECT": self.ledger.projects[0],
            "AWS_ACCESS_KEY_ID": KEYS.key_id,
            "AWS_SECRET_ACCESS_KEY": KEYS.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self.s3: S3 | None = None
        self.sts: TransferService | None = None
        self.bigquery: BigQuery | None = None
        self.cdn: Cdn | None = None
        self.monitoring: MonitoringServer | None = None
        self.pubsub: PubSubServer | None = None
        if "s3" in only:
            self._start_s3()
        if "gcs" in only:
            self._start_gcs()
        if "sts" in only:
            self._start_sts()
        if "bigquery" in only:
            self._start_bigquery()
        if "monitoring" in only:
            self._start_monitoring()
        if "cdn" in only:
            self._start_cdn()
        if "pubsub" in only:
            self._start_pubsub()
        if "logging" in only:
            server = self._web(WebServer(application(CloudLogging(self.ledger).handle), threads=4))
            self.environment["LOGGING_EMULATOR_HOST"] = server.url
        if "resourcemanager" in only:
            server = self._web(WebServer(application(ResourceManager(self.ledger).handle), threads=4))
            self.environment["CLOUDRESOURCEMANAGER_EMULATOR_HOST"] = server.url
        admin = self._web(WebServer(application(self._admin), threads=4))
        self.environment["EMULATOR_ADMIN"] = admin.url

    def _web(self, server: WebServer) -> WebServer:
        self._stops.append(server.stop)
        return server.start()

    def _start_s3(self) -> None:
        self.s3 = S3(self.ledger, [KEYS])
        self._resets.append(self.s3.reset)
        self.environment["AWS_ENDPOINT_URL"] = self._web(WebServer(self.s3)).url

    def _start_gcs(self) -> None:
        gcs = Gcs(self.ledger, self.objects)
        server = self._web(WebServer(application(gcs.handle)))
        gcs.at(server.url)
        self.environment["STORAGE_EMULATOR_HOST"] = server.url

    def _start_bigquery(self) -> None:
        self.bigquery = BigQuery(self.ledger)
        server = self._web(WebServer(application(self.bigquery.handle)))
        self.bigquery.at(server.url)
        self._resets.append(self.bigquery.reset)
        self.environment["BIGQUERY_EMULATOR_HOST"] = server.url

    def _start_monitoring(self) -> None:
        self.monitoring = MonitoringServer(self.ledger).start()
        self._stops.append(self.monitoring.stop)
        self._resets.append(self.monitoring.reset)
        self.environment["MONITORING_EMULATOR_HOST"] = self.monitoring.address

    def _start_pubsub(self) -> None:
        self.pubsub = PubSubServer(self.ledger).start()
        self._stops.append(self.pubsub.stop)
        self._resets.append(self.pubsub.reset)
        self.environment["PUBSUB_EMULATOR_HOST"] = self.pubsub.address

    def _start_cdn(self) -> None:
        self.cdn = Cdn(self.ledger, self._at("cdn reads from S3: start it too", "AWS_ENDPOINT_URL"), KEYS).start()
        self._stops.append(self.cdn.stop)
        folder = tempfile.mkdtemp(prefix="sts-manager-stage-")
        self._stops.append(lambda: shutil.rmtree(folder, ignore_errors=True))
        for name, pem in self.cdn.private_keys.items():
            path = Path(folder) / f"{name}.pem"
            path.write_bytes(pem)
            path.chmod(0o600)
        self.environment |= {
            "CDN_EMULATOR_HOST": self.cdn.address,
            "CDN_KEY_PAIR_ID": KEY_PAIR_ID,
            "CDN_PRIVATE_KEY_FILE": str(Path(folder) / f"{KEY_PAIR_ID}.pem"),
        }

    def _at(self, why: str, name: str) -> str:
        """Where another server of the stage is: one of ours, or one that the environment names."""
        url = self.environment.get(name) or os.environ.get(name)
        if not url:
            raise ValueError(f"{why}, or set {name}")
        return url

    def _start_sts(self) -> None:
        why = "sts copies between S3 and GCS: start them too"
        places = Places(self._at(why, "AWS_ENDPOINT_URL"), self._at(why, "STORAGE_EMULATOR_HOST"), (KEYS,))
        self.sts = TransferService(self.ledger, self.ledger.projects[0], places)
        server = StsServer(self.ledger, self.sts).start()
        self._stops.append(server.stop)
        self._resets.append(self.sts.reset)
        self.environment["STORAGE_TRANSFER_EMULATOR_HOST"] = server.address
        rest = self._web(WebServer(application(StsRest(self.ledger, self.sts).handle), threads=4))
        self.environment["STORAGE_TRANSFER_REST_EMULATOR_HOST"] = rest.url

    def reset(self) -> None:
        """Forget all buckets, jobs, operations, calls, faults and changed settings."""
        for reset in self._resets:
            reset()

    def stop(self) -> None:
        for stop in reversed(self._stops):
            stop()

    def _admin(self, request: Request) -> Response:
        try:
            return _answer(self._administer(request))
        except (BadFault, Refused, ValueError, KeyError, TypeError) as error:
            return _answer({"error": str(error)}, 400)

    def _administer(self, request: Request) -> dict[str, Any]:
        body = json.loads(request.body) if request.body else {}
        asked = self._told(request.path) if request.method == "GET" else self._done(request.method, request.path, body)
        if asked is None:
            raise ValueError(
                "the admin endpoint knows GET /calls, /permissions, /bigquery/jobs, /settings, /faults; POST /settings, /faults, "
                f"/reset, /operations, /past, /tiers, /expiries; DELETE /faults; not {request.method} {request.path}"
            )
        return asked

    def _told(self, path: str) -> dict[str, Any] | None:
        match path:
            case "/calls":
                return self.ledger.report()
            case "/permissions":
                return dict(self.ledger.permissions)
            case "/bigquery/jobs" if self.bigquery is not None:
                return {"jobs": self.bigquery.billed()}
            case "/settings":
                return dict(self.ledger.settings)
            case "/faults":
                return {"faults": [vars(rule) for rule in self.ledger.rules]}
        return None

    def _done(self, method: str, path: str, body: Any) -> dict[str, Any] | None:
        match method, path:
            case "POST", "/settings":
                self.ledger.change(body)
                return dict(self.ledger.settings)
            case "POST", "/faults":
                for rule in body if isinstance(body, list) else [body]:
                    self.ledger.add_rule(rule)
                return {"faults": len(self.ledger.rules)}
            case "DELETE", "/faults":
                self.ledger.rules.clear()
                return {"faults": 0}
            case "POST", "/reset":
                self.reset()
                return {}
            case "POST", "/operations" if self.sts is not None:
                self.sts.force(body["name"], int(body["status"]))
                return {}
            case "POST", "/tiers" if self.s3 is not None:
                self.s3.archive.move(body["bucket"], body["key"], body["tier"])
                return {}
            case "POST", "/expiries" if self.s3 is not None:
                self.s3.archive.expire(body["bucket"], body["key"])
                return {}
            case "POST", "/past" if self.sts is not None:
                self.sts.seed_past(int(body["operations"]))
                return {}
        return None


def _answer(value: dict[str, Any], status: int = 200) -> Response:
    return Response(status, json.dumps(value).encode(), {"Content-Type": "application/json"})
