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
from tests.stages import at_sink, fill, wait_for
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


@pytest.mark.parametrize("how", ["compared", "logs alone", "logs denied"])
def test_the_services_log_says_of_each_object_why(stage: Stage, tmp_path: Path, how: str) -> None:
    """Of one code the service gives five samples; its log has all of them."""
    fill(stage, {f"p/{index:02}": b"x" for index in range(12)})
    shell = loaded(stage, tmp_path, ["p/"])
    fail(stage, 8, after=2)
    words = ["--sts-log-failures", "--max-attempts", "1"]
    words += ["--no-sts-find-failures"] if how == "logs alone" else []
    if how == "logs denied":
        stage.ledger.change({"iam.denied": ["logging.logEntries.list"]})
    with shell.started("run", *BUCKETS, *QUICK, *words) as daemon:
        wait_for(lambda: len(json.loads(shell.run("failures", "--json").out)) == 8, seconds=90)
        daemon.terminate()
        _, err = daemon.communicate(timeout=20)
    told = json.loads(shell.run("failures", "--json").out)
    assert {one["key"] for one in told} == {f"p/{index:02}" for index in range(2, 10)}
    known = [one for one in told if one["error"] == "unavailable" and "InternalError" in one["details"]]
    assert len(known) == (5 if how == "logs denied" else 8)
    assert ("grant roles/logging.viewer" in err) == (how == "logs denied")


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
