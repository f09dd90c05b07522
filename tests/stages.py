"""The rehearsal stage inside the tests: started once, reset before each test that uses it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import boto3
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage  # type: ignore[attr-defined]

from tools.emulators.sigv4 import Keys
from tools.emulators.stage import KEYS, PROJECT, Stage

SOURCE, SINK = "source-bucket", "sink-bucket"


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def s3_client(stage: Stage, keys: Keys = KEYS) -> Iterator[Any]:
    client = boto3.client(
        "s3",
        endpoint_url=stage.environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=keys.key_id,
        aws_secret_access_key=keys.secret,
        region_name="us-east-1",
    )
    with closing(client):
        yield client


@contextmanager
def gcs_client(stage: Stage) -> Iterator[Any]:
    client = storage.Client(
        project=PROJECT,
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
        client_options={"api_endpoint": stage.environment["STORAGE_EMULATOR_HOST"]},
    )
    with closing(client):
        yield client


def fill(stage: Stage, objects: Mapping[str, bytes]) -> None:
    """Both buckets, and the source's objects."""
    with s3_client(stage) as s3, gcs_client(stage) as gcs:
        s3.create_bucket(Bucket=SOURCE)
        gcs.create_bucket(SINK)
        for key, body in objects.items():
            s3.put_object(Bucket=SOURCE, Key=key, Body=body)


def at_sink(stage: Stage, bucket: str = SINK) -> dict[str, bytes]:
    """Every object of the sink, by name, as read from outside."""
    with gcs_client(stage) as client:
        return {blob.name: blob.download_as_bytes(raw_download=True) for blob in client.list_blobs(bucket)}


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    """Poll until something is so; a hang becomes a failure, and no time is asserted."""
    until = time.monotonic() + seconds
    while not what():
        if time.monotonic() > until:
            raise AssertionError("it never came about")
        time.sleep(0.02)


def archive(stage: Stage, key: str, storage_class: str, body: bytes = b"cold") -> None:
    """Put an object that cannot be read. storage_class: GLACIER, DEEP_ARCHIVE, or one of the tiers of Intelligent-Tiering."""
    tier = storage_class if storage_class.endswith("_ACCESS") else ""
    with s3_client(stage) as s3:
        s3.put_object(Bucket=SOURCE, Key=key, Body=body, StorageClass="INTELLIGENT_TIERING" if tier else storage_class)
    if tier:
        assert stage.s3 is not None
        stage.s3.archive.move(SOURCE, key, tier)


def restore(stage: Stage, key: str) -> None:
    """Ask S3 to restore an archived object, as its kind wants to be asked."""
    with s3_client(stage) as s3:
        tiering = "ArchiveStatus" in s3.head_object(Bucket=SOURCE, Key=key)
        s3.restore_object(Bucket=SOURCE, Key=key, RestoreRequest={} if tiering else {"Days": 1})
