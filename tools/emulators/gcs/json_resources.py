"""Objects, buckets and policies as the JSON API shows them, and attributes as it takes them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any
from urllib.parse import quote

from tools.emulators.gcs.objects import Attributes, Bucket, StoredObject


def resource(stored: StoredObject, url: str) -> dict[str, Any]:
    """An object as the JSON API shows it."""
    chosen = stored.attributes
    at = f"/b/{quote(stored.bucket, safe='')}/o/{quote(stored.name, safe='')}"
    out: dict[str, Any] = {
        "kind": "storage#object",
        "id": f"{stored.bucket}/{stored.name}/{stored.generation}",
        "selfLink": f"{url}/storage/v1{at}",
        "mediaLink": f"{url}/download/storage/v1{at}?generation={stored.generation}&alt=media",
        "bucket": stored.bucket,
        "name": stored.name,
        "generation": str(stored.generation),
        "metageneration": str(stored.metageneration),
        "size": str(stored.size),
        "crc32c": stored.crc32c,
        "storageClass": chosen.storage_class,
        "timeCreated": rfc3339(stored.created),
        "updated": rfc3339(stored.updated),
        "etag": stored.etag,
    }
    optional = {
        "md5Hash": stored.md5,
        "componentCount": stored.components,
        "contentType": chosen.content_type,
        "contentEncoding": chosen.content_encoding,
        "contentDisposition": chosen.content_disposition,
        "contentLanguage": chosen.content_language,
        "cacheControl": chosen.cache_control,
        "customTime": chosen.custom_time,
        "metadata": dict(chosen.metadata) or None,
        "kmsKeyName": None if chosen.kms_key is None else f"{chosen.kms_key}/cryptoKeyVersions/1",
    }
    return out | {name: value for name, value in optional.items() if value is not None}


def without_hashes(item: dict[str, Any]) -> dict[str, Any]:
    """An object as a listing shows it: the hashes of one that a key encrypts are told by `objects.get` alone.

    Documented: gcloud, `--fetch-encrypted-object-hashes`.
    """
    if "kmsKeyName" not in item:
        return item
    return {name: value for name, value in item.items() if name not in ("crc32c", "md5Hash")}


def rfc3339(at: datetime) -> str:
    """A time as the APIs write it, ending in Z."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def agent_bindings(project: str) -> list[dict[str, Any]]:
    """What a project's transfer service agent needs of a bucket."""
    member = f"serviceAccount:{project}@storage-transfer-service.iam.gserviceaccount.com"
    roles = ("roles/storage.legacyBucketReader", "roles/storage.objectAdmin")
    return [{"role": role, "members": [member]} for role in roles]


def policy(bindings: list[dict[str, Any]]) -> dict[str, Any]:
    """A bucket's IAM policy."""
    return {"kind": "storage#policy", "version": 1, "etag": "CAE=", "bindings": bindings}


def project_number(project: str) -> str:
    """A number of twelve digits that is always the same project's."""
    return str(10**11 + int.from_bytes(hashlib.sha256(project.encode()).digest()[:8]) % (9 * 10**11))


def bucket_resource(bucket: Bucket) -> dict[str, Any]:
    return {
        "kind": "storage#bucket",
        "id": bucket.name,
        "name": bucket.name,
        "projectNumber": project_number(bucket.project),
        "location": bucket.location,
        "locationType": "multi-region",
        "storageClass": "STANDARD",
        "timeCreated": rfc3339(bucket.created),
        "metageneration": "1",
        "etag": "CAE=",
    }


def attributes_of(body: Mapping[str, Any], base: Attributes) -> Attributes:
    """The attributes of `base` with what a JSON resource says changed; null removes."""
    names = {
        "contentType": "content_type",
        "contentEncoding": "content_encoding",
        "contentDisposition": "content_disposition",
        "contentLanguage": "content_language",
        "cacheControl": "cache_control",
        "customTime": "custom_time",
    }
    changed: dict[str, Any] = {ours: body[theirs] for theirs, ours in names.items() if theirs in body}
    if body.get("storageClass"):
        changed["storage_class"] = body["storageClass"]
    if "metadata" in body:
        merged = dict(base.metadata) | (body["metadata"] or {})
        changed["metadata"] = {key: value for key, value in merged.items() if value is not None} if body["metadata"] else {}
    return replace(base, **changed)
