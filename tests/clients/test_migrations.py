"""rclone as the outside judge: on each route the product moves a bucket, and `rclone check --download` compares both sides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.clients.programs import ROOT, Program
from tests.clients.samples import HARD_NAMES, LARGE, LARGE_BYTES, make_bytes

SOURCE = "judged-source"
PREFIXES, OBJECTS = ("alpha/", "beta/", "gamma/", "hard names/", "large/"), 300
ROUTES = ("sts-s3", "cdn", "sts-url-list", "copy")
TIMEOUT_S = 240


@pytest.fixture(scope="session")
def source(suite: dict[str, str], s3: Any) -> dict[str, bytes]:
    """The source bucket's objects; each has a content type and user metadata. One was uploaded in parts."""
    objects = {f"{PREFIXES[index % 3]}{index:03}/object": make_bytes(str(index), 10 * index) for index in range(OBJECTS)}
    objects |= {f"hard names/{name}": make_bytes(name, 100) for name in HARD_NAMES}
    s3.create_bucket(Bucket=SOURCE)
    named = {"ContentType": "text/x-sample", "Metadata": {"my_key": "my value"}}

    def put(item: tuple[str, bytes]) -> None:
        s3.put_object(Bucket=SOURCE, Key=item[0], Body=item[1], **named)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, objects.items()))
    large = f"large/{LARGE}"
    objects[large] = make_bytes(large, LARGE_BYTES)
    upload = s3.create_multipart_upload(Bucket=SOURCE, Key=large, **named)["UploadId"]
    where = {"Bucket": SOURCE, "Key": large, "UploadId": upload}
    pieces = [objects[large][first : first + (8 << 20)] for first in range(0, LARGE_BYTES, 8 << 20)]
    etags = [s3.upload_part(PartNumber=number, Body=piece, **where)["ETag"] for number, piece in enumerate(pieces, 1)]
    parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
    s3.complete_multipart_upload(MultipartUpload={"Parts": parts}, **where)
    return objects


class Product:
    """The product's commands, run as a user runs them, in a folder of their own."""

    def __init__(self, suite: dict[str, str], folder: Path) -> None:
        self._suite, self._folder = suite, folder
        self._variables = os.environ | suite | {"PYTHONPATH": str(ROOT)}

    def run(self, module: str, *words: str) -> None:
        """Raises AssertionError with the last of what it said when it does not end with 0."""
        command = [sys.executable, "-m", module, *words]
        ran = subprocess.run(
            command, cwd=self._folder, env=self._variables, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
        assert ran.returncode == 0, f"{' '.join(words)}\n{ran.stdout[-3000:]}\n{ran.stderr[-6000:]}"

    def migrate(self, route: str, sink: str) -> None:
        cdn = ["--cdn-url", f"http://{self._suite['CDN_EMULATOR_HOST']}/{SOURCE}/"]
        cdn += [
            "--cdn-key-pair-id",
            self._suite["CDN_KEY_PAIR_ID"],
            "--cdn-private-key-file",
            self._suite["CDN_PRIVATE_KEY_FILE"],
        ]
        if route == "copy":
            self.run("cdn_worker", "copy", "--source", f"s3://{SOURCE}/", "--destination", f"gs://{sink}/", *cdn)
            return
        (self._folder / "prefixes.json").write_text(json.dumps(PREFIXES))
        self.run("sts_manager", "prepare-tables", "--job-prefix-source-file", "prefixes.json")
        more = {"sts-s3": [], "cdn": [*cdn, "--workers", "2"], "sts-url-list": [*cdn, "--route", "sts-url-list"]}[route]
        words = ["run", "--source-bucket", f"s3://{SOURCE}", "--destination-bucket", f"gs://{sink}", "--until-done"]
        self.run("sts_manager", *words, "--job-interval", "0.5", "--metrics-interval", "0.5", "--sleep-timeout", "0.5", *more)


@pytest.mark.parametrize("route", ROUTES)
def test_rclone_finds_both_sides_alike(
    route: str, rclone: Program, suite: dict[str, str], source: dict[str, bytes], gcs: Any, s3: Any, tmp_path: Path
) -> None:
    sink = f"judged-{route}"
    gcs.create_bucket(sink)
    Product(suite, tmp_path).migrate(route, sink)
    rclone.run("check", f"other:{SOURCE}", f"gcs:{sink}", "--download")
    blobs = {blob.name: blob for blob in gcs.list_blobs(sink)}
    assert blobs.keys() == source.keys()
    etags = {entry["Key"]: entry["ETag"].strip('"') for entry in list_source(s3)}
    assert etags[f"large/{LARGE}"].endswith("-3"), "uploaded in parts, it has an ETag that is no MD5"
    assert {name for name, blob in blobs.items() if blob.content_type != "text/x-sample"} == set()
    if route != "sts-url-list":  # of what it fetches from URLs the service keeps neither
        assert {name for name, blob in blobs.items() if blob.metadata.get("my_key") != "my value"} == set()
        assert {name for name, blob in blobs.items() if blob.metadata["x-goog-source-etag"] != etags[name]} == set()


def test_the_judge_sees_what_is_missing_surplus_or_changed(
    rclone: Program, suite: dict[str, str], source: dict[str, bytes], gcs: Any, tmp_path: Path
) -> None:
    sink = gcs.create_bucket("judged-and-spoilt")
    Product(suite, tmp_path).migrate("copy", sink.name)
    judge = ("check", f"other:{SOURCE}", f"gcs:{sink.name}", "--download")
    rclone.run(*judge)
    key = "alpha/003/object"
    sink.blob(key).upload_from_string(source[key][::-1])
    assert "1 differences found" in rclone.run(*judge, code=1), "the same size, other bytes"
    sink.blob("hard names/a%20b").delete()
    sink.blob("surplus").upload_from_string(b"x")
    assert "3 differences found" in rclone.run(*judge, code=1)


def list_source(s3: Any) -> list[dict[str, Any]]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=SOURCE)
    return [entry for page in pages for entry in page["Contents"]]


def test_the_source_is_what_was_put_there(source: dict[str, bytes], suite: dict[str, str]) -> None:
    """The judge compares two sides; this one compares the source with what was meant."""
    keys = {"aws_access_key_id": suite["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": suite["AWS_SECRET_ACCESS_KEY"]}
    bucket = boto3.resource("s3", endpoint_url=suite["AWS_ENDPOINT_URL"], region_name="us-east-1", **keys).Bucket(SOURCE)
    found = {entry.key: entry.get()["Body"].read() for entry in bucket.objects.all()}
    assert {key for key in found.keys() | source.keys() if found.get(key) != source.get(key)} == set()
