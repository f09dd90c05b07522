"""rclone: its Google Cloud Storage backend, and its S3 backend in three dialects."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.clients.programs import Program, read_version
from tests.clients.samples import LARGE, differ, read_files, read_gcs, read_s3

REMOTES = ("gcs", "aws", "minio", "other")


class Side:
    """What an official client finds behind a remote."""

    def __init__(self, remote: str, s3: Any, gcs: Any) -> None:
        self.remote, self._s3, self._gcs = remote, s3, gcs

    def read(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        if self.remote == "gcs":
            return read_gcs(self._gcs, bucket, prefix)
        return read_s3(self._s3, bucket, prefix)

    def metadata(self, bucket: str, name: str) -> tuple[dict[str, str], str]:
        """User metadata and content type of an object."""
        if self.remote == "gcs":
            blob = self._gcs.bucket(bucket).get_blob(name)
            return dict(blob.metadata), blob.content_type
        head = self._s3.head_object(Bucket=bucket, Key=name)
        return head["Metadata"], head["ContentType"]


@pytest.fixture(params=REMOTES)
def side(request: pytest.FixtureRequest, rclone: Program, s3: Any, gcs: Any) -> Side:
    version = re.search(r"v(\d+)\.(\d+)", read_version(rclone.path, "rclone"))
    if request.param == "aws" and version is not None and (int(version[1]), int(version[2])) < (1, 70):
        pytest.skip(f"rclone {version[0]} would reach AWS by a host name for each bucket, and there are none here")
    return Side(request.param, s3, gcs)


@pytest.fixture
def filled(rclone: Program, side: Side, bucket: str, tree: Path) -> str:
    """A place of the remote with the samples in it."""
    place = f"{side.remote}:{bucket}/dir"
    if side.remote == "gcs":
        named = ["--header-upload", "x-goog-meta-my_key: my value"]  # that backend knows no --metadata
    else:
        named = ["--metadata", "--metadata-set", "my_key=my value"]
    rclone.run("copy", str(tree), place, *named)
    return place


def test_what_is_copied_up_is_there_byte_for_byte_with_its_metadata(
    filled: str, side: Side, bucket: str, samples: dict[str, bytes]
) -> None:
    assert differ(side.read(bucket, "dir/"), samples) == []
    kept, kind = side.metadata(bucket, "dir/one.html")
    assert (kept["my_key"], kind.partition(";")[0]) == ("my value", "text/html")


def test_listings_and_checks_agree(rclone: Program, filled: str, tree: Path, samples: dict[str, bytes]) -> None:
    listed = json.loads(rclone.run("lsjson", filled, "--recursive", "--files-only", "--hash"))
    # rclone shows control characters by their pictures.
    assert {entry["Path"].replace("\u2409", "\t"): entry["Size"] for entry in listed} == {
        name: len(data) for name, data in samples.items()
    }
    rclone.run("check", str(tree), filled)
    rclone.run("check", str(tree), filled, "--download")


def test_a_large_object_goes_up_in_chunks(
    rclone: Program, suite: dict[str, str], filled: str, side: Side, bucket: str, s3: Any, samples: dict[str, bytes]
) -> None:
    def count_chunks() -> int:
        with urllib.request.urlopen(f"{suite['EMULATOR_ADMIN']}/calls", timeout=10) as answer:
            return int(json.load(answer).get("gcs", {}).get("objects.insert.session", 0))

    before = count_chunks()
    rclone.run("copyto", f"{filled}/{LARGE}", f"{side.remote}:{bucket}/again", "--disable", "copy")
    assert differ(side.read(bucket, "again"), {"": samples[LARGE]}) == []
    if side.remote == "gcs":
        assert count_chunks() - before >= 2
    else:
        assert s3.head_object(Bucket=bucket, Key="again")["ETag"].endswith('-3"'), "three parts of at most 8 MiB"


def test_a_copy_is_made_by_the_service(rclone: Program, filled: str, side: Side, bucket: str, samples: dict[str, bytes]) -> None:
    rclone.run("copy", filled, f"{side.remote}:{bucket}/copy")
    assert differ(side.read(bucket, "copy/"), samples) == []
    assert side.metadata(bucket, "copy/one.html")[0]["my_key"] == "my value"


def test_what_is_copied_down_is_the_same(rclone: Program, filled: str, tmp_path: Path, samples: dict[str, bytes]) -> None:
    rclone.run("copy", filled, str(tmp_path), "--multi-thread-cutoff", "8M", "--multi-thread-streams", "3")
    assert differ(read_files(tmp_path), samples) == []


def test_a_part_of_an_object_is_read(rclone: Program, filled: str) -> None:
    assert rclone.run("cat", f"{filled}/one.html", "--offset", "1", "--count", "1") == "p"
    assert rclone.run("cat", f"{filled}/one.html", "--offset=-2") == "p>"


def test_sync_and_delete_leave_what_they_should(
    rclone: Program, filled: str, side: Side, bucket: str, tree: Path, samples: dict[str, bytes]
) -> None:
    rclone.run("copyto", str(tree / "a b"), f"{filled}/surplus")
    rclone.run("deletefile", f"{filled}/a b")
    rclone.run("sync", str(tree), filled)
    assert differ(side.read(bucket, "dir/"), samples) == []
    rclone.run("delete", filled, "--include", "*.bin")
    assert differ(side.read(bucket, "dir/"), {name: data for name, data in samples.items() if name != LARGE}) == []
    rclone.run("purge", filled)
    assert side.read(bucket) == {}


def test_a_check_finds_what_is_wrong(rclone: Program, filled: str, tree: Path, samples: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(samples["a b"][::-1])
    rclone.run("copyto", str(tmp_path / "other"), f"{filled}/a b", "--ignore-times")
    assert "1 differences found" in rclone.run("check", str(tree), filled, "--download", code=1)
