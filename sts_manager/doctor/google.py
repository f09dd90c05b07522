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

from sts_manager.doctor.finding import Finding, Patient, failed, passed, skipped, warned
from sts_manager.domain.errors import Denied
from sts_manager.domain.model import Route
from sts_manager.domain.place import Place, Scheme
from sts_manager.routes.sts import StsClient
from sts_manager.routes.transfer_log import session_at

VENDORS: tuple[type[Exception], ...] = (exceptions.GoogleAPICallError, GoogleAuthError, requests.RequestException)
RESOURCE_MANAGER = "https://cloudresourcemanager.googleapis.com"
RESOURCE_MANAGER_EMULATOR = "CLOUDRESOURCEMANAGER_EMULATOR_HOST"
STORAGE_EMULATOR = "STORAGE_EMULATOR_HOST"
STS_CALLS = ("jobs.create", "jobs.get", "jobs.run", "operations.list", "operations.pause", "operations.resume")
ROLES: Mapping[str, frozenset[str]] = {
    "roles/storage.admin": frozenset({"buckets.get", "objects.create", "objects.delete", "objects.get", "objects.list"}),
    "roles/storage.objectAdmin": frozenset({"objects.create", "objects.delete", "objects.get", "objects.list"}),
    "roles/storage.objectUser": frozenset({"objects.create", "objects.delete", "objects.get", "objects.list"}),
    "roles/storage.objectViewer": frozenset({"objects.get", "objects.list"}),
    "roles/storage.objectCreator": frozenset({"objects.create"}),
    "roles/storage.legacyBucketReader": frozenset({"buckets.get", "objects.list"}),
    "roles/storage.legacyBucketWriter": frozenset({"buckets.get", "objects.create", "objects.delete", "objects.list"}),
    "roles/storage.legacyBucketOwner": frozenset({"buckets.get", "objects.create", "objects.delete", "objects.list"}),
    "roles/storage.legacyObjectReader": frozenset({"objects.get"}),
    "roles/owner": frozenset({"buckets.get", "objects.create", "objects.delete", "objects.get", "objects.list"}),
}
"""What predefined roles give, of what the service's agent needs (Cloud Storage, IAM roles)."""
AT_SINK = frozenset({"buckets.get", "objects.create", "objects.delete", "objects.get", "objects.list"})
AT_SOURCE = frozenset({"buckets.get", "objects.get", "objects.list"})
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
        for place, needed, role in self._places():
            yield from self._agent(place, agent, needed, role)

    def _places(self) -> Iterator[tuple[Place, frozenset[str], str]]:
        yield self._patient.sink, AT_SINK, "roles/storage.objectAdmin"
        if self._patient.source.scheme is Scheme.GCS:
            yield self._patient.source, AT_SOURCE, "roles/storage.objectViewer"

    def _agent(self, place: Place, agent: str, needed: frozenset[str], role: str) -> Iterator[Finding]:
        name = f"agent's roles on gs://{place.bucket}"
        try:
            policy = self._storage.bucket(place.bucket).get_iam_policy(requested_policy_version=3)
        except exceptions.NotFound:
            return  # the bucket's own check says so
        except exceptions.Forbidden:
            told = "the policy may not be read (storage.buckets.getIamPolicy), so nobody knows"
            yield warned(name, told, f"gcloud storage buckets get-iam-policy gs://{place.bucket} | grep {agent}")
            return
        member = f"serviceAccount:{agent}"
        roles = {one["role"] for one in policy.bindings if member in one["members"] and not one.get("condition")}
        custom = sorted(one for one in roles if one not in ROLES)
        missing = needed - {permission for one in roles for permission in ROLES.get(one, ())}
        if not missing:
            yield passed(name, f"{', '.join(sorted(roles))}")
        elif custom:
            told = f"{', '.join(custom)} is not known here; storage.{', storage.'.join(sorted(missing))} are needed"
            yield warned(name, told, f"gcloud iam roles describe {custom[0]}")
        else:
            adding = f"gcloud storage buckets add-iam-policy-binding gs://{place.bucket} --member={member} --role="
            roles_missing = [role] if missing - {"buckets.get"} else []
            roles_missing += ["roles/storage.legacyBucketReader"] if "buckets.get" in missing else []
            told = f"the service may not storage.{', storage.'.join(sorted(missing))}"
            yield failed(name, told, "; ".join(adding + one for one in roles_missing))

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
        base, session = session_at(RESOURCE_MANAGER_EMULATOR, RESOURCE_MANAGER)
        with session:
            url = f"{base}/v1/projects/{project}:testIamPermissions"
            answer = session.post(url, json={"permissions": list(wanted)}, timeout=30)
        if answer.status_code != 200:
            told = f"nobody can tell: Cloud Resource Manager answered {answer.status_code} for project {project}"
            yield warned(name, told, f"gcloud services enable cloudresourcemanager.googleapis.com --project {project}")
            return
        missing = [one for one in wanted if one not in answer.json().get("permissions", ())]
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
        name = "storage class and Autoclass"
        autoclass = bool(found.autoclass_enabled)
        if autoclass and settings.storage_class not in ("", "STANDARD"):
            told = f"Autoclass is on, which takes only STANDARD, and --storage-class is {settings.storage_class}"
            yield failed(name, told, f"leave --storage-class out, or: {update} --no-enable-autoclass")
        else:
            yield passed(
                name,
                f"Autoclass is {'on' if autoclass else 'off'}, --storage-class {settings.storage_class or 'is the bucket’s own'}",
            )
        seconds = int(found.soft_delete_policy.retention_duration_seconds or 0)
        name = "soft delete"
        if seconds:
            days = seconds / 86_400
            told = f"what is overwritten or deleted is billed for {days:g} more days; route sts-url-list renames every object"
            yield warned(name, told, f"{update} --clear-soft-delete  # while the migration lasts")
        else:
            yield passed(name, "off: what is overwritten or deleted costs nothing more")
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
        try:
            found: Collection[str] = self._storage.bucket(self._patient.sink.bucket).test_iam_permissions(wanted)
        except exceptions.NotFound:
            return
        missing = [one for one in wanted if one not in found]
        if not missing:
            yield passed(name, "storage.objects.create, delete, get, list, update")
        elif needed:
            yield failed(name, f"{', '.join(missing)} missing", _on_bucket(self._patient.sink.bucket, "roles/storage.objectUser"))
        else:
            told = f"{', '.join(missing)} missing: failed objects cannot be found by comparing the listings"
            yield warned(name, told, _on_bucket(self._patient.sink.bucket, "roles/storage.objectUser"))

    def location(self) -> str:
        """Where the sink is; empty when nobody can tell."""
        try:
            return str(self._storage.get_bucket(self._patient.sink.bucket).location or "")
        except exceptions.GoogleAPICallError:
            return ""


def continent(location: str) -> str:
    """Of a region of either cloud, or of a multi-region; empty when it is not known."""
    begin = location.lower().partition("-")[0]
    return next((name for name, stems in CONTINENTS.items() if begin in stems), "")


def _grant(project: str, role: str) -> str:
    return f"gcloud projects add-iam-policy-binding {project} --member=serviceAccount:THIS_ACCOUNT --role={role}"


def _on_bucket(bucket: str, role: str) -> str:
    return f"gcloud storage buckets add-iam-policy-binding gs://{bucket} --member=serviceAccount:THIS_ACCOUNT --role={role}"
