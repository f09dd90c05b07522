"""What the Storage Transfer Service refuses, as our errors, with what a person is to type so that it no longer does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from google.api_core import exceptions
from google.auth import exceptions as auth_exceptions
from google.cloud import storage_transfer_v1 as sts

from sts_manager.domain.errors import Denied, NotFound, Permanent, Retryable, Throttled

CREATE = "create_transfer_job"
AGENT = "project-NUMBER@storage-transfer-service.iam.gserviceaccount.com"
"""The service's own account, where its text does not name it (Storage Transfer Service, agentless transfers)."""
AT_SINK, AT_SOURCE, TO_LOOK = "roles/storage.objectAdmin", "roles/storage.objectViewer", "roles/storage.legacyBucketReader"
"""`storage.buckets.get` is in the last one only (Storage Transfer Service, configure access to a sink and to a source)."""
_AGENT = re.compile(r"[\w.+-]+@storage-transfer-service\.iam\.gserviceaccount\.com")


class AlreadyExists(Permanent):
    """The create collided with a job of the same name."""


@contextmanager
def translated(call: str) -> Iterator[None]:
    """The vendor's errors as ours. Messages are the service's own; they hold no secret of ours."""
    try:
        yield
    except exceptions.GoogleAPICallError as error:
        raise _as_ours(call, error) from error
    except (exceptions.RetryError, auth_exceptions.TransportError) as error:
        raise Retryable(f"{call}: {error}") from error
    except auth_exceptions.GoogleAuthError as error:
        raise Denied(f"{call}: {error}", code="UNAUTHENTICATED") from error


def _as_ours(call: str, error: exceptions.GoogleAPICallError) -> Exception:
    message, code = f"{call}: {error.message}", _code(error)
    creates = call == CREATE
    match error:
        case exceptions.ResourceExhausted():
            return Throttled(message)
        case exceptions.AlreadyExists() if creates:
            return AlreadyExists(message, code=code)
        case exceptions.PermissionDenied() | exceptions.Unauthenticated():
            return Denied(message, code=code)
        case exceptions.NotFound() | exceptions.FailedPrecondition() if creates:
            # A create names nothing but buckets, and looks at them: one is missing, or is not the agent's to look at.
            return Denied(message, code=code)
        case exceptions.NotFound():
            return NotFound(message)
        case exceptions.InvalidArgument() | exceptions.OutOfRange() | exceptions.MethodNotImplemented():
            return Permanent(message, code=code)
        case _:
            # Among them FAILED_PRECONDITION, ALREADY_EXISTS and ABORTED of a run: the job or its operation is not in the state
            # we thought, so the next pass looks again (at `latest_operation_name`, before it runs anything).
            return Retryable(message, code=code)


def _code(error: exceptions.GoogleAPICallError) -> str:
    code = error.grpc_status_code
    return code.name if code is not None else type(error).__name__


def advise(job: sts.TransferJob, code: str, text: str) -> str:
    """Say what to type after a create was denied; empty where nobody can know.

    A Cloud Storage bucket that is missing looks like one that the agent may not look at, and comes as FAILED_PRECONDITION (seen:
    https://github.com/iconara/bigshift/issues/8). An S3 bucket comes as PERMISSION_DENIED, and so does an API that is off.
    """
    turn_on = f"gcloud services enable storagetransfer.googleapis.com --project {job.project_id}"
    if "has not been used" in text or "is disabled" in text:
        return turn_on
    spec = job.transfer_spec
    of_s3 = "aws_s3_data_source" in spec and "S3" in text
    if (code in ("FAILED_PRECONDITION", "NOT_FOUND") and not of_s3) or "GCS" in text or "Cloud Storage" in text:
        return f"make the bucket if it is missing, or let the service's agent look at it: {'; '.join(_grants(spec, text))}"
    if code != "PERMISSION_DENIED" and not of_s3:
        return ""
    off = f"the same is said where the Storage Transfer API is off: {turn_on}"
    if not of_s3:
        return off
    bucket = f"s3://{spec.aws_s3_data_source.bucket_name}"
    return f"the key or the role must be allowed s3:GetBucketLocation, s3:ListBucket and s3:GetObject on {bucket}; {off}"


def _grants(spec: sts.TransferSpec, text: str) -> Iterator[str]:
    """The commands that give the agent its roles on the bucket that the text names, or on all that there are."""
    found = _AGENT.search(text)
    agent = AGENT if found is None else found[0]
    ends = [(spec.gcs_data_sink.bucket_name, AT_SINK)]
    if "gcs_data_source" in spec:
        ends.append((spec.gcs_data_source.bucket_name, AT_SOURCE))
    named = [one for one in ends if re.search(rf"(?<![\w.-]){re.escape(one[0])}(?![\w-]|\.\w)", text)]
    for bucket, role in named or ends:
        for one in (TO_LOOK, role):
            yield f"gcloud storage buckets add-iam-policy-binding gs://{bucket} --member=serviceAccount:{agent} --role={one}"
