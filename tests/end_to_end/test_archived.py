"""Archived objects, by routes of our own: read when restored, else named for what they are, and never taken for a denial."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.end_to_end.commands import Shell
from tests.end_to_end.test_copy import PLACES, cdn, verdicts
from tests.end_to_end.test_pool import Pool
from tests.stages import SOURCE as SOURCE_BUCKET
from tests.stages import archive, at_sink, fill, restore, s3_client
from tools.emulators.stage import Stage

COLD = {
    "dir/flexible": "GLACIER",
    "dir/deep": "DEEP_ARCHIVE",
    "dir/tiered": "ARCHIVE_ACCESS",
    "dir/tiered deep": "DEEP_ARCHIVE_ACCESS",
}
LARGE = 9 << 20


def failures(shell: Shell) -> dict[str, tuple[str, str]]:
    return {one["key"]: (one["verdict"], one["error"]) for one in json.loads(shell.run("failures", "--json").out)}


@pytest.mark.parametrize("way", ["s3", "cdn"])
def test_what_was_restored_is_copied(stage: Stage, tmp_path: Path, way: str) -> None:
    fill(stage, {"dir/warm": b"warm"})
    for key, kind in COLD.items():
        archive(stage, key, kind)
    shell = Shell(tmp_path, stage.environment, "cdn_worker")
    more = cdn(stage) if way == "cdn" else ()
    assert shell.run("copy", *PLACES, *more).code == 1
    rows = verdicts(tmp_path)
    assert {key: (row["verdict"], row["error"]) for key, row in rows.items()} == {
        "dir/warm": ("done", None),
        **dict.fromkeys(COLD, ("unmappable", "archived")),
    }
    assert all("aws s3api restore-object" in rows[key]["details"] for key in COLD)
    assert '"Days"' in rows["dir/flexible"]["details"]
    assert "--restore-request '{}'" in rows["dir/tiered"]["details"], "in Intelligent-Tiering there are no days"
    assert rows["dir/tiered"]["tries"] == 1 if "tries" in rows["dir/tiered"] else True
    for key in COLD:
        restore(stage, key)
    again = shell.run("copy", *PLACES, *more)
    assert again.code == 0, again.out
    assert at_sink(stage) == {"kept/dir/warm": b"warm", **{f"kept/{key}": b"cold" for key in COLD}}


def test_a_restore_that_is_not_over_yet_is_told(stage: Stage, tmp_path: Path) -> None:
    fill(stage, {})
    stage.ledger.change({"s3.restore_seconds": 3600})
    for key, kind in COLD.items():
        archive(stage, key, kind)
        restore(stage, key)
    shell = Shell(tmp_path, stage.environment, "cdn_worker")
    assert shell.run("copy", *PLACES).code == 1
    rows = verdicts(tmp_path)
    assert {row["error"] for row in rows.values()} == {"archived"}
    assert all("is being restored" in row["details"] for row in rows.values())
    assert stage.ledger.calls["s3", "GetObject"] == 0, "the listing told that"


def test_an_object_that_was_copied_before_it_was_archived_is_there(stage: Stage, tmp_path: Path) -> None:
    """A lifecycle rule moves it on: its ETag stays, and so does its copy."""
    fill(stage, {"dir/moved on": b"cold"})
    shell = Shell(tmp_path, stage.environment, "cdn_worker")
    assert shell.run("copy", *PLACES).code == 0
    archive(stage, "dir/moved on", "GLACIER")
    assert shell.run("copy", *PLACES).code == 0
    assert verdicts(tmp_path)["dir/moved on"]["verdict"] == "skipped"


@pytest.mark.parametrize("page", ["", "<html>sorry</html>"])
def test_a_large_one_is_told_before_an_upload_is_begun(stage: Stage, tmp_path: Path, page: str) -> None:
    fill(stage, {})
    archive(stage, "dir/large", "ARCHIVE_ACCESS", random.Random(1).randbytes(LARGE))
    archive(stage, "dir/small", "ARCHIVE_ACCESS")
    stage.ledger.change({"cdn.error_page": page})
    shell = Shell(tmp_path, stage.environment, "cdn_worker")
    assert shell.run("copy", *PLACES, *cdn(stage)).code == 1
    assert {row["error"] for row in verdicts(tmp_path).values()} == {"archived"}
    assert stage.ledger.calls["cdn", "GET"] == 1, "the large one's head says so, and the small one is asked for once"
    assert stage.ledger.calls["gcs", "objects.insert"] == 0


def test_the_first_objects_of_a_prefix_are_archived_and_no_breaker_opens(stage: Stage, tmp_path: Path) -> None:
    warm = {f"a/warm {index}": b"warm" for index in range(5)}
    fill(stage, {**warm, "b/1": b"b"})
    cold = [f"a/cold {index}" for index in range(3)]
    for key in cold:
        archive(stage, key, "ARCHIVE_ACCESS")
    pool = Pool(stage, tmp_path, ["a/", "b/"])
    ran = pool.run()
    assert ran.code == 1, ran.err
    assert pool.rows("prefix, status, error_code, objects_copied") == {"a/": ("error", "ARCHIVED", 5), "b/": ("done", "", 1)}
    assert failures(pool.shell) == dict.fromkeys(cold, ("unmappable", "archived"))
    assert "BREAKER" not in pool.shell.run("status").out
    assert "restore-object" in pool.shell.run("failures").out
    for key in cold:
        restore(stage, key)
    assert pool.shell.run("retry", "a/").code == 0
    again = pool.run()
    assert again.code == 0, again.err
    assert at_sink(stage) == {**warm, "b/1": b"b", **dict.fromkeys(cold, b"cold")}


def test_a_prefix_of_nothing_but_archived_objects_opens_no_breaker(stage: Stage, tmp_path: Path) -> None:
    fill(stage, {"b/1": b"b"})
    cold = [f"a/{index:02}" for index in range(12)]
    for key in cold:
        archive(stage, key, "DEEP_ARCHIVE_ACCESS")
    with s3_client(stage) as s3:
        assert {one["StorageClass"] for one in s3.list_objects_v2(Bucket=SOURCE_BUCKET, Prefix="a/")["Contents"]} == {
            "INTELLIGENT_TIERING"
        }
    pool = Pool(stage, tmp_path, ["a/", "b/"])
    assert pool.run().code == 1
    assert pool.rows("prefix, status, error_code") == {"a/": ("error", "ARCHIVED"), "b/": ("done", "")}
    assert failures(pool.shell) == dict.fromkeys(cold, ("unmappable", "archived"))


def test_a_key_pair_that_is_not_trusted_is_told_all_the_same(stage: Stage, tmp_path: Path) -> None:
    """Archived objects stand before those by which the CDN is judged, and hide nothing."""
    fill(stage, {f"a/warm {index}": b"warm" for index in range(3)})
    for index in range(3):
        archive(stage, f"a/cold {index}", "ARCHIVE_ACCESS")
    pool = Pool(stage, tmp_path, ["a/"])
    flags = [*pool.flags]
    flags[flags.index("--cdn-key-pair-id") + 1] = "KNOBODYKNOWS"
    ran = pool.shell.run("run", *flags, "--workers", "1", "--until-done", "--max-attempts", "1")
    assert ran.code != 0
    assert "PERMISSION_DENIED" in ran.err + pool.shell.run("status").out
    assert at_sink(stage) == {}
