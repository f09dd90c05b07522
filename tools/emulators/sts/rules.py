"""What the service refuses: names, specs, prefixes, filters. Pure checks over the official message types."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from google.cloud import storage_transfer_v1 as sts

from tools.emulators.rpc import invalid

JOB_NAME = re.compile(r"(?=.{1,128}$)transferJobs/(?!OPI)[A-Za-z0-9\-._~]*[A-Za-z0-9]")
ROLE_ARN = re.compile(r"arn:aws:iam::\d{12}:role/.+")
MANIFEST = re.compile(r"gs://[a-z0-9][a-z0-9._-]+/.+")
SQS_ARN = re.compile(r"arn:aws[a-z-]*:sqs:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]{1,80}")
SECRET = re.compile(r"projects/\d+/secrets/[A-Za-z0-9_-]+")
PREFIXES_MAX = 1000
PREFIX_BYTES_MAX = 1024
PAGE_MAX = 256


def check_job(job: sts.TransferJob) -> None:
    """A job as `create` takes it."""
    if job.name and not JOB_NAME.fullmatch(job.name):
        raise invalid(f"Invalid transfer job name: {job.name}")
    if job.status == sts.TransferJob.Status.STATUS_UNSPECIFIED:
        raise invalid("TransferJob.status must be specified")
    if len(job.description.encode()) > 1024:
        raise invalid("TransferJob.description is longer than 1,024 bytes")
    check_spec(job.transfer_spec)
    if "event_stream" in job:
        if "aws_s3_data_source" in job.transfer_spec and not SQS_ARN.fullmatch(job.event_stream.name):
            raise invalid(f"event_stream.name is no ARN of an SQS queue: {job.event_stream.name!r}")
        if "aws_s3_data_source" not in job.transfer_spec or "schedule" in job:
            raise invalid("event_stream goes with an S3 source, and without a schedule")


def check_spec(spec: sts.TransferSpec) -> None:
    if "gcs_data_sink" not in spec:
        raise invalid("TransferSpec needs exactly one data sink")
    _check_place("gcs_data_sink", spec.gcs_data_sink.bucket_name, spec.gcs_data_sink.path)
    if "aws_s3_data_source" in spec:
        _check_s3(spec.aws_s3_data_source)
    elif "gcs_data_source" in spec:
        source = spec.gcs_data_source
        _check_place("gcs_data_source", source.bucket_name, source.path)
        if (source.bucket_name, source.path) == (spec.gcs_data_sink.bucket_name, spec.gcs_data_sink.path):
            raise invalid("source and sink are the same")
    elif "http_data_source" in spec:
        _check_list_url(spec.http_data_source.list_url)
    else:
        raise invalid("TransferSpec needs exactly one data source")
    _check_conditions(spec.object_conditions)
    _check_manifest(spec)
    options = spec.transfer_options
    if options.delete_objects_unique_in_sink and options.delete_objects_from_source_after_transfer:
        raise invalid("delete_objects_unique_in_sink and delete_objects_from_source_after_transfer exclude each other")
    preserve = sts.MetadataOptions.StorageClass.STORAGE_CLASS_PRESERVE
    if options.metadata_options.storage_class == preserve and "gcs_data_source" not in spec:
        raise invalid("STORAGE_CLASS_PRESERVE is only supported for transfers from Google Cloud Storage buckets")
    if options.overwrite_objects_already_existing_in_sink and options.overwrite_when:
        raise invalid("overwrite_when and overwrite_objects_already_existing_in_sink exclude each other")


def _check_place(name: str, bucket: str, path: str) -> None:
    if not bucket:
        raise invalid(f"{name}.bucket_name is required")
    if path and (not path.endswith("/") or path.startswith("/")):
        raise invalid(f"{name}.path must be empty, or end with '/' and not begin with one: {path!r}")


def _check_s3(source: sts.AwsS3Data) -> None:
    _check_place("aws_s3_data_source", source.bucket_name, source.path)
    given = [bool(source.aws_access_key.access_key_id), bool(source.role_arn), bool(source.credentials_secret)]
    if sum(given) != 1:
        raise invalid("aws_s3_data_source needs exactly one of aws_access_key, role_arn, credentials_secret")
    if source.aws_access_key.access_key_id and not source.aws_access_key.secret_access_key:
        raise invalid("aws_access_key.secret_access_key is required")
    if source.role_arn and not ROLE_ARN.fullmatch(source.role_arn):
        raise invalid(f"role_arn is malformed: {source.role_arn!r}")
    if source.credentials_secret and not SECRET.fullmatch(source.credentials_secret):
        raise invalid("credentials_secret must look like projects/{project_number}/secrets/{secret_name}")
    if source.cloudfront_domain and not source.cloudfront_domain.startswith("https://"):
        raise invalid("cloudfront_domain must begin with https://")
    if source.cloudfront_domain and "managed_private_network" in source:
        # Assumed: that the field's presence counts, and not only its truth (it is a oneof of its own).
        raise invalid("cloudfront_domain and managed_private_network exclude each other")


def _check_list_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "gs") or not parts.netloc or not parts.path.strip("/"):
        raise invalid(f"http_data_source.list_url must be an http(s) or gs:// URL of a list: {url!r}")


def _check_manifest(spec: sts.TransferSpec) -> None:
    if "transfer_manifest" not in spec:
        return
    if not MANIFEST.fullmatch(spec.transfer_manifest.location):
        raise invalid(f"transfer_manifest.location must look like gs://bucket/name.csv: {spec.transfer_manifest.location!r}")
    if "http_data_source" in spec:
        raise invalid("transfer_manifest and http_data_source exclude each other")
    if spec.transfer_options.delete_objects_unique_in_sink:
        raise invalid("transfer_manifest and delete_objects_unique_in_sink exclude each other")


def _check_conditions(conditions: sts.ObjectConditions) -> None:
    includes, excludes = list(conditions.include_prefixes), list(conditions.exclude_prefixes)
    for name, prefixes in (("include_prefixes", includes), ("exclude_prefixes", excludes)):
        if len(prefixes) > PREFIXES_MAX:
            raise invalid(f"{name}: at most {PREFIXES_MAX} prefixes")
        for prefix in prefixes:
            if not prefix or prefix.startswith("/") or "\n" in prefix or "\r" in prefix:
                raise invalid(f"{name}: invalid prefix {prefix!r}")
            if len(prefix.encode()) > PREFIX_BYTES_MAX:
                raise invalid(f"{name}: a prefix is longer than {PREFIX_BYTES_MAX} bytes")
        for left, right in zip(sorted(prefixes), sorted(prefixes)[1:], strict=False):
            if right.startswith(left):
                raise invalid(f"{name}: {left!r} is a prefix of {right!r}")
    for prefix in excludes:
        if includes and not any(prefix.startswith(include) for include in includes):
            raise invalid(f"exclude_prefixes: {prefix!r} lies under no include prefix")


@dataclass(frozen=True)
class Filter:
    """A list filter: JSON text with camelCase or snake_case fields; `project_id` is required."""

    project_id: str
    job_names: frozenset[str] = frozenset()
    job_statuses: frozenset[str] = frozenset()
    source_bucket: str = ""
    sink_bucket: str = ""
    job_name_pattern: str = ""
    operation_names: frozenset[str] = frozenset()
    transfer_statuses: frozenset[str] = frozenset()
    min_creation_time: datetime | None = None
    max_creation_time: datetime | None = None


JOB_FIELDS = {"projectId", "jobNames", "jobStatuses", "sourceBucket", "sinkBucket"}
OPERATION_FIELDS = {
    "projectId",
    "jobNames",
    "jobNamePattern",
    "operationNames",
    "transferStatuses",
    "minCreationTime",
    "maxCreationTime",
}


def filter_of(text: str, allowed: set[str]) -> Filter:
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise invalid(f"filter is not JSON: {text!r}") from error
    if not isinstance(raw, dict):
        raise invalid("filter must be a JSON object")
    values: dict[str, Any] = {_camel(name): value for name, value in raw.items()}
    unknown = sorted(set(values) - allowed)
    if unknown:
        raise invalid(f"unknown filter field {unknown[0]!r}")
    if not values.get("projectId"):
        raise invalid("filter needs projectId")
    return Filter(
        project_id=values["projectId"],
        job_names=frozenset(values.get("jobNames", ())),
        job_statuses=frozenset(status.upper() for status in values.get("jobStatuses", ())),
        source_bucket=values.get("sourceBucket", ""),
        sink_bucket=values.get("sinkBucket", ""),
        job_name_pattern=values.get("jobNamePattern", ""),
        operation_names=frozenset(values.get("operationNames", ())),
        transfer_statuses=frozenset(status.upper() for status in values.get("transferStatuses", ())),
        min_creation_time=_time(values.get("minCreationTime")),
        max_creation_time=_time(values.get("maxCreationTime")),
    )


def page_size(asked: int) -> int:
    if asked < 0 or asked > PAGE_MAX:
        raise invalid(f"page_size must be between 0 and {PAGE_MAX}")
    return asked or PAGE_MAX


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def _time(text: str | None) -> datetime | None:
    return None if not text else datetime.fromisoformat(text)
