"""gsutil, through a front that speaks TLS: it cannot be told to speak without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.clients.programs import Program
from tests.clients.samples import LARGE, differ, read_files, read_gcs, write_files

NOT_HELD = ("star*", "[x]")
"""Names that gsutil takes for patterns: they are left out."""


@pytest.fixture
def held(samples: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in samples.items() if name not in NOT_HELD}


@pytest.fixture
def folder(tmp_path: Path, held: dict[str, bytes]) -> Path:
    return write_files(tmp_path / "up", held)


@pytest.fixture
def filled(gsutil: Program, bucket: str, folder: Path) -> str:
    place = f"gs://{bucket}/dir"
    gsutil.run("-h", "x-goog-meta-my_key:my value", "cp", "-r", str(folder), place)
    return place


def test_what_is_copied_up_is_there_with_its_metadata(filled: str, bucket: str, gcs: Any, held: dict[str, bytes]) -> None:
    assert differ(read_gcs(gcs, bucket, "dir/"), held) == []
    blob = gcs.bucket(bucket).get_blob("dir/one.html")
    assert (blob.metadata["my_key"], blob.content_type) == ("my value", "text/html")


def test_ls_and_stat_show_what_is_there(gsutil: Program, filled: str, held: dict[str, bytes]) -> None:
    listed = [line.split(None, 2) for line in gsutil.run("ls", "-l", f"{filled}/**").splitlines() if "gs://" in line]
    assert {line[2].removeprefix(f"{filled}/"): int(line[0]) for line in listed} == {
        name: len(data) for name, data in held.items()
    }
    assert "my value" in gsutil.run("stat", f"{filled}/a b")


def test_cp_and_rsync_bring_back_what_went_up(gsutil: Program, filled: str, tmp_path: Path, held: dict[str, bytes]) -> None:
    down = tmp_path / "down"
    down.mkdir()
    gsutil.run("-o", "GSUtil:sliced_object_download_threshold=8M", "cp", "-r", f"{filled}/*", str(down))
    assert differ(read_files(down), held) == []
    (down / "a b").unlink()
    (down / "surplus").write_bytes(b"x")
    gsutil.run("rsync", "-r", "-d", "-c", filled, str(down))
    assert differ(read_files(down), held) == []


def test_copies_by_the_service_compositions_and_deletion(
    gsutil: Program, filled: str, bucket: str, gcs: Any, held: dict[str, bytes]
) -> None:
    gsutil.run("cp", "-r", f"{filled}/*", f"gs://{bucket}/copy/")
    assert differ(read_gcs(gcs, bucket, "copy/"), held) == []
    gsutil.run("mv", f"gs://{bucket}/copy/a b", f"gs://{bucket}/moved")
    gsutil.run("compose", f"gs://{bucket}/moved", f"{filled}/{LARGE}", f"gs://{bucket}/joined")
    assert gcs.bucket(bucket).blob("joined").download_as_bytes() == held["a b"] + held[LARGE]
    gsutil.run("rm", f"gs://{bucket}/**")
    assert read_gcs(gcs, bucket) == {}


def test_a_composite_upload(gsutil: Program, bucket: str, gcs: Any, folder: Path, held: dict[str, bytes]) -> None:
    words = ["-o", "GSUtil:parallel_composite_upload_threshold=8M", "-o", "GSUtil:parallel_composite_upload_component_size=6M"]
    gsutil.run(*words, "cp", str(folder / LARGE), f"gs://{bucket}/composite")
    blob = gcs.bucket(bucket).get_blob("composite")
    assert (blob.component_count, blob.md5_hash, blob.download_as_bytes() == held[LARGE]) == (4, None, True)
    assert [blob.name for blob in gcs.list_blobs(bucket)] == ["composite"], "and its components are gone"
