"""What is told before anything is written: is the bucket fit, which rights are missing, what is made, what it costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from botocore.exceptions import ClientError

from sts_manager.doctor.probe.context import Context
from sts_manager.doctor.probe.monitoring import probe_alerts
from sts_manager.doctor.probe.record import NEVER_RUN
from sts_manager.doctor.probe.source import SAMPLES
from sts_manager.domain.errors import Denied, Fatal

OBJECT_RIGHTS = tuple(f"storage.objects.{verb}" for verb in ("create", "delete", "get", "list", "update"))
USER, ADMIN = "roles/storagetransfer.user", "roles/storagetransfer.admin"
TRANSFER_RIGHTS: Mapping[str, str] = {
    "storagetransfer.jobs.create": USER,
    "storagetransfer.jobs.delete": ADMIN,
    "storagetransfer.jobs.get": USER,
    "storagetransfer.jobs.run": USER,
    "storagetransfer.operations.list": USER,
}
MONITORING_RIGHTS: Mapping[str, str] = {
    "monitoring.alertPolicies.create": "roles/monitoring.editor",
    "monitoring.alertPolicies.delete": "roles/monitoring.editor",
    "monitoring.alertPolicies.list": "roles/monitoring.editor",
    "monitoring.metricDescriptors.create": "roles/monitoring.editor",
    "monitoring.metricDescriptors.delete": "roles/monitoring.editor",
    "monitoring.timeSeries.create": "roles/monitoring.metricWriter",
}
DAY_S = 86_400
PRICES: Mapping[str, float] = {
    "Cloud Storage writes and lists": 5e-6,
    "Cloud Storage reads": 4e-7,
    "S3 requests": 5e-6,
    "CDN requests": 1e-6,
    "BigQuery queries": 6.25 * 10 / (1 << 20),
    "other API calls": 0.0,
}
"""US dollars each, list prices of 2026: operations of class A and B, S3's dearest request, CloudFront's, 10 MB of a query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitness:
    """Of the destination bucket, what matters to a probe."""

    kms_key: str = ""
    soft_delete_days: float = 0.0
    versions: bool = False
    folders: bool = False
    storage_class: str = ""


def examine_bucket(context: Context) -> Fitness:
    """Whether objects may be written there, and deleted again. Only reads. Raises Fatal that names what is in the way."""
    storage, bucket = context.clients.storage, context.bucket
    answer = storage.bucket(bucket)
    if answer.status == 404:
        raise Fatal(f"gs://{bucket} does not exist: mend --destination-bucket, or make it. Nothing was written")
    if answer.status != 200:
        raise Fatal(
            f"gs://{bucket} cannot be looked at ({answer.refusal()}): storage.buckets.get is needed to know whether what a probe "
            f"writes can be deleted; grant roles/storage.legacyBucketReader on it. Nothing was written"
        )
    granted = storage.filter_permissions(bucket, OBJECT_RIGHTS)
    missing = [permission for permission in OBJECT_RIGHTS if permission not in granted]
    if missing:
        raise Fatal(f"{', '.join(missing)} missing on gs://{bucket}: grant roles/storage.objectUser on it. Nothing was written")
    return judge_bucket(bucket, answer.json())


def check_source(context: Context) -> None:
    """Only reads. Raises Fatal for a source bucket that does not exist; whatever else is the matter, a row of the probe tells."""
    source, s3 = context.patient.source, context.clients.s3
    if not context.from_s3:
        missing = context.clients.storage.bucket(source.bucket).status == HTTPStatus.NOT_FOUND
    elif s3 is None:
        return
    else:
        try:
            s3.head_bucket(Bucket=source.bucket)
            return
        except ClientError as error:
            missing = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == HTTPStatus.NOT_FOUND
    if missing:
        raise Fatal(f"{source.scheme}://{source.bucket} does not exist: mend --source-bucket. Nothing was written")


def judge_bucket(bucket: str, resource: Mapping[str, Any]) -> Fitness:
    """Raises Fatal for a bucket whose objects cannot be deleted at once."""
    retention = resource.get("retentionPolicy", {})
    seconds = int(retention.get("retentionPeriod") or 0)
    if seconds:
        locked = ", and is locked" if retention.get("isLocked") else ""
        raise Fatal(
            f"gs://{bucket} has a retention policy of {seconds:,} s{locked}: what a probe writes could not be deleted, so "
            "nothing was written. Probe with another destination bucket of the same project and location"
        )
    if resource.get("defaultEventBasedHold"):
        raise Fatal(
            f"gs://{bucket} puts every new object under an event-based hold: what a probe writes could not be deleted. "
            "Nothing was written. Probe with another bucket, or switch the hold off (defaultEventBasedHold)"
        )
    return Fitness(
        kms_key=resource.get("encryption", {}).get("defaultKmsKeyName", ""),
        soft_delete_days=int(resource.get("softDeletePolicy", {}).get("retentionDurationSeconds") or 0) / DAY_S,
        versions=bool(resource.get("versioning", {}).get("enabled")),
        folders=bool(resource.get("hierarchicalNamespace", {}).get("enabled")),
        storage_class=resource.get("storageClass", ""),
    )


def settle_rights(context: Context, fitness: Fitness) -> Context:
    """The context of a probe that makes nothing which it could not remove: parts whose rights are missing are left out."""
    lacking: dict[str, str] = {}
    record = replace(context.record, folders=fitness.folders)
    if lacks := missing_rights(context, context.project, TRANSFER_RIGHTS) or _refused(context):
        lacking["transfers"], record = lacks, replace(record, transfers=False)
    if record.monitoring and (lacks := missing_rights(context, record.monitoring, MONITORING_RIGHTS)):
        lacking["Monitoring"], record = lacks, replace(record, monitoring="")
    return replace(context, record=record, lacking=lacking)


def _refused(context: Context) -> str:
    """Why the transfer service does not talk to the caller at all: its API is off, a right is missing. Empty where it does."""
    try:
        context.clients.transfers.agent()
    except Denied as error:
        return str(error)
    return ""


def missing_rights(context: Context, project: str, rights: Mapping[str, str]) -> str:
    """Which of these the caller lacks in a project, and what to grant; empty for none, and where nobody can tell."""
    granted = context.clients.granted(project, tuple(rights))
    missing = [] if granted is None else [right for right in rights if right not in granted]
    if not missing:
        return ""
    roles = " and ".join(sorted({rights[right] for right in missing}))
    return f"{', '.join(missing)} missing in project {project}: grant {roles}"


def describe_plan(context: Context, fitness: Fitness) -> Iterator[str]:
    """What a probe with these settings will make, remove and leave, and what it costs: lines for whoever is to agree."""
    record, settings = context.record, context.patient.settings
    yield f"Probe {record.id} makes, and removes at its end:"
    yield f"  objects under {record.destination}/{record.path} (about 20, some bytes each)"
    if record.transfers:
        jobs, run = len(record.jobs), len(record.jobs) - len(NEVER_RUN)
        yield f"  transfer jobs like {record.job('transfer')} in project {record.project}, {jobs} at most; at most {run} of them"
        yield f"    are run, and copy one or two small objects of {context.patient.source} to the path above"
    if record.source:
        yield f"  {len(SAMPLES)} objects under {record.source_path} (--probe-source-write)"
    if record.table:
        yield f"  the table {record.table}"
    if record.monitoring:
        policies = len(probe_alerts(record))
        yield f"  a metric and {policies} alert policies without channels in project {record.monitoring}, for some seconds"
    yield "It first removes what earlier probes left behind, if there is anything."
    if record.monitoring:
        yield "What stays: the metric descriptors that `create-alerts` makes."
    if record.transfers:
        yield "What stays: the names of deleted transfer jobs, taken for about 30 days."
    if fitness.soft_delete_days:
        yield f"What stays: deleted objects, soft-deleted for {fitness.soft_delete_days:g} days (some hundred bytes)."
    if fitness.storage_class not in ("", "STANDARD"):
        yield f"Objects are of class {fitness.storage_class}: billed for its least time (some hundred bytes)."
    if settings.cdn_url and record.transfers:
        yield "For some minutes a list in the bucket holds a signature that opens --cdn-url for an hour; it is deleted."
    calls = count_calls(context)
    total = sum(PRICES[kind] * number for kind, number in calls.items())
    counted = ", ".join(f"{number:,} {kind}" for kind, number in calls.items() if number)
    yield f"It costs about ${max(total, 0.0001):.4f}: {counted}."
    yield "It lasts 2 to 20 minutes; interrupted, it cleans up, and the next probe does so again."


def count_calls(context: Context) -> dict[str, int]:
    """Calls by kind, about, on the high side."""
    record, settings = context.record, context.patient.settings
    cdn, s3 = bool(settings.cdn_url), context.clients.s3 is not None
    return {
        "Cloud Storage writes and lists": 30 + (40 if record.transfers else 0),
        "Cloud Storage reads": 15,
        "S3 requests": (20 if s3 else 0) + (20 if record.source else 0) + (20 if record.transfers and context.from_s3 else 0),
        "CDN requests": 20 if cdn else 0,
        "BigQuery queries": 20 if record.table else 0,
        "other API calls": (60 if record.transfers else 10) + (40 if record.monitoring else 0),
    }
