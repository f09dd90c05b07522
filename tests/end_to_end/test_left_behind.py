"""What the transfer service passes over without a word is found and named, although it says that all went well."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.commands import BUCKETS, QUICK, Ran, Shell
from tests.end_to_end.test_failed_objects import loaded, row
from tests.end_to_end.test_pool import cdn_flags
from tests.stages import SINK, archive, at_sink, fill, gcs_client, restore, wait_for
from tools.emulators.stage import Stage

RUN = ("run", *BUCKETS, *QUICK, "--until-done")


def failures(shell: Shell) -> dict[str, tuple[str, str]]:
    return {one["key"]: (one["verdict"], one["error"]) for one in json.loads(shell.run("failures", "--json").out)}


def left(shell: Shell) -> dict[str, int]:
    return {one["prefix"]: one["objects"] for one in json.loads(shell.run("status", "--json").out)["left_behind"]}


def events(ran: Ran, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in ran.err.splitlines() if line.startswith("{")]
    return [one for one in lines if one["message"] == event]


@pytest.mark.parametrize("shared", ["1", "5"])
def test_archived_objects_are_named_though_the_prefix_is_done(stage: Stage, tmp_path: Path, shared: str) -> None:
    fill(stage, {"p/warm": b"warm", "q/warm": b"warm"})
    archive(stage, "p/flexible", "GLACIER")
    archive(stage, "p/restored", "GLACIER")
    archive(stage, "p/deep", "DEEP_ARCHIVE")
    archive(stage, "p/deep restored", "DEEP_ARCHIVE")
    for key in ("p/restored", "p/deep restored"):
        restore(stage, key)
    shell = loaded(stage, tmp_path, ["p/", "q/"])
    ran = shell.run(*RUN, "--prefixes-per-job", shared)
    assert ran.code == 1, ran.err
    assert "objects of prefixes that are done are not at the destination; 'p/' has most" in ran.err
    assert shell.run(*RUN, "--allow-left-behind").code == 0, "that is as it should be"
    assert row(tmp_path, "status") == ("done",)
    assert set(at_sink(stage)) == {"p/warm", "p/deep restored", "q/warm"}
    assert failures(shell) == dict.fromkeys(["p/flexible", "p/restored", "p/deep"], ("unmappable", "archived"))
    told = json.loads(shell.run("failures", "p/", "--json").out)
    details = {one["key"]: one["details"] for one in told}
    assert "--include-storage-classes" in details["p/restored"], "to restore it is not enough on this route"
    assert "--include-storage-classes" not in details["p/deep"]
    assert "restore-object" in details["p/deep"]
    assert left(shell) == {"p/": 3}
    assert "p/ is done, but 3 objects (12 B) are not at the destination" in shell.run("status").out
    (said,) = events(ran, "objects_left_behind")
    assert (said["prefix"], said["objects"], said["bytes"], said["named"]) == ("p/", 3, 12, "archived: 3")
    assert stage.ledger.calls["gcs", "xml.put"] == 3, "to compare moves nothing"


def test_a_tier_that_no_listing_tells_is_found_when_it_was_passed_over(stage: Stage, tmp_path: Path) -> None:
    stage.ledger.change({"sts.archived_tiering": "skip"})
    fill(stage, {"p/warm": b"warm"})
    archive(stage, "p/tiered", "DEEP_ARCHIVE_ACCESS")
    shell = loaded(stage, tmp_path, ["p/"])
    assert shell.run(*RUN).code == 1
    assert failures(shell) == {"p/tiered": ("unmappable", "archived")}


def test_a_tier_that_fails_is_named_for_what_it_is_and_opens_no_breaker(stage: Stage, tmp_path: Path) -> None:
    """Alone under its prefix, so that nothing at all was moved, and the code is that of a permission."""
    fill(stage, {"q/warm": b"warm"})
    archive(stage, "p/tiered", "ARCHIVE_ACCESS")
    shell = loaded(stage, tmp_path, ["p/", "q/"])
    with shell.started("run", *BUCKETS, *QUICK, "--max-concurrent-jobs", "1") as daemon:
        wait_for(lambda: failures(shell) == {"p/tiered": ("unmappable", "archived")})
        wait_for(lambda: row(tmp_path, "status", "q/") == ("done",))
        daemon.terminate()
        daemon.communicate(timeout=20)
    assert row(tmp_path, "status, error_code, attempt") == ("error", "ARCHIVED", 1)
    assert "BREAKER" not in shell.run("status").out


def test_classes_that_are_included_travel_when_restored(stage: Stage, tmp_path: Path) -> None:
    fill(stage, {"p/warm": b"warm"})
    for key in ("p/restored", "p/cold"):
        archive(stage, key, "GLACIER")
    restore(stage, "p/restored")
    shell = loaded(stage, tmp_path, ["p/"])
    ran = shell.run(*RUN, "--include-storage-classes", "GLACIER", "--include-storage-classes", "STANDARD")
    assert ran.code == 1, ran.err
    assert set(at_sink(stage)) == {"p/warm", "p/restored"}
    assert failures(shell) == {"p/cold": ("unmappable", "archived")}
    restore(stage, "p/cold")
    assert shell.run("rerun", "p/").code == 0
    assert shell.run(*RUN, "--include-storage-classes", "GLACIER,STANDARD").code == 0
    assert set(at_sink(stage)) == {"p/warm", "p/restored", "p/cold"}
    assert (failures(shell), left(shell)) == ({}, {})


def test_an_object_that_is_missing_for_no_reason_is_named_and_what_came_later_is_not(stage: Stage, tmp_path: Path) -> None:
    fill(stage, {f"p/{index}": b"x" for index in range(4)})
    shell = loaded(stage, tmp_path, ["p/"])
    stage.ledger.change({"sts.objects_per_second": 1})
    with shell.started("run", *BUCKETS, *QUICK) as daemon:
        # Somebody takes one away again, and adds one at the source, before the transfer is over.
        wait_for(lambda: "p/0" in at_sink(stage))
        with gcs_client(stage) as client:
            client.bucket(SINK).blob("p/0").delete()
        archive(stage, "p/late", "STANDARD")
        stage.ledger.change({"sts.objects_per_second": 0})
        wait_for(lambda: failures(shell) == {"p/0": ("failed", "not_at_destination")})
        daemon.terminate()
        daemon.communicate(timeout=20)
    assert row(tmp_path, "status") == ("done",)


def test_another_object_by_its_name_is_not_missed(stage: Stage, tmp_path: Path) -> None:
    fill(stage, {"p/0": b"x"})
    with gcs_client(stage) as client:
        client.bucket(SINK).blob("p/0").upload_from_string(b"somebody's own")
    shell = loaded(stage, tmp_path, ["p/"])
    ran = shell.run(*RUN, "--overwrite-when", "NEVER")
    assert (ran.code, failures(shell)) == (0, {})


@pytest.mark.parametrize("how", ["--no-compare", "no credentials", "no credentials, no count"])
def test_where_nothing_can_be_compared_the_services_count_is_told(stage: Stage, tmp_path: Path, how: str) -> None:
    fill(stage, {"p/warm": b"warm"})
    archive(stage, "p/flexible", "GLACIER")
    archive(stage, "p/deep", "DEEP_ARCHIVE")
    environment, words = dict(stage.environment), ["--no-compare"]
    if how != "--no-compare":
        words = ["--s3-role-arn", "arn:aws:iam::123456789012:role/stage-reader"]
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            environment.pop(name)
        environment |= {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}
    if how.endswith("no count"):
        stage.ledger.change({"iam.denied": ["storagetransfer.operations.get"]})
    shell = Shell(tmp_path, environment)
    (tmp_path / "prefixes.json").write_text('["p/"]')
    assert shell.run("prepare-tables", "--job-prefix-source-file", "prefixes.json").code == 0
    ran = shell.run(*RUN, *words)
    assert ran.code == (1 if how == "no credentials" else 0), ran.err
    assert not (tmp_path / "sts_manager_lists.db").exists()
    if how == "no credentials":
        (one,) = json.loads(shell.run("failures", "--json").out)
        assert (one["key"], one["error"]) == ("p/", "archived_counted")
        assert "1 GLACIER and 1 DEEP_ARCHIVE objects" in one["details"]
        assert [said["objects"] for said in events(ran, "objects_left_behind")] == [2]
    else:
        assert failures(shell) == {}
    assert bool(events(ran, "prefixes_not_compared")) == (how != "--no-compare")


def test_a_source_that_may_not_be_listed_from_here_is_told(stage: Stage, tmp_path: Path) -> None:
    fill(stage, {"p/warm": b"warm"})
    shell = loaded(stage, tmp_path, ["p/"])
    stage.ledger.change({"sts.secrets": {"projects/1/secrets/s3": f"{stage.environment['AWS_ACCESS_KEY_ID']}:"
                                         f"{stage.environment['AWS_SECRET_ACCESS_KEY']}"}})  # fmt: skip
    other = Shell(tmp_path, dict(stage.environment) | {"AWS_ACCESS_KEY_ID": "AKIANOBODY"})
    ran = other.run(*RUN, "--s3-credentials-secret", "projects/1/secrets/s3")
    assert ran.code == 1, "it is done, and nobody knows whether all of it is there"
    assert "1 prefix(es) are done and could not be compared: " in ran.err
    (said,) = events(ran, "prefix_not_compared")
    assert (said["prefix"], said["code"]) == ("p/", "PERMISSION_DENIED")
    assert failures(shell) == {}


def test_a_comparison_that_nobody_lived_to_see_is_told_by_the_next_daemon(stage: Stage, tmp_path: Path) -> None:
    fill(stage, {"p/warm": b"warm"})
    archive(stage, "p/deep", "DEEP_ARCHIVE")
    shell = loaded(stage, tmp_path, ["p/"])
    for _ in range(2):
        # One pass each has no lister of its own: it is asked for, and waits in the ledger.
        assert shell.run("run", *BUCKETS, *QUICK, "--once").code == 0
        wait_for(lambda: stage.sts is not None and all(one.ended for one in stage.sts.operations.values()))
    wait_for(lambda: shell.run("run", *BUCKETS, *QUICK, "--once").code == 0 and row(tmp_path, "status") == ("done",))
    assert failures(shell) == {}
    assert shell.run(*RUN).code == 1
    assert failures(shell) == {"p/deep": ("unmappable", "archived")}


def test_a_retry_that_brings_all_clears_what_was_known(stage: Stage, tmp_path: Path) -> None:
    fill(stage, {"p/warm": b"warm"})
    archive(stage, "p/deep", "DEEP_ARCHIVE")
    shell = loaded(stage, tmp_path, ["p/"])
    assert shell.run(*RUN).code == 1
    assert left(shell) == {"p/": 1}
    restore(stage, "p/deep")
    assert shell.run("rerun", "--all").code == 0
    assert shell.run(*RUN).code == 0
    assert (failures(shell), left(shell)) == ({}, {})
    with closing(sqlite3.connect(tmp_path / "sts_manager_lists.db")) as ledger:
        states = ledger.execute("SELECT kind, state, told FROM job ORDER BY began_at").fetchall()
        assert ledger.execute("SELECT count(*) FROM failure").fetchone() == (0,)
    assert states == [("left_behind", "over", 1), ("left_behind", "ready", 1)]
    with gcs_client(stage) as client:
        assert {blob.name for blob in client.list_blobs(SINK)} == {"p/warm", "p/deep"}, "it writes nothing there"


@pytest.mark.parametrize("route", ["sts-s3", "cdn", "sts-url-list"])
def test_a_prefix_that_matches_nothing_is_told(stage: Stage, tmp_path: Path, route: str) -> None:
    """`log/2024/` for `logs/2024/`."""
    fill(stage, {"logs/2024/1": b"1"})
    shell = loaded(stage, tmp_path, ["logs/2024/", "log/2024/"])
    flags = (*RUN, "--route", route, *(() if route == "sts-s3" else cdn_flags(stage)))
    ran = shell.run(*flags)
    assert ran.code == 1, ran.err
    assert "1 prefix(es) are done and matched no object, 'log/2024/' among them: this attempt found no object under it" in ran.err
    assert [said["prefix"] for said in events(ran, "prefix_empty")] == ["log/2024/"]
    assert [(one["status"], one["code"]) for one in json.loads(shell.run("status", "--json").out)["errors"]] == [
        ("done", "EMPTY")
    ]
    assert "is the prefix written as the keys are?" in " ".join(shell.run("status").out.split())
    assert json.loads(shell.run("query", "empty", "--json").out)[0]["prefix"] == "log/2024/"
    assert shell.run(*flags, "--allow-empty").code == 0
    assert shell.run("rerun", "--all").code == 0
    assert shell.run(*flags, "--allow-empty").code == 0
    assert json.loads(shell.run("status", "--json").out)["errors"] == []
