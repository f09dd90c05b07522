"""What every part of a probe is made with: the clients, the places, a clock that tests set, and the names of what is made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import requests

from sts_manager.doctor.finding import Patient
from sts_manager.doctor.probe.record import ProbeRecord
from sts_manager.doctor.probe.storage import CloudStorage
from sts_manager.domain.location import Place, Scheme
from sts_manager.metrics.cloud_monitoring import AlertPolicies
from sts_manager.ports import MetricsSink
from sts_manager.routes.sts.route import StsClient
from sts_manager.routes.sts.spec import TransferSettings
from sts_manager.stores.bigquery.client import Warehouse

TRANSFER_WAIT_S, TRANSFER_POLL_S = 900.0, 5.0
LOG_WAIT_S, LOG_POLL_S = 180.0, 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """How the services are reached. None: that part is not configured, or has no credentials here.

    metrics   a sink of points whose series have a location and belong to a task
    policies  the alert policies of a project
    location  of the series that the daemon would write
    granted   of permissions, those that the caller has in a project; None where nobody can tell
    web       requests through the CDN
    """

    storage: CloudStorage
    transfers: StsClient
    web: requests.Session
    s3: Any = None
    metrics: Callable[[str, str], MetricsSink] | None = None
    location: str = "global"
    policies: Callable[[str], AlertPolicies] | None = None
    warehouse: Warehouse | None = None
    granted: Callable[[str, tuple[str, ...]], list[str] | None] = lambda _project, permissions: list(permissions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What the user allows besides. kms_key: of Cloud KMS, for one object."""

    write_source: bool = False
    kms_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One probe.

    transfer_settings   None where S3 cannot be opened, and `transfer_fault` says why
    lacking             part → the rights that are missing for it, and what to grant
    """

    record: ProbeRecord
    patient: Patient
    clients: Clients
    transfer_settings: TransferSettings | None
    transfer_fault: str = ""
    choices: Choices = field(default_factory=Choices)
    lacking: Mapping[str, str] = field(default_factory=dict)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], None] = time.sleep

    @property
    def bucket(self) -> str:
        """The destination's."""
        return self.patient.sink.bucket

    @property
    def project(self) -> str:
        return self.patient.project

    @property
    def from_s3(self) -> bool:
        return self.patient.source.scheme is Scheme.S3

    def name(self, short: str) -> str:
        """An object of this probe in the destination bucket."""
        return f"{self.record.path}{short}"

    def place(self, folder: str) -> Place:
        """A path of this probe in the destination bucket, for a transfer to write to."""
        return Place(Scheme.GCS, self.bucket, f"{self.record.path}{folder}/")

    def wait(self, most_s: float, poll_s: float) -> Iterator[float]:
        """Seconds that have passed, again and again, with a sleep between two looks, until it has been too long."""
        began = self.now()
        while True:
            passed = (self.now() - began).total_seconds()
            yield passed
            if passed >= most_s:
                return
            self.sleep(poll_s)
