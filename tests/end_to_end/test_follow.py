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
        assert shell.run("pause-all-jobs", "--hold").code == 0
        wait_for(lambda: rows(shell) == ["paused", "paused", "done"])
        assert shell.run("resume-all-jobs").code == 0
        wait_for(lambda: rows(shell) == ["running", "running", "done"])
        again = shell.run("follow", "c/", *EVENTS)
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


def test_without_a_queue_followed_prefixes_are_left_alone(stage: Stage, shell: Shell) -> None:
    assert shell.run("follow", "--all").code == 0
    ended = shell.run("run", *BUCKETS, *QUICK, "--until-done")
    assert ended.code == 1, "what was asked for is not so"
    assert ended.err.count("start_refused") == 1
    assert "3 prefixes are followed" in ended.err
    assert set(rows(shell, "status, error_code, attempt")) == {("running", "EVENT_QUEUE_MISSING", 2)}
    assert "start the daemon with --event-queue" in shell.run("status", "--json").out
    ended = shell.run("run", *BUCKETS, *QUICK, *EVENTS, "--until-done")
    assert ended.code == 0, ended.err
    assert "3 prefixes are followed: the transfer service goes on with that" in ended.err
    assert set(rows(shell, "status, error_code")) == {("running", "")}
    put(stage, "a/new", b"nobody looks")
    wait_for(lambda: "a/new" in now_at_sink(stage))


def test_a_queue_that_cannot_be_read_is_named_and_ended_by_command(stage: Stage, shell: Shell) -> None:
    assert shell.run("follow", "--all").code == 0
    nobodys = ("--event-queue", QUEUE.replace("changes", "nobodys"))
    ended = shell.run("run", *BUCKETS, *QUICK, *nobodys, "--until-done")
    assert ended.code == 1, ended.err
    assert set(rows(shell, "status, error_code, attempt")) == {("running", "PERMISSION_DENIED", 2)}
    assert "the queue cannot be read" in shell.run("status", "--json").out
    assert shell.run("follow", "--stop").code == 0
    assert shell.run("rerun", "--all").code == 0
    assert shell.run("run", *BUCKETS, *QUICK, "--until-done").code == 0
    assert set(rows(shell, "status, route")) == {("done", "sts-s3")}, "a delta pass is a transfer like any other"


def quiet(shell: Shell) -> Shell:
    """Nobody reads what a daemon logs while it runs: what it says of each pass would fill the pipe."""
    return Shell(shell.folder, {**shell.environment, "LOGLEVEL": "WARNING"})


def break_source(stage: Stage, objects: int) -> None:
    """So many objects cannot be read, as often as the service tries one."""
    stage.ledger.add_rule({"service": "s3", "method": "GetObject", "error": "InternalError", "times": 4 * objects})


@pytest.mark.parametrize("end", ["FAILED", "SUCCESS"])
def test_days_go_by_and_what_fails_is_brought_by_a_manifest(stage: Stage, shell: Shell, end: str) -> None:
    assert stage.sts is not None
    stage.ledger.change({"sts.failed_objects_end": end})
    assert shell.run("follow", "a/", "b/").code == 0
    with quiet(shell).started("run", *BUCKETS, *QUICK, *EVENTS, "--sts-log-failures") as daemon:
        wait_for(lambda: set(rows(shell, "operation_name IS NOT NULL")[:2]) == {1})
        break_source(stage, 7)
        for index in range(7):
            put(stage, f"b/{index}", b"changed")
        wait_for(lambda: rows(shell, "objects_failed")[0] == 7)
        put(stage, "a/good", b"good")
        wait_for(lambda: rows(shell, "objects_copied")[0] == 1)
        stage.ledger.change({"sts.follow_operation_seconds": 1.0})
        wait_for(lambda: len({name for name, job in stage.sts.operations.items() if "-a2-" in name}) > 3)  # type: ignore[union-attr]
        wait_for(lambda: {f"b/{index}" for index in range(7)} <= set(now_at_sink(stage)))
        wait_for(lambda: rows(shell, "objects_failed")[0] == 0, seconds=120)
        wait_for(lambda: "no failed object is known" in shell.run("failures").out, seconds=120)
        put(stage, "a/late", b"still followed")
        wait_for(lambda: "a/late" in now_at_sink(stage))
        daemon.terminate()
        _, err = daemon.communicate(timeout=20)
    assert rows(shell) == ["running", "running", "done"]
    assert "followed_objects_failed" in err
    repairs = [job for name, job in stage.sts.jobs.items() if "-r" in name]
    assert len(repairs) == 1
    assert repairs[0].transfer_spec.transfer_manifest.location.endswith("/manifest.csv")
    with closing(sqlite3.connect(shell.folder / "sts_manager.db")) as store:
        counted = store.execute(
            "SELECT objects_copied FROM sts_job_history WHERE prefix = 'a/' AND attempt = 2 ORDER BY generation"
        )
        copied = [row[0] for row in counted]
        known = store.execute("SELECT DISTINCT status FROM sts_job_history WHERE attempt = 2").fetchall()
    assert copied == sorted(copied), "counters never go back"
    assert known == [("running",)]


def test_what_stays_failed_is_named_with_its_day_and_brought_after_the_stop(stage: Stage, shell: Shell) -> None:
    assert shell.run("follow", "a/", "b/").code == 0
    with quiet(shell).started("run", *BUCKETS, *QUICK, *EVENTS, "--max-attempts", "2"):
        wait_for(lambda: set(rows(shell, "operation_name IS NOT NULL")[:2]) == {1})
        break_source(stage, 1000)
        put(stage, "b/bad", b"bad")
        wait_for(lambda: rows(shell, "objects_failed")[0] == 1)
        stage.ledger.change({"sts.follow_operation_seconds": 1.0})
        wait_for(lambda: "given up" in rows(shell, "error_message")[1], seconds=120)
        assert rows(shell, "status, error_code")[:2] == [("running", ""), ("running", "FOLLOWED_OBJECTS_FAILED")]
        wait_for(lambda: len(json.loads(shell.run("failures", "--json").out)) == 1)
        (told,) = json.loads(shell.run("failures", "b/", "--json").out)
        assert (told["key"], told["error"]) == ("b/bad", "unavailable")
        assert "transferOperations/" in told["details"]
        assert told["details"].startswith("20")
        assert "1 object of 20" in shell.run("status", "--json").out
        stage.ledger.rules.clear()
        assert shell.run("follow", "--stop").code == 0
        assert rows(shell) == ["error", "error", "done"], "also who shared the job in which objects failed"
        assert shell.run("retry", "--errors").code == 0
        wait_for(lambda: rows(shell) == ["done"] * 3)
        assert now_at_sink(stage)["b/bad"] == b"bad"
        wait_for(lambda: "no failed object is known" in shell.run("failures").out)


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
