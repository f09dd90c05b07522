"""Google's side: the APIs, the permissions of the caller and of the transfer service's agent, the buckets' own settings."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import requests
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError
from google.cloud import storage  # type: ignore[attr-defined]

from sts_manager.doctor.agent import AgentSide
from sts_manager.doctor.finding import Finding, Patient, failed, passed, skipped, warned
from sts_manager.doctor.projects import Unanswered, ask_permissions
from sts_manager.domain.errors import Denied
from sts_manager.domain.location import Scheme
from sts_manager.domain.model import Route
from sts_manager.routes.sts.route import StsClient

VENDORS: tuple[type[Exception], ...] = (exceptions.GoogleAPICallError, GoogleAuthError, requests.RequestException)
STORAGE_EMULATOR = "STORAGE_EMULATOR_HOST"
STS_CALLS = (
    "jobs.create",
    "jobs.get",
    "jobs.run",
    "operations.list",
    "operations.pause",
    "operations.resume",
    "projects.getServiceAccount",
)
CONTINENTS = {
    "America": ("us", "northamerica", "southamerica", "ca", "sa", "mx"),
    "Europe": ("eu", "europe"),
    "Asia": ("asia", "ap"),
    "Australia": ("australia",),
    "Middle East": ("me", "il"),
    "Africa": ("africa", "af"),
}
"""By how the names of regions begin, of either cloud; Amazon's Australia is in its Asia."""


class GoogleSide:
    """`client`: the transfer service's."""

    def __init__(self, patient: Patient, client: StsClient) -> None:
        self._patient, self._client = patient, client
        anonymous = STORAGE_EMULATOR in os.environ
        credentials: Any = AnonymousCredentials() if anonymous else None  # type: ignore[no-untyped-call]
        self._storage = storage.Client(project=patient.project, credentials=credentials)

    def close(self) -> None:
        self._storage.close()

    def api(self) -> Iterator[Finding]:
        """The Storage Transfer API answers, and says who its agent is."""
        name = "Storage Transfer API"
        try:
            agent = self._client.agent()
        except Denied as error:
            if "disabled" in str(error):
                fix = f"gcloud services enable storagetransfer.googleapis.com --project {self._patient.project}"
                yield failed(name, f"it is off in project {self._patient.project}", fix)
            else:
                yield failed(name, str(error), _grant(self._patient.project, "roles/storagetransfer.user"))
            return
        yield passed(name, f"on in project {self._patient.project}; its agent is {agent}")
        yield from AgentSide(self._patient, self._storage).roles(agent)

    def permissions(self) -> Iterator[Finding]:
        """What the caller may do in the project: the transfer service, and writing points where that is wanted."""
        wanted = {f"storagetransfer.{one}": "roles/storagetransfer.user" for one in STS_CALLS}
        yield from self._may("permissions for transfers", self._patient.project, wanted)
        settings = self._patient.settings
        name = "Monitoring write"
        if settings.publish_heartbeat:
            project = settings.stackdriver_project or self._patient.project
            yield from self._may(name, project, {"monitoring.timeSeries.create": "roles/monitoring.metricWriter"})
        else:
            yield skipped(name, "--publish-heartbeat is off")

    def _may(self, name: str, project: str, wanted: Mapping[str, str]) -> Iterator[Finding]:
        try:
            granted = ask_permissions(project, wanted)
        except Unanswered as error:
            told = f"nobody can tell: {error} for project {project}"
            yield warned(name, told, f"gcloud services enable cloudresourcemanager.googleapis.com --project {project}")
            return
        missing = [one for one in wanted if one not in granted]
        if not missing:
            yield passed(name, f"granted in project {project}")
            return
        roles = sorted({wanted[one] for one in missing})
        yield failed(
            name,
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing",
            "; ".join(_grant(project, one) for one in roles),
        )

    def buckets(self) -> Iterator[Finding]:
        """They are there, and nothing in their settings stands in the way or costs unawares."""
        for place in {self._patient.sink, self._patient.source}:
            if place.scheme is not Scheme.GCS:
                continue
            name = f"bucket gs://{place.bucket}"
            try:
                bucket = self._storage.get_bucket(place.bucket)
            except exceptions.NotFound:
                yield failed(
                    name,
                    "it does not exist",
                    f"gcloud storage buckets create gs://{place.bucket} --location=LOCATION, or mend the flag",
                )
                continue
            except exceptions.Forbidden:
                yield failed(
                    name,
                    "this account may not look at it (storage.buckets.get)",
                    _on_bucket(place.bucket, "roles/storage.legacyBucketReader"),
                )
                continue
            yield passed(name, f"in {bucket.location}, {bucket.storage_class}")
            if place == self._patient.sink:
                yield from self._sink(bucket)

    def _sink(self, found: Any) -> Iterator[Finding]:
        bucket, settings = self._patient.sink.bucket, self._patient.settings
        update = f"gcloud storage buckets update gs://{bucket}"
        autoclass, chosen = bool(found.autoclass_enabled), settings.storage_class
        name = "storage class and Autoclass"
        if autoclass and chosen not in ("", "STANDARD"):
            # Whatever a request says (Cloud Storage, Autoclass); of transfers the service's page says it too (Transfer from
            # Amazon S3: storage class settings are ignored).
            told = f"Autoclass is on, so --storage-class {chosen} is ignored: objects begin as STANDARD and move by themselves"
            yield warned(name, told, f"leave --storage-class out, or: {update} --no-enable-autoclass")
        else:
            yield passed(name, f"Autoclass is {'on' if autoclass else 'off'}, --storage-class {chosen or 'is the bucket’s own'}")
        seconds = int(found.soft_delete_policy.retention_duration_seconds or 0)
        name = "soft delete"
        if seconds:
            # A rename by objects.move deletes its source without a trace (Cloud Storage, JSON API, objects: move).
            told = f"what is overwritten or deleted is billed for {seconds / 86_400:g} more days; what is renamed is not"
            yield warned(name, told, f"{update} --clear-soft-delete  # while the migration lasts")
        else:
            yield passed(name, "off: what is overwritten or deleted costs nothing more")
        if found.hierarchical_namespace_enabled:
            told = "it has folders: a name's folder and its last part take 512 bytes each, and every '/' is a folder of its own"
            yield warned("folders of the sink", told, "sts-manager doctor … --prefix P looks through the names of a prefix")
        if found.retention_period or found.default_event_based_hold:
            told = "objects cannot be overwritten or deleted for a time: repairs, and renames by route sts-url-list, will fail"
            yield warned("retention", told, f"{update} --clear-retention-period, where that is allowed")
        key = found.default_kms_key_name
        if key:
            member = "serviceAccount:service-PROJECT_NUMBER@gs-project-accounts.iam.gserviceaccount.com"
            told = f"new objects are encrypted with {key}: Cloud Storage's agent needs to use it"
            role = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
            fix = f"gcloud kms keys add-iam-policy-binding {key} --member={member} --role={role}"
            yield warned("KMS key of the sink", told, fix)

    def own_writes(self) -> Iterator[Finding]:
        """What this program's own workers may do at the sink."""
        name = "workers' rights on the sink"
        needed = {Route.CDN.value, Route.STS_URL_LIST.value} & self._patient.routes
        if not needed and not self._patient.settings.sts_find_failures:
            yield skipped(name, "the service alone writes there")
            return
        wanted = [f"storage.objects.{one}" for one in ("create", "delete", "get", "list", "update")]
        wanted += ["storage.folders.create"] if self.has_folders() else []
        try:
            found: Collection[str] = self._storage.bucket(self._patient.sink.bucket).test_iam_permissions(wanted)
        except exceptions.NotFound:
            return
        missing = [one for one in wanted if one not in found]
        if not missing:
            yield passed(name, ", ".join(wanted))
        elif needed:
            yield failed(name, f"{', '.join(missing)} missing", _on_bucket(self._patient.sink.bucket, "roles/storage.objectUser"))
        else:
            told = f"{', '.join(missing)} missing: failed objects cannot be found by comparing the listings"
            yield warned(name, told, _on_bucket(self._patient.sink.bucket, "roles/storage.objectUser"))

    def location(self) -> str:
        """Where the sink is; empty when nobody can tell."""
        found = self._sink_resource()
        return "" if found is None else str(found.location or "")

    def has_folders(self) -> bool:
        """Whether the sink has a hierarchical namespace; False when nobody can tell."""
        found = self._sink_resource()
        return found is not None and bool(found.hierarchical_namespace_enabled)

    def _sink_resource(self) -> Any:
        try:
            return self._storage.get_bucket(self._patient.sink.bucket)
        except exceptions.GoogleAPICallError:
            return None


def continent(location: str) -> str:
    """Of a region of either cloud, or of a multi-region; empty when it is not known."""
    begin = location.lower().partition("-")[0]
    return next((name for name, stems in CONTINENTS.items() if begin in stems), "")


def _grant(project: str, role: str) -> str:
    return f"gcloud projects add-iam-policy-binding {project} --member=serviceAccount:THIS_ACCOUNT --role={role}"


def _on_bucket(bucket: str, role: str) -> str:
    return f"gcloud storage buckets add-iam-policy-binding gs://{bucket} --member=serviceAccount:THIS_ACCOUNT --role={role}"
