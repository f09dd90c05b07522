"""Whether the service's agent may look at a Cloud Storage bucket, judged from the bucket's IAM policy, and how a refusal reads.

A missing and a forbidden bucket look alike. Observed: FAILED_PRECONDITION (https://github.com/iconara/bigshift/issues/8), and the
present wording, which says "(or it may not exist)", in public notes of somebody who met it. Documented: that the agent needs
`storage.buckets.get` on both ends (https://cloud.google.com/storage-transfer/docs/sink-cloud-storage, "Required permissions").
"""

from __future__ import annotations

from tools.emulators.ledger import Ledger

GET_BUCKETS = frozenset(
    f"roles/storage.{role}" for role in ("legacyBucketReader", "legacyBucketWriter", "legacyBucketOwner", "admin")
)
"""Predefined roles that contain `storage.buckets.get` (https://cloud.google.com/storage/docs/access-control/iam-roles)."""


def agent_of(project: str) -> str:
    """The service's own account in a project."""
    return f"{project}@storage-transfer-service.iam.gserviceaccount.com"


class BucketAccess:
    """What the agent of one project may see. Settings: `gcs.policies`, `sts.gcs_bucket_code`."""

    def __init__(self, ledger: Ledger, project: str) -> None:
        self._ledger, self._agent = ledger, agent_of(project)

    def refuse(self, bucket: str, *, exists: bool) -> tuple[str, str] | None:
        """(code, message) when the bucket is missing, or is not the agent's to look at; None when all is well."""
        if exists and self._may_get(bucket):
            return None
        return self._ledger.setting("sts.gcs_bucket_code"), (
            f"Failed to obtain the location of the GCS bucket {bucket} Additional details: {self._agent} does not have "
            "storage.buckets.get access to the Google Cloud Storage bucket. Permission 'storage.buckets.get' denied on resource "
            "(or it may not exist)."
        )

    def _may_get(self, bucket: str) -> bool:
        bindings = self._ledger.setting("gcs.policies").get(bucket)
        if bindings is None:
            return True  # a bucket without a policy of its own: every agent has what it needs
        member = f"serviceAccount:{self._agent}"
        return any(one["role"] in GET_BUCKETS and member in one["members"] and not one.get("condition") for one in bindings)
