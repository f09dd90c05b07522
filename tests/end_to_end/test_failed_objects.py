"""Which objects a transfer of the service left behind, and a retry that moves just those."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.commands import BUCKETS, QUICK, Shell
from tests.proofs import sized
from tests.stages import SINK, SOURCE, at_sink, fill, gcs_client, s3_client, wait_for
from tools.emulators.stage import Stage

TRIES_OF_AN_OBJECT = 4
"""The stage's service reads an object so often before it fails."""


KEYS = sized(300, 5000)


def loaded(stage: Stage, folder: Path, prefixes: list[str]) -> Shell:
    shell = Shell(folder, stage.environment)
    (folder / "prefixes.json").write_text(json.dumps(prefixes))
    assert shell.run("prepare-tables", "--job-prefix-source-file", "prefixes.json").code == 0
    return shell


def row(folder: Path, columns: str, prefix: str = "p/") -> Any:
    with closing(sqlite3.connect(folder / "sts_manager.db")) as store:
        return store.execute(f"SELECT {columns} FROM sts_job WHERE prefix = ?", (prefix,)).fetchone()


def fail(stage: Stage, objects: int, after: int = 0) -> None:
    """Let the next so many objects that the service reads fail."""
    rule = {
        "service": "s3",
        "method": "GetObject",
        "error": "InternalError",
        "times": objects * TRIES_OF_AN_OBJECT,
        "after": after,
    }
    stage.ledger.add_rule(rule)


@pytest.mark.slow
def test_a_retry_of_three_failed_keys_of_thousands_transfers_three(stage: Stage, tmp_path: Path) -> None:
    objects = {f"p/{index:04}": b"%d" % index for index in range(KEYS)}
    fill(stage, objects)
    shell = loaded(stage, tmp_path, ["p/"])
    fail(stage, 3, after=100)
    first = shell.run("run", *BUCKETS, *QUICK, "--until-done", "--max-attempts", "1")
    assert first.code == 1, first.err
    assert row(tmp_path, "status, objects_copied, objects_failed") == ("error", KEYS - 3, 3)
    with shell.started("run", *BUCKETS, *QUICK):
        # Whoever starts the daemon again finds the names that the last run had no time for.
        wait_for(lambda: len(json.loads(shell.run("failures", "--json").out)) == 3, seconds=90)
    told = json.loads(shell.run("failures", "p/", "--json").out)
    assert {one["key"] for one in told} == {"p/0100", "p/0101", "p/0102"}
    assert all(one["error"] == "unavailable" and "InternalError" in one["details"] for one in told)
    before = stage.ledger.calls["s3", "GetObject"]
    assert shell.run("retry", "p/").code == 0
    again = shell.run("run", *BUCKETS, *QUICK, "--until-done")
    assert again.code == 0, again.err
    assert stage.ledger.calls["s3", "GetObject"] - before == 3
    assert row(tmp_path, "status, objects_copied, objects_skipped, objects_failed") == ("done", 3, KEYS - 3, 0)
    assert stage.sts is not None
    (job,) = [job for name, job in stage.sts.jobs.items() if name.endswith("-a2")]
    assert job.transfer_spec.transfer_manifest.location.endswith("/manifest.csv")
    with shell.started("run", *BUCKETS, *QUICK):
        wait_for(lambda: "no failed object is known" in shell.run("failures").out)
        wait_for(lambda: at_sink(stage) == objects, seconds=120)  # the manifest is cleared away


def test_an_automatic_retry_waits_for_the_names_and_moves_just_those(stage: Stage, tmp_path: Path) -> None:
    fill(stage, {f"p/{name}": b"x" for name in ("a", 'b"c', "d,e", "f g", "日本")})
    shell = loaded(stage, tmp_path, ["p/"])
    fail(stage, 2, after=1)
    ended = shell.run("run", *BUCKETS, *QUICK, "--until-done")
    assert ended.code == 0, ended.err
    assert row(tmp_path, "status, attempt, objects_copied, objects_skipped, objects_failed") == ("done", 2, 2, 3, 0)
    assert {name for name in at_sink(stage) if not name.startswith(".sts-manager/")} == {
        "p/a",
        'p/b"c',
        "p/d,e",
        "p/f g",
        "p/日本",
    }


@pytest.mark.parametrize("folders", ["fail", "refuse"])
def test_folder_markers_are_in_no_manifest_and_are_not_lost(stage: Stage, tmp_path: Path, folders: str) -> None:
    """A manifest must not name them; so they are copied here, with their metadata, and what is counted adds up."""
    objects = {"p/a": b"1", "p/b": b"2", "p/folder/": b"", "p/folder/deep/": b"a small one", "p/folder/x": b"3"}
    fill(stage, objects)
    with s3_client(stage) as s3:
        s3.put_object(Bucket=SOURCE, Key="p/folder/", Body=b"", ContentType="application/x-directory", Metadata={"who": "me"})
    stage.ledger.change({"sts.manifest_folders": folders})
    shell = loaded(stage, tmp_path, ["p/"])
    fail(stage, 4, after=1)
    ended = shell.run("run", *BUCKETS, *QUICK, "--until-done")
    assert ended.code == 0, ended.err
    assert row(tmp_path, "status, attempt, objects_copied, objects_skipped, objects_failed") == ("done", 2, 2, 3, 0)
    assert {name: body for name, body in at_sink(stage).items() if not name.startswith(".sts-manager/")} == objects
    with gcs_client(stage) as gcs:
        marker = gcs.bucket(SINK).get_blob("p/folder/")
    assert (marker.content_type, marker.metadata["who"]) == ("application/x-directory", "me")
    assert "x-goog-source-etag" in marker.metadata
    assert stage.sts is not None
    (job,) = [job for name, job in stage.sts.jobs.items() if name.endswith("-a2")]
    assert job.transfer_spec.transfer_manifest.location.endswith("/manifest.csv")


def test_where_only_folder_markers_are_missing_there_is_no_manifest(stage: Stage, tmp_path: Path) -> None:
    objects = {"p/a": b"1", "p/folder/": b"", "p/other/": b""}
    fill(stage, objects)
    shell = loaded(stage, tmp_path, ["p/"])
    fail(stage, 2, after=1)
    ended = shell.run("run", *BUCKETS, *QUICK, "--until-done")
    assert ended.code == 0, ended.err
    assert row(tmp_path, "status, attempt, objects_copied, objects_skipped, objects_failed") == ("done", 2, 0, 3, 0)
    assert {name: body for name, body in at_sink(stage).items() if not name.startswith(".sts-manager/")} == objects
    assert stage.sts is not None
    assert not any(job.transfer_spec.transfer_manifest.location for job in stage.sts.jobs.values())


def told_of(shell: Shell) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = json.loads(shell.run("failures", "--json").out)
    return told


def known(told: list[dict[str, Any]]) -> list[str]:
    """The keys whose own cause is told."""
    return sorted(one["key"] for one in told if one["error"] == "unavailable" and "InternalError" in one["details"])


@pytest.mark.parametrize("how", ["compared", "logs alone", "logs denied"])
def test_the_services_log_says_of_each_object_why(stage: Stage, tmp_path: Path, how: str) -> None:
    """Of one code the service gives five samples; its log has all of them, some only after a while."""
    fill(stage, {f"p/{index:02}": b"x" for index in range(12)})
    shell = loaded(stage, tmp_path, ["p/"])
    fail(stage, 8, after=2)
    words = ["--sts-log-failures", "--max-attempts", "1"]
    words += ["--no-sts-find-failures"] if how == "logs alone" else []
    stage.ledger.change({"logging.delay_seconds": 3})
    if how == "logs denied":
        stage.ledger.change({"iam.denied": ["logging.logEntries.list"]})
    with shell.started("run", *BUCKETS, *QUICK, *words) as daemon:
        wait_for(lambda: len(known(told_of(shell))) == (5 if how == "logs denied" else 8), seconds=90)
        daemon.terminate()
        _, err = daemon.communicate(timeout=20)
    told = told_of(shell)
    assert {one["key"] for one in told} == {f"p/{index:02}" for index in range(2, 10)}
    assert ("grant roles/logging.viewer" in err) == (how == "logs denied")
    if how == "compared":
        assert {one["size"] for one in told} == {1}


def test_what_the_log_has_only_after_the_daemon_ended_is_read_by_the_next_one(stage: Stage, tmp_path: Path) -> None:
    fill(stage, {f"p/{index:02}": b"x" for index in range(4)})
    shell = loaded(stage, tmp_path, ["p/"])
    fail(stage, 3, after=1)
    stage.ledger.change({"logging.delay_seconds": 3600})
    words = ["--sts-log-failures", "--no-sts-find-failures"]
    ended = shell.run("run", *BUCKETS, *QUICK, *words, "--max-attempts", "1", "--until-done")
    assert (ended.code, told_of(shell)) == (1, [])
    stage.ledger.log_entries[:] = [(at - 3600, entry) for at, entry in stage.ledger.log_entries]
    with shell.started("run", *BUCKETS, *QUICK, *words):
        wait_for(lambda: known(told_of(shell)) == ["p/01", "p/02", "p/03"], seconds=90)
    assert shell.run("retry", "p/").code == 0
    again = shell.run("run", *BUCKETS, *QUICK, *words, "--until-done")
    assert again.code == 0, again.err
    assert told_of(shell) == []


def test_an_attempt_that_is_tried_again_is_read_as_well(stage: Stage, tmp_path: Path) -> None:
    """Its row names no operation any more when it waits for the next try."""
    fill(stage, {f"p/{index:02}": b"x" for index in range(4)})
    shell = loaded(stage, tmp_path, ["p/"])
    fail(stage, 100)
    words = ["--sts-log-failures", "--no-sts-find-failures", "--max-attempts", "9", "--retry-delay", "600"]
    with shell.started("run", *BUCKETS, *QUICK, *words):
        wait_for(lambda: len(known(told_of(shell))) == 4, seconds=90)
        assert row(tmp_path, "status") == ("waiting",)


def test_a_listing_that_failed_is_the_prefixs_own_cause(stage: Stage, tmp_path: Path) -> None:
    """Such an entry names no object: it was passed over."""
    fill(stage, {"p/x": b"x"})
    shell = loaded(stage, tmp_path, ["p/"])
    stage.ledger.change({"sts.buckets_checked_at": "run"})
    words = ["--sts-log-failures", "--source-bucket", "s3://no-such-bucket"]
    with shell.started("run", *BUCKETS, *words, *QUICK):
        wait_for(lambda: bool(told_of(shell)), seconds=90)
        wait_for(lambda: "could not list s3://no-such-bucket/" in row(tmp_path, "error_message")[0])
    (told,) = told_of(shell)
    assert (told["key"], told["error"]) == ("s3://no-such-bucket/", "permission_denied")
    assert "The specified bucket does not exist" in told["details"]


def test_of_a_cloud_storage_source_the_log_names_the_objects(stage: Stage, tmp_path: Path) -> None:
    with gcs_client(stage) as gcs:
        gcs.create_bucket(SOURCE).blob("p/x").upload_from_string(b"1")
        gcs.create_bucket(SINK)
    stage.ledger.add_rule({"service": "gcs", "method": "xml.put", "error": "UNAVAILABLE"})
    shell = loaded(stage, tmp_path, ["p/"])
    words = ["--source-bucket", f"gs://{SOURCE}", "--destination-bucket", f"gs://{SINK}", "--sts-log-failures"]
    with shell.started("run", *words, *QUICK, "--max-attempts", "1"):
        wait_for(lambda: bool(told_of(shell)), seconds=90)
    (told,) = told_of(shell)
    assert (told["key"], told["error"]) == ("p/x", "unavailable")


@pytest.mark.parametrize("how", ["--no-sts-find-failures", "no credentials"])
def test_without_names_a_retry_moves_the_whole_prefix(stage: Stage, tmp_path: Path, how: str) -> None:
    fill(stage, {f"p/{index}": b"x" for index in range(4)})
    environment = dict(stage.environment)
    words = ["--no-sts-find-failures", "--no-compare"]
    if how == "no credentials":
        words = ["--s3-role-arn", "arn:aws:iam::123456789012:role/stage-reader"]
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            environment.pop(name)
        environment |= {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}
    shell = Shell(tmp_path, environment)
    (tmp_path / "prefixes.json").write_text('["p/"]')
    assert shell.run("prepare-tables", "--job-prefix-source-file", "prefixes.json").code == 0
    fail(stage, 1)
    ended = shell.run("run", *BUCKETS, *QUICK, "--until-done", *words)
    assert ended.code == 0, ended.err
    assert row(tmp_path, "attempt, objects_copied, objects_skipped") == (2, 1, 3)
    assert not (tmp_path / "sts_manager_lists.db").exists()
    assert ("no AWS credentials on this machine" in ended.err) == (how == "no credentials")
