"""google-cloud-storage's transfer manager, which is in the lock: many objects, and one in chunks, by threads and by processes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from tests.clients.samples import LARGE, differ, read_files, read_gcs
from tests.stages import environment

manager: Any = importlib.import_module("google.cloud.storage.transfer_manager")
KINDS = (manager.THREAD, manager.PROCESS)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, suite: dict[str, str]) -> Any:
    """The workers; a process makes a client of its own, from the environment."""
    with environment(
        {"STORAGE_EMULATOR_HOST": suite["STORAGE_EMULATOR_HOST"], "GOOGLE_CLOUD_PROJECT": suite["GOOGLE_CLOUD_PROJECT"]}
    ):
        yield {"worker_type": request.param, "max_workers": 3}


def test_many_objects_up_and_down(
    kind: Any, gcs: Any, bucket: str, tree: Path, samples: dict[str, bytes], tmp_path: Path
) -> None:
    home, names = gcs.bucket(bucket), sorted(samples)
    results = manager.upload_many_from_filenames(
        home, names, source_directory=str(tree), blob_name_prefix="dir/", raise_exception=True, additional_blob_attributes=
        {"metadata": {"my_key": "v"}}, **kind
    )  # fmt: skip
    assert results == [None] * len(names)
    assert differ(read_gcs(gcs, bucket, "dir/"), samples) == []
    assert home.get_blob("dir/a b").metadata == {"my_key": "v"}
    manager.download_many_to_path(
        home, names, destination_directory=str(tmp_path), blob_name_prefix="dir/", raise_exception=True, **kind
    )
    assert differ(read_files(tmp_path), samples) == []


def test_one_object_in_chunks_up_and_down(
    kind: Any, gcs: Any, bucket: str, tree: Path, samples: dict[str, bytes], tmp_path: Path
) -> None:
    blob = gcs.bucket(bucket).blob("big")
    blob.metadata = {"my_key": "v"}
    manager.upload_chunks_concurrently(str(tree / LARGE), blob, content_type="a/b", chunk_size=6 << 20, checksum="crc32c", **kind)
    found = gcs.bucket(bucket).get_blob("big")
    assert (found.metadata, found.content_type, found.size) == ({"my_key": "v"}, "a/b", len(samples[LARGE]))
    assert found.md5_hash is None, "an object made of parts has none"
    manager.download_chunks_concurrently(found, str(tmp_path / "big"), chunk_size=6 << 20, **kind)
    assert (tmp_path / "big").read_bytes() == samples[LARGE]
    assert [path.name for path in tmp_path.iterdir()] == ["big"], "and no part of it is left over"
