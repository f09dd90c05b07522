"""The two ends of a copy: reading S3 or GCS, writing GCS, over their own protocols."""

from __future__ import annotations

import base64
import http.client
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import boto3
import google_crc32c
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from google.api_core.exceptions import GoogleAPIError
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage  # type: ignore[attr-defined]

from tools.emulators.sigv4 import Keys
from tools.emulators.sts.bucket_access import BucketAccess

SOURCE_ETAG = "x-goog-source-etag"
S3_LOCATION = "Failed to obtain the location of the source S3 bucket."


class EndError(Exception):
    """A source or sink refused: the error code of an operation's breakdown, details, and the URL of the end or the object."""

    def __init__(self, code: str, details: str, url: str = "") -> None:
        super().__init__(details)
        self.code, self.details, self.url = code, details, url


class ArchivedError(EndError):
    """S3 refused an object for its archive tier, which no listing tells."""


@dataclass(frozen=True)
class Listed:
    """One source object of a listing. restored: a copy of an archived one is there to be read."""

    key: str
    size: int
    etag: str
    modified: datetime
    storage_class: str = "STANDARD"
    restored: bool = False


@dataclass(frozen=True)
class Fetched:
    """One source object, read whole."""

    data: bytes
    etag: str
    headers: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)


class S3Source:
    """A bucket of S3. missing_code: what the service makes of one that is not there."""

    def __init__(self, endpoint: str, bucket: str, keys: Keys, missing_code: str = "PERMISSION_DENIED") -> None:
        self._bucket, self._missing_code = bucket, missing_code
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=keys.key_id,
            aws_secret_access_key=keys.secret,
            region_name="us-east-1",
            config=Config(retries={"max_attempts": 3}, response_checksum_validation="when_required"),
        )

    def check(self) -> None:
        """Raises EndError when the bucket is missing or the credentials do not open it.

        The text does not name the bucket. Documented: PERMISSION_DENIED, "Failed to obtain the location of the source S3 bucket."
        (https://docs.cloud.google.com/bigquery/docs/transfer-troubleshooting, "Amazon S3 PERMISSION_DENIED errors").
        """
        try:
            self._client.list_objects_v2(Bucket=self._bucket, MaxKeys=1)
        except ClientError as error:
            refused, told = _s3_error(error, f"s3://{self._bucket}"), error.response["Error"].get("Message", "")
            code = self._missing_code if refused.code == "NOT_FOUND" else refused.code
            raise EndError(code, f"{S3_LOCATION} Additional details: {told}", self.url("")) from error
        except BotoCoreError as error:
            raise _s3_error(error, f"s3://{self._bucket}") from error

    def list(self, prefix: str) -> Iterator[Listed]:
        try:
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=prefix, OptionalObjectAttributes=["RestoreStatus"]
            )
            for page in pages:
                for found in page.get("Contents", ()):
                    yield Listed(
                        key=found["Key"],
                        size=found["Size"],
                        etag=found["ETag"].strip('"'),
                        modified=found["LastModified"],
                        storage_class=found.get("StorageClass", "STANDARD"),
                        restored="RestoreExpiryDate" in found.get("RestoreStatus", {}),
                    )
        except (ClientError, BotoCoreError) as error:
            raise _s3_error(error, f"s3://{self._bucket}/{prefix}") from error

    def fetch(self, listed: Listed) -> Fetched:
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=listed.key)
            data = answer["Body"].read()
        except (ClientError, BotoCoreError) as error:
            raise _s3_error(error, f"s3://{self._bucket}/{listed.key}") from error
        if answer["ETag"].strip('"') != listed.etag:
            raise EndError("FAILED_PRECONDITION", "the object changed during the transfer")
        names = {
            "ContentType": "Content-Type",
            "ContentEncoding": "Content-Encoding",
            "ContentDisposition": "Content-Disposition",
            "ContentLanguage": "Content-Language",
            "CacheControl": "Cache-Control",
        }
        headers = {theirs: answer[ours] for ours, theirs in names.items() if answer.get(ours)}
        return Fetched(data, listed.etag, headers, {**answer.get("Metadata", {}), SOURCE_ETAG: listed.etag})

    def url(self, key: str) -> str:
        return f"s3://{self._bucket}/{key}"

    def close(self) -> None:
        self._client.close()


def gcs_client(endpoint: str) -> storage.Client:
    return storage.Client(
        project="stage",
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
        client_options={"api_endpoint": endpoint},
    )


def read_object(endpoint: str, url: str, what: str) -> bytes:
    """The bytes of `gs://bucket/name`. Raises EndError that names what it was to be."""
    bucket, _, name = url.removeprefix("gs://").partition("/")
    client = gcs_client(endpoint)
    try:
        found: bytes = client.bucket(bucket).blob(name).download_as_bytes()
    except GoogleAPIError as error:
        raise EndError("NOT_FOUND", f"the {what} {url} cannot be read") from error
    finally:
        client.close()
    return found


class GcsSource:
    def __init__(self, endpoint: str, bucket: str, access: BucketAccess) -> None:
        client = gcs_client(endpoint)
        self._name, self._access = bucket, access
        self._client, self._bucket = client, client.bucket(bucket)

    def check(self) -> None:
        """Raises EndError when the bucket is missing, or the agent may not look at it."""
        try:
            refused = self._access.refuse(self._name, exists=self._bucket.exists())
        except GoogleAPIError as error:
            raise EndError("UNAVAILABLE", str(error)) from error
        if refused is not None:
            raise EndError(*refused, self.url(""))

    def list(self, prefix: str) -> Iterator[Listed]:
        try:
            for blob in self._client.list_blobs(self._name, prefix=prefix):
                yield Listed(blob.name, blob.size, blob.md5_hash or blob.etag, blob.updated, blob.storage_class)
        except GoogleAPIError as error:
            raise EndError("NOT_FOUND", str(error)) from error

    def fetch(self, listed: Listed) -> Fetched:
        try:
            blob = self._bucket.get_blob(listed.key)
            if blob is None:
                raise EndError("NOT_FOUND", "the object vanished during the transfer")
            data = blob.download_as_bytes(raw_download=True)
        except GoogleAPIError as error:
            raise EndError("UNAVAILABLE", str(error)) from error
        values = {
            "Content-Type": blob.content_type,
            "Content-Encoding": blob.content_encoding,
            "Content-Disposition": blob.content_disposition,
            "Content-Language": blob.content_language,
            "Cache-Control": blob.cache_control,
        }
        headers = {name: value for name, value in values.items() if value}
        return Fetched(data, listed.etag, headers, dict(blob.metadata or {}))

    def url(self, key: str) -> str:
        return f"gs://{self._name}/{key}"

    def close(self) -> None:
        self._client.close()


class Source(Protocol):
    """Where an operation reads."""

    def check(self) -> None: ...
    def list(self, prefix: str) -> Iterator[Listed]: ...
    def fetch(self, listed: Listed) -> Fetched: ...
    def url(self, key: str) -> str: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class AtSink:
    """What the sink already has under a name."""

    size: int
    md5: str | None
    source_etag: str | None


class GcsSink:
    """Writes with the XML API, one PUT an object with its hashes, over one kept-alive connection.

    An operation's work is done by one thread at a time, so one connection is enough.
    """

    def __init__(self, endpoint: str, bucket: str, access: BucketAccess) -> None:
        parts = urlsplit(endpoint)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._bucket, self._access = bucket, access
        self._connection: http.client.HTTPConnection | None = None

    def check(self) -> None:
        """Raises EndError when the bucket is missing, or the agent may not look at it."""
        status = self._ask("HEAD", "", b"", {})[0]
        if status not in (200, 403, 404):
            raise EndError("UNAVAILABLE", f"Cloud Storage answered {status}")
        refused = self._access.refuse(self._bucket, exists=status == 200)
        if refused is not None:
            raise EndError(*refused, f"gs://{self._bucket}/")

    def head(self, name: str) -> AtSink | None:
        status, headers, _ = self._ask("HEAD", name, b"", {})
        if status != 200:
            return None
        hashes = dict(part.strip().split("=", 1) for part in headers.get("x-goog-hash", "").split(",") if part)
        return AtSink(int(headers["content-length"]), hashes.get("md5"), headers.get(f"x-goog-meta-{SOURCE_ETAG}"))

    def put(self, name: str, fetched: Fetched, storage_class: str | None) -> None:
        crc = base64.b64encode(google_crc32c.value(fetched.data).to_bytes(4)).decode()
        headers = {**fetched.headers, "x-goog-hash": f"crc32c={crc}"}
        headers |= {f"x-goog-meta-{key}": value for key, value in fetched.metadata.items()}
        if storage_class is not None:
            headers["x-goog-storage-class"] = storage_class
        status, _, body = self._ask("PUT", name, fetched.data, headers)
        if status != 200:
            code = "INVALID_ARGUMENT" if status == 400 else "PERMISSION_DENIED" if status == 403 else "UNAVAILABLE"
            raise EndError(code, f"Cloud Storage answered {status}: {body[:300].decode('utf-8', 'replace')}")

    def _ask(self, verb: str, name: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, dict[str, str], bytes]:
        path = f"/{self._bucket}" + (f"/{quote(name, safe='')}" if name else "")
        for last in (False, True):
            connection = self._connection or http.client.HTTPConnection(self._host, self._port, timeout=30)
            self._connection = connection
            try:
                coded = {key: value.encode() for key, value in headers.items()}
                connection.request(verb, path, body or None, coded | {"Content-Length": str(len(body)).encode()})
                answer = connection.getresponse()
                data = answer.read()
                told = {key.lower(): ", ".join(answer.headers.get_all(key, ())) for key in answer.headers}
                return answer.status, told, data
            except (http.client.HTTPException, OSError) as error:
                self.close()
                if last:
                    raise EndError("UNAVAILABLE", f"Cloud Storage hung up: {error}") from error
        raise AssertionError("unreachable")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def same(listed: Listed, found: AtSink) -> bool:
    """Whether the sink's object is the source's: equal size, and the source's ETag or its MD5."""
    if found.size != listed.size:
        return False
    return listed.etag in (found.source_etag, found.md5) or found.md5 == _md5_of_etag(listed.etag)


def _md5_of_etag(etag: str) -> str | None:
    if len(etag) != 32:
        return None
    return base64.b64encode(bytes.fromhex(etag)).decode()


def _s3_error(error: ClientError | BotoCoreError, what: str) -> EndError:
    if isinstance(error, ClientError):
        code = error.response["Error"]["Code"]
        if code == "InvalidObjectState":
            return ArchivedError("PERMISSION_DENIED", f"{what}: {code}: {error.response['Error'].get('Message', '')}")
        denied = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403", "Forbidden")
        missing = ("NoSuchBucket", "NoSuchKey", "404")
        shown = "PERMISSION_DENIED" if code in denied else "NOT_FOUND" if code in missing else "UNAVAILABLE"
        return EndError(shown, f"{what}: {code}: {error.response['Error'].get('Message', '')}")
    return EndError("UNAVAILABLE", f"{what}: {error}")
