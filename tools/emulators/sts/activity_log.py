"""What the service writes to Cloud Logging of actions that failed.

Documented: the entry (https://docs.cloud.google.com/storage-transfer/docs/read-transfer-logs; googleapis,
google/storagetransfer/logging/transfer_activity_log.proto): `statusCode` is the name of a google.rpc code, FIND has containers
where COPY has objects. Severity ERROR of what FAILED (`LoggingConfig.LoggableActionState`). Assumed: the words of `errorType`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from google.cloud import storage_transfer_v1 as sts

from tools.emulators.ledger import Ledger

PAYLOAD = "type.googleapis.com/google.storagetransfer.logging.TransferActivityLog"
ERROR_TYPES = {"PERMISSION_DENIED": "PERMISSION_FAILURE", "NOT_FOUND": "OBJECT_MISSING", "UNAVAILABLE": "SOURCE_UNREACHABLE"}
_NUMBERS: Iterator[int] = itertools.count(1)


class ActivityLog:
    """Of one operation of a job. `write` is told of each failure: the key of an object, or None for the listing."""

    def __init__(self, ledger: Ledger, job: sts.TransferJob, operation: str) -> None:
        self._ledger, self._operation = ledger, operation
        self._job, self._project, self._spec = job.name, job.project_id, sts.TransferSpec(job.transfer_spec)
        config = job.logging_config
        failed = sts.LoggingConfig.LoggableActionState.FAILED in config.log_action_states
        self._actions = {sts.LoggingConfig.LoggableAction(one).name for one in config.log_actions} if failed else set()

    def write(self, key: str | None, code: str, message: str) -> None:
        action = "FIND" if key is None else "COPY"
        if action not in self._actions:
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        sides = self._containers() if key is None else self._objects(key)
        payload = {
            "@type": PAYLOAD,
            "action": action,
            "completeTime": now,
            "operation": self._operation,
            "status": {"statusCode": code, "errorType": ERROR_TYPES.get(code, "OTHER_FAILURE"), "errorMessage": message},
        }
        entry = {
            "insertId": f"stage{next(_NUMBERS)}",
            "logName": f"projects/{self._project}/logs/storagetransfer.googleapis.com%2Ftransfer_activity",
            "resource": {"type": "storage_transfer_job", "labels": {"project_id": self._project, "job_id": self._job}},
            "severity": "ERROR",
            "timestamp": now,
            "receiveTimestamp": now,
            "jsonPayload": payload | sides,
        }
        self._ledger.log(entry)

    def _containers(self) -> dict[str, Any]:
        spec = self._spec
        source: dict[str, Any] = {"type": "HTTP", "httpManifest": {"url": spec.http_data_source.list_url}}
        if "aws_s3_data_source" in spec:
            source = {"type": "AWS_S3", "awsS3Bucket": _bucket(spec.aws_s3_data_source)}
        elif "gcs_data_source" in spec:
            source = {"type": "GCS", "gcsBucket": _bucket(spec.gcs_data_source)}
        return {"sourceContainer": source, "destinationContainer": {"type": "GCS", "gcsBucket": _bucket(spec.gcs_data_sink)}}

    def _objects(self, key: str) -> dict[str, Any]:
        spec = self._spec
        path, source = "", {"type": "HTTP", "httpFile": {"url": key}}
        if "aws_s3_data_source" in spec:
            data = spec.aws_s3_data_source
            path, source = data.path, {"type": "AWS_S3", "awsS3Object": {"bucket": data.bucket_name, "objectKey": key}}
        elif "gcs_data_source" in spec:
            path = spec.gcs_data_source.path
            source = {"type": "GCS", "gcsObject": {"bucket": spec.gcs_data_source.bucket_name, "objectKey": key}}
        sink = spec.gcs_data_sink
        name = sink.path + key.removeprefix(path)
        return {
            "sourceObject": source,
            "destinationObject": {"type": "GCS", "gcsObject": {"bucket": sink.bucket_name, "objectKey": name}},
        }


def _bucket(data: sts.AwsS3Data | sts.GcsData) -> dict[str, str]:
    return {"bucket": data.bucket_name} | ({"path": data.path} if data.path else {})
