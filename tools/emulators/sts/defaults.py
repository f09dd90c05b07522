"""A stored job as a service shows it that spells defaults out (setting `sts.fill_defaults`).

Documented: the defaults (protobuf docstrings of `TransferOptions` and `MetadataOptions`, google-cloud-storage-transfer 1.22).
Observed of other fields: Terraform keeps meeting normalised specs (hashicorp/terraform-provider-google, issues 11744, 11535).
Assumed: that it may be done for these fields.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from google.cloud import storage_transfer_v1 as sts

METADATA = {
    "symlink": "SYMLINK_SKIP",
    "mode": "MODE_SKIP",
    "gid": "GID_SKIP",
    "uid": "UID_SKIP",
    "acl": "ACL_DESTINATION_BUCKET_DEFAULT",
    "storage_class": "STORAGE_CLASS_DESTINATION_BUCKET_DEFAULT",
    "temporary_hold": "TEMPORARY_HOLD_PRESERVE",
    "kms_key": "KMS_KEY_DESTINATION_BUCKET_DEFAULT",
    "time_created": "TIME_CREATED_SKIP",
}


def fill_defaults(spec: sts.TransferSpec) -> None:
    """Say of each option that was left open what it is."""
    options = spec.transfer_options
    if not options.overwrite_objects_already_existing_in_sink and not options.overwrite_when:
        options.overwrite_when = sts.TransferOptions.OverwriteWhen.DIFFERENT  # type: ignore[assignment]
    metadata: Any = options.metadata_options
    for name, value in METADATA.items():
        if not getattr(metadata, name):
            setattr(metadata, name, value)
    spec.transfer_options = options
    if "http_data_source" not in spec and "min_time_elapsed_since_last_modification" not in spec.object_conditions:
        spec.object_conditions.min_time_elapsed_since_last_modification = timedelta(0)
    source = spec.aws_s3_data_source
    if "aws_s3_data_source" in spec and not source.cloudfront_domain and "managed_private_network" not in source:
        source.managed_private_network = False
