"""Following what changes at the source after the bulk, as users run it."""

from __future__ import annotations

import json
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.commands import BUCKETS, QUICK, Shell
from tests.stages import SINK, SOURCE, at_sink, fill, s3_client, wait_for
from tools.emulators.gcs.objects import Listing
from tools.emulators.stage import Stage

QUEUE = "arn:aws:sqs:us-east-1:123456789012:changes"
EVENTS = ("--event-queue", QUEUE)


@pytest.fixture
def shell(stage: Stage, tmp_path: Path) -> Shell:
    """Three prefixes that are done."""
    fill(stage, {f"{name}/1": b"one" for name in "abc"})
    stage.ledger.change({"sqs.queues": {QUEUE: SOURCE}})
    made = Shell(tmp_path, stage.environment)
    (tmp_path / "prefixes.json").write_text(json.dumps(["a/", "b/", "c/"]))
    assert made.run("prepare-tables", "--job-prefix-source-file", "prefixes.json").code == 0
    assert made.run("run", *BUCKETS, *QUICK, "--until-done").code == 0
    return made


def rows(shell: Shell, columns: str = "status") -> list[Any]:
    with closing(sqlite3.connect(shell.folder / "sts_manager.db")) as store:
        found = store.execute(f"SELECT {columns} FROM sts_job ORDER BY prefix").fetchall()
        return [row[0] if len(row) == 1 else row for row in found]


def now_at_sink(stage: Stage) -> dict[str, bytes]:
    """In one look: what is read from outside may be replaced between the listing and the reading."""
    return {found.name: found.read() for found in stage.objects.list(SINK, Listing()).objects}


def put(stage: Stage, key: str, body: bytes) -> None:
    with s3_client(stage) as source:
        source.put_object(Bucket=SOURCE, Key=key, Body=body)


def test_what_changes_is_copied_until_it_is_stopped(stage: Stage, shell: Shell) -> None:
    assert "2 set to follow, 0 left as they are" in shell.run("follow", "a/", "b/").out
    assert rows(shell) == ["running", "running", "done"]
    with shell.started("run", *BUCKETS, *QUICK, *EVENTS) as daemon:
        wait_for(lambda: rows(shell, "operation_name")[0] is not None and "-a2" in rows(shell, "operation_name")[0])
        for key, body in (("a/new", b"new"), ("b/1", b"changed"), ("c/other", b"nobody follows this")):
            put(stage, key, body)
        wait_for(lambda: now_at_sink(stage).get("b/1") == b"changed" and "a/new" in now_at_sink(stage))
        wait_for(lambda: rows(shell, "objects_copied")[0] == 2)
        assert rows(shell, "lead") == [None, "a/", None]
        assert "c/other" not in now_at_sink(stage)
        daemon.kill()
    put(stage, "a/meanwhile", b"while nobody looked")
    wait_for(lambda: "a/meanwhile" in now_at_sink(stage))
    with shell.started("run", *BUCKETS, *QUICK, *EVENTS) as daemon:
        wait_for(lambda: rows(shell, "objects_copied")[0] == 3)
        assert "1 paused" in shell.run("pause-all-jobs", "--hold").out
        wait_for(lambda: rows(shell) == ["paused", "paused", "done"])
        assert shell.run("resume-all-jobs").code == 0
        wait_for(lambda: rows(shell) == ["running", "running", "done"])
        again = shell.run("follow", "c/")
        assert (again.code, "one queue serves one transfer job" in again.err) == (2, True)
        stopped = shell.run("follow", "--stop")
        assert stopped.code == 0, stopped.err
        wait_for(lambda: rows(shell) == ["done", "done", "done"])
        put(stage, "a/late", b"too late")
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=20) == 0
    assert "a/late" not in at_sink(stage)
    assert rows(shell) == ["done", "done", "done"], "a deletion of ours is nobody's cancel"
    assert stage.sts is not None
    assert sum("event_stream" in job for job in stage.sts.jobs.values()) == 1
    assert shell.run("follow", "--stop").code == 0
    assert shell.run("rerun", "--all").code == 0
    assert shell.run("run", *BUCKETS, *QUICK, "--until-done").code == 0, "a delta pass is no following"
    assert now_at_sink(stage)["a/late"] == b"too late"
    assert sum("event_stream" in job for job in stage.sts.jobs.values()) == 1
    assert shell.run("follow", "--all").code == 0, "and it can be begun again"


@pytest.mark.parametrize(
    ("words", "code"), [((), "ROUTE_UNFIT"), (("--event-queue", QUEUE.replace("changes", "nobodys")), "PERMISSION_DENIED")]
)
def test_without_a_queue_that_can_be_read_it_ends_in_error(stage: Stage, shell: Shell, words: tuple[str, ...], code: str) -> None:
    assert shell.run("follow", "--all").code == 0
    ended = shell.run("run", *BUCKETS, *QUICK, "--until-done", *words)
    assert ended.code in (1, 3), ended.err
    assert set(rows(shell, "status, error_code, attempt")) == {("error", code, 2)}
    assert shell.run("retry", "--errors").code == 0
    assert shell.run("run", *BUCKETS, *QUICK, "--until-done").code == 0
    assert set(rows(shell, "status, route")) == {("done", "sts-s3")}, "a retry is a transfer like any other"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["follow"], "name prefixes to follow"),
        (["follow", "a/", "--all"], "name prefixes to follow"),
        (["run", "--event-queue", "arn:aws:sns:us-east-1:123456789012:x"], "is not like arn:aws:sqs"),
        (["run", "--event-queue", QUEUE, "--source-bucket", "gs://elsewhere"], "is for an S3 source"),
        (["route", "a/", "sts-follow"], "'sts-follow' is no route"),
    ],
)
def test_wrong_words_are_named(shell: Shell, words: list[str], told: str) -> None:
    ran = shell.run(*words, *(BUCKETS if words[0] == "run" and "--source-bucket" not in words else ()))
    assert (ran.code, told in ran.err) == (2, True), ran.err


def test_a_prefix_that_is_not_done_is_left_as_it_is(shell: Shell) -> None:
    ran = shell.run("follow", "nowhere/")
    assert (ran.code, "it is not done, or not in the table" in ran.out) == (1, True)
