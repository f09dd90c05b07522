"""s5cmd."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.programs import Program
from tests.clients.samples import LARGE, differ, read_files, read_s3, write_files

NOT_HELD = ("star*",)
"""Names that s5cmd takes for patterns: they are left out."""


@pytest.fixture
def held(samples: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in samples.items() if name not in NOT_HELD}


@pytest.fixture
def filled(s5cmd: Program, bucket: str, held: dict[str, bytes], tmp_path: Path) -> str:
    place = f"s3://{bucket}/dir"
    s5cmd.run("cp", "--metadata", "my_key=v", "--part-size", "8", f"{write_files(tmp_path / 'up', held)}/", f"{place}/")
    return place


def test_what_is_copied_up_is_there_with_its_metadata(filled: str, bucket: str, s3: Any, held: dict[str, bytes]) -> None:
    assert differ(read_s3(s3, bucket, "dir/"), held) == []
    assert s3.head_object(Bucket=bucket, Key="dir/a b")["Metadata"] == {"my_key": "v"}
    assert s3.head_object(Bucket=bucket, Key=f"dir/{LARGE}")["ETag"].endswith('-3"'), "three parts of at most 8 MiB"


def test_ls_shows_every_name_and_size(s5cmd: Program, filled: str, held: dict[str, bytes]) -> None:
    entries = [json.loads(line) for line in s5cmd.run("--json", "ls", f"{filled}/*").splitlines()]
    assert {entry["key"].removeprefix(f"{filled}/"): entry.get("size", 0) for entry in entries} == {
        name: len(data) for name, data in held.items()
    }


def test_cp_and_sync_bring_back_what_went_up(s5cmd: Program, filled: str, tmp_path: Path, held: dict[str, bytes]) -> None:
    down = tmp_path / "down"
    s5cmd.run("cp", "--part-size", "8", f"{filled}/*", f"{down}/")
    assert differ(read_files(down), held) == []
    (down / "a b").unlink()
    assert s5cmd.run("sync", f"{filled}/*", f"{down}/").splitlines() == [f"cp {filled}/a b {down}/a b"]
    assert differ(read_files(down), held) == []


def test_copies_by_the_service_and_deletion(s5cmd: Program, filled: str, bucket: str, s3: Any, held: dict[str, bytes]) -> None:
    s5cmd.run("cp", f"{filled}/*", f"s3://{bucket}/copy/")
    assert differ(read_s3(s3, bucket, "copy/"), held) == []
    s5cmd.run("rm", f"s3://{bucket}/*")
    assert read_s3(s3, bucket) == {}
