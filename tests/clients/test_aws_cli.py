"""The AWS CLI: `aws s3` and `aws s3api`."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.programs import Program
from tests.clients.samples import LARGE, differ, read_files, read_s3


@pytest.fixture
def filled(aws: Program, bucket: str, tree: Path) -> str:
    place = f"s3://{bucket}/dir"
    aws.run("s3", "cp", str(tree), place, "--recursive", "--only-show-errors", "--metadata", "my_key=my value,other-key=1")
    return place


def test_what_is_copied_up_is_there_with_its_metadata(filled: str, bucket: str, s3: Any, samples: dict[str, bytes]) -> None:
    assert differ(read_s3(s3, bucket, "dir/"), samples) == []
    head = s3.head_object(Bucket=bucket, Key="dir/one.html")
    assert (head["Metadata"], head["ContentType"]) == ({"my_key": "my value", "other-key": "1"}, "text/html")
    assert s3.head_object(Bucket=bucket, Key=f"dir/{LARGE}")["ETag"].endswith('-3"'), "three parts of at most 8 MiB"


def test_ls_shows_every_name_and_size(aws: Program, filled: str, samples: dict[str, bytes]) -> None:
    listed = [line.split(None, 3)[2:] for line in aws.run("s3", "ls", filled, "--recursive").splitlines()]
    assert {name.removeprefix("dir/"): int(size) for size, name in listed} == {name: len(data) for name, data in samples.items()}


def test_sync_brings_back_what_went_up(aws: Program, filled: str, tmp_path: Path, samples: dict[str, bytes]) -> None:
    aws.run("s3", "sync", filled, str(tmp_path), "--only-show-errors")
    assert differ(read_files(tmp_path), samples) == []
    assert aws.run("s3", "sync", filled, str(tmp_path)) == "", "and nothing is to be done a second time"


def test_copies_by_the_service_and_deletion(aws: Program, filled: str, bucket: str, s3: Any, samples: dict[str, bytes]) -> None:
    aws.run("s3", "cp", filled, f"s3://{bucket}/copy", "--recursive", "--only-show-errors")
    assert differ(read_s3(s3, bucket, "copy/"), samples) == []
    aws.run("s3", "mv", f"s3://{bucket}/copy/a+b", f"s3://{bucket}/moved/a b+c", "--only-show-errors")
    assert differ(read_s3(s3, bucket, "moved/"), {"a b+c": samples["a+b"]}) == []
    aws.run("s3", "rm", f"s3://{bucket}/", "--recursive", "--only-show-errors")
    assert read_s3(s3, bucket) == {}


def test_the_api_lists_heads_and_puts(
    aws: Program, filled: str, bucket: str, s3: Any, tree: Path, samples: dict[str, bytes]
) -> None:
    listed = json.loads(aws.run("s3api", "list-objects-v2", "--bucket", bucket, "--prefix", "dir/", "--no-paginate"))
    assert listed["KeyCount"] == len(samples) == len(listed["Contents"])
    paged = json.loads(aws.run("s3api", "list-objects-v2", "--bucket", bucket, "--page-size", "4"))
    assert [entry["Key"] for entry in paged["Contents"]] == [entry["Key"] for entry in listed["Contents"]]
    digest = base64.b64encode(hashlib.sha256(samples["a b"]).digest()).decode()
    put = [
        "s3api",
        "put-object",
        "--bucket",
        bucket,
        "--key",
        "put",
        "--body",
        str(tree / "a b"),
        "--checksum-algorithm",
        "SHA256",
    ]
    assert json.loads(aws.run(*put, "--metadata", "a_b=c"))["ChecksumSHA256"] == digest
    head = json.loads(aws.run("s3api", "head-object", "--bucket", bucket, "--key", "put"))
    assert (head["ContentLength"], head["Metadata"]) == (len(samples["a b"]), {"a_b": "c"})
    assert head["ETag"] == f'"{hashlib.md5(samples["a b"]).hexdigest()}"'
    assert read_s3(s3, bucket, "put") == {"": samples["a b"]}


def test_a_part_of_an_object(aws: Program, filled: str, bucket: str, tmp_path: Path, samples: dict[str, bytes]) -> None:
    words = ["s3api", "get-object", "--bucket", bucket, "--key", f"dir/{LARGE}", "--range", "bytes=1000000-1000009"]
    answer = json.loads(aws.run(*words, str(tmp_path / "part")))
    assert answer["ContentRange"] == f"bytes 1000000-1000009/{len(samples[LARGE])}"
    assert (tmp_path / "part").read_bytes() == samples[LARGE][1_000_000:1_000_010]


def test_a_wrong_secret_is_refused(aws: Program, bucket: str) -> None:
    stranger = Program(aws.path, {**aws.variables, "AWS_SECRET_ACCESS_KEY": "wrong"})
    assert "SignatureDoesNotMatch" in stranger.run("s3", "ls", f"s3://{bucket}", code=255)
