"""The transfer service's own account: whether its roles let it read and write the buckets, as far as roles can tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from google.api_core import exceptions

from sts_manager.doctor.finding import Finding, Patient, passed, warned
from sts_manager.doctor.projects import Unanswered, read_roles, roles_of
from sts_manager.domain.location import Place, Scheme

_OBJECTS = frozenset({"objects.create", "objects.delete", "objects.get", "objects.list"})
_FOLDERS = frozenset({"folders.create"})
ROLES: Mapping[str, frozenset[str]] = {
    "roles/storage.admin": frozenset({"buckets.get"}) | _OBJECTS | _FOLDERS,
    "roles/storage.objectAdmin": _OBJECTS | _FOLDERS,
    "roles/storage.objectUser": _OBJECTS | _FOLDERS,
    "roles/storage.objectViewer": frozenset({"objects.get", "objects.list"}),
    "roles/storage.objectCreator": frozenset({"objects.create"}) | _FOLDERS,
    "roles/storage.legacyBucketReader": frozenset({"buckets.get", "objects.list"}),
    "roles/storage.legacyBucketWriter": frozenset({"buckets.get", "objects.create", "objects.delete", "objects.list"}),
    "roles/storage.legacyBucketOwner": frozenset({"buckets.get", "objects.create", "objects.delete", "objects.list"}) | _FOLDERS,
    "roles/storage.legacyObjectReader": frozenset({"objects.get"}),
    "roles/storagetransfer.serviceAgent": frozenset(),  # the service gives it to its agent by itself: Pub/Sub only
    "roles/owner": frozenset({"buckets.get"}) | _OBJECTS | _FOLDERS,
}
"""What predefined roles give, of what the service's agent needs (Cloud Storage, IAM roles)."""
AT_SINK = frozenset({"buckets.get"}) | _OBJECTS
AT_SOURCE = frozenset({"buckets.get", "objects.get", "objects.list"})


class AgentSide:
    """What the policies of buckets and projects give the transfer service's account. `storage`: a client of Cloud Storage."""

    def __init__(self, patient: Patient, storage: Any) -> None:
        self._patient, self._storage = patient, storage

    def roles(self, agent: str) -> Iterator[Finding]:
        """One finding for each bucket in Cloud Storage."""
        yield from self._on(self._patient.sink, agent, AT_SINK, "roles/storage.objectAdmin")
        if self._patient.source.scheme is Scheme.GCS:
            yield from self._on(self._patient.source, agent, AT_SOURCE, "roles/storage.objectViewer")

    def _on(self, place: Place, agent: str, needed: frozenset[str], role: str) -> Iterator[Finding]:
        name, member = f"agent's roles on gs://{place.bucket}", f"serviceAccount:{agent}"
        try:
            policy = self._storage.bucket(place.bucket).get_iam_policy(requested_policy_version=3)
        except exceptions.NotFound:
            return  # the bucket's own check says so
        except exceptions.Forbidden:
            told = "the policy may not be read (storage.buckets.getIamPolicy), so nobody knows"
            yield warned(name, told, f"gcloud storage buckets get-iam-policy gs://{place.bucket} | grep {agent}")
            return
        found = self._resource(place.bucket)
        if place == self._patient.sink and found is not None and found.hierarchical_namespace_enabled:
            needed |= _FOLDERS
        on_bucket = roles_of(policy.bindings, member)
        missing = needed - _given(on_bucket)
        if not missing:
            yield passed(name, ", ".join(sorted(on_bucket)))
            return
        on_project, seen = self._on_project(found, member)
        missing -= _given(on_project)
        if not missing:
            inherited = sorted(one for one in on_project if ROLES.get(one, frozenset()) & needed)
            yield passed(name, ", ".join([*sorted(on_bucket), *(f"{one} (on its project)" for one in inherited)]))
            return
        shown = missing & self._shown_by_probe(place)
        if shown == missing:
            told = (
                f"no policy that can be seen gives storage.{', storage.'.join(sorted(missing))}; a probe's transfer shows that it"
            )
            yield passed(name, f"{told} is granted (repeat `doctor --probe` should grants have changed since)")
            return
        missing -= shown
        yield warned(name, _told(missing, on_bucket | on_project, seen), _grants(place.bucket, member, missing, role))

    def _shown_by_probe(self, place: Place) -> frozenset[str]:
        """What a probe's transfer did there: roles may be granted on a folder or to a group, where no policy shows them."""
        answers = self._patient.answers
        if answers is None or place != self._patient.sink or not answers.transfer_succeeded(self._patient.project, place.bucket):
            return frozenset()
        everything = AT_SINK | _FOLDERS
        return everything if answers.transfer_replaced else everything - {"objects.delete"}

    def _resource(self, bucket: str) -> Any:
        """The bucket's own resource; None where it may not be looked at, which its own check says."""
        try:
            return self._storage.get_bucket(bucket)
        except (exceptions.Forbidden, exceptions.NotFound):
            return None

    def _on_project(self, found: Any, member: str) -> tuple[set[str], str]:
        """(roles that the bucket's project gives, what could be seen of it in words)."""
        if found is None:
            return set(), "roles on its project, a folder or the organisation cannot be seen, as the bucket may not be looked at"
        try:
            return read_roles(str(found.project_number), member), "nor does its project; a folder or the organisation may"
        except Unanswered as error:
            told = f"roles on project {found.project_number}, a folder or the organisation cannot be seen"
            return set(), f"{told} (resourcemanager.projects.getIamPolicy: {error})"


def _given(roles: set[str]) -> set[str]:
    return {permission for one in roles for permission in ROLES.get(one, ())}


def _told(missing: frozenset[str], roles: set[str], seen: str) -> str:
    told = f"the bucket's own policy does not let the service storage.{', storage.'.join(sorted(missing))}; {seen}"
    unknown = sorted(one for one in roles if one not in ROLES)
    return f"{told}; what {', '.join(unknown)} may is not known here" if unknown else told


def _grants(bucket: str, member: str, missing: frozenset[str], role: str) -> str:
    """The commands that give what is missing."""
    roles = [role] if missing - {"buckets.get"} - _FOLDERS else ["roles/storage.objectUser"] if missing & _FOLDERS else []
    roles += ["roles/storage.legacyBucketReader"] if "buckets.get" in missing else []
    adding = f"gcloud storage buckets add-iam-policy-binding gs://{bucket} --member={member} --role="
    return "; ".join(adding + one for one in roles)
