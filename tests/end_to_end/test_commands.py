"""What a user types, and what they read. Wrong input included."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.end_to_end.commands import BUCKETS, QUICK, Shell
from tests.stages import SINK, SOURCE, at_sink, fill, wait_for
from tools.emulators.stage import KEYS, Stage

STORE = "sqlite:///sts_manager.db"


@pytest.fixture
def shell(stage: Stage, tmp_path: Path) -> Shell:
    return Shell(tmp_path, stage.environment)


def prepared(shell: Shell, *prefixes: str) -> None:
    (shell.folder / "prefixes.json").write_text(json.dumps(prefixes))
    ran = shell.run("prepare-tables", "--job-prefix-source-file", "prefixes.json")
    assert ran.code == 0, ran.err


def status(shell: Shell) -> dict:  # type: ignore[type-arg]
    ran = shell.run("status", "--json")
    assert ran.code == 0, ran.err
    found: dict = json.loads(ran.out)  # type: ignore[type-arg]
    return found


def test_from_a_file_of_prefixes_to_objects(stage: Stage, shell: Shell) -> None:
    objects = {f"p{index}/x": b"x" * index for index in range(4)}
    fill(stage, objects)
    prepared(shell, *(f"p{index}/" for index in range(4)))
    again = shell.run("prepare-tables", "--job-prefix-source-file", "prefixes.json")
    assert "0 prefixes added, 4 were there already" in again.out
    planned = shell.run("run", *BUCKETS, "--dry-run")
    assert "StartJob         p0/" in planned.out
    assert status(shell)["counts"]["waiting"] == 4
    ran = shell.run("run", *BUCKETS, *QUICK, "--until-done")
    assert ran.code == 0, ran.err
    assert at_sink(stage) == objects
    lines = [json.loads(line) for line in ran.err.splitlines()]
    assert {"settings", "lease_taken", "job_started", "prefix_done", "pass", "ended"} <= {line["message"] for line in lines}
    assert KEYS.secret not in ran.err + ran.out
    assert KEYS.secret.encode() not in (shell.folder / "sts_manager.db").read_bytes()
    found = status(shell)
    assert (found["counts"]["done"], found["totals"]["objects_copied"]) == (4, 4)
    assert "not running" in found["health"]
    table = shell.run("status")
    assert "every prefix has ended" in table.out
    told = json.loads(shell.run("history", "p1/", "--json").out)
    assert [event["status"] for event in told][-1] == "done"
    assert told[-1]["operation_results"]["transferSpec"]["awsS3DataSource"]["bucketName"] == SOURCE
    assert "p1/" in shell.run("history", "p1/").out
    removed = shell.run("remove-successful-one-time-jobs", "--dry-run")
    assert "4 would be removed" in removed.out
    assert "4 removed" in shell.run("remove-successful-one-time-jobs").out
    # The older tool's query for failures works on the table as it is.
    with sqlite3.connect(shell.folder / "sts_manager.db") as connection:
        assert connection.execute("SELECT * FROM sts_job_history WHERE status = 'error'").fetchall() == []
    connection.close()


def test_errors_end_with_1_and_are_explained_and_retried(stage: Stage, shell: Shell) -> None:
    fill(stage, {"good/x": b"1", "bad/new\nline": b"2"})
    prepared(shell, "good/", "bad/")
    ran = shell.run("run", *BUCKETS, *QUICK, "--until-done", "--max-attempts", "2")
    assert ran.code == 1
    found = status(shell)
    (group,) = found["errors"]
    assert (group["code"], group["prefixes"], group["example"]) == ("INVALID_ARGUMENT", 1, "bad/")
    assert "gave up after 2 attempts" in group["message"]
    assert "INVALID_ARGUMENT" in shell.run("status").out
    assert "no such prefix" in shell.run("retry", "ghost/").out
    assert "it is done" in shell.run("retry", "good/").out
    assert "1 set to retry" in shell.run("retry", "--errors", "--code", "INVALID_ARGUMENT").out
    assert status(shell)["counts"]["waiting"] == 1
    assert shell.run("run", *BUCKETS, *QUICK, "--until-done", "--no-retry-on-job-error").code == 1
    assert len(json.loads(shell.run("history", "bad/", "--json").out)) >= 6


def test_pause_hold_and_resume(stage: Stage, shell: Shell) -> None:
    fill(stage, {f"p/{index}": b"x" for index in range(30)})
    stage.ledger.change({"sts.objects_per_second": 4})
    prepared(shell, "p/", "q/")
    with shell.started("run", *BUCKETS, *QUICK, "--until-done", "--max-concurrent-jobs", "1", "--allow-empty") as daemon:
        wait_for(lambda: status(shell)["totals"]["objects_copied"] > 0)
        assert "1 would be paused" in shell.run("pause-all-jobs", "--dry-run").out
        held = shell.run("pause-all-jobs", "--hold", "--reason", "egress bill")
        assert "held: nothing starts" in held.out
        wait_for(lambda: status(shell)["counts"]["paused"] == 1)
        assert status(shell)["hold"]["reason"] == "egress bill"
        assert "HELD by" in shell.run("status").out
        stage.ledger.change({"sts.objects_per_second": 0})
        assert shell.run("resume-all-jobs").code == 0
        assert daemon.wait(timeout=30) == 0
    assert status(shell)["counts"]["done"] == 2
    assert len(at_sink(stage)) == 30


def test_the_doctor_before_the_first_byte(stage: Stage, shell: Shell) -> None:
    fill(stage, {"p/1": b"x"})
    prepared(shell, "p/")
    well = shell.run("doctor", *BUCKETS, "--prefix", "p/")
    assert (well.code, "0 fail" in well.out) == (0, True), well.out
    stage.ledger.change({"apis.disabled": ["storagetransfer.googleapis.com"]})
    ill = shell.run("doctor", *BUCKETS)
    assert ill.code == 1
    assert "→ gcloud services enable storagetransfer.googleapis.com" in ill.out
    found = json.loads(shell.run("doctor", *BUCKETS, "--json").out)
    assert [one["check"] for one in found if one["level"] == "fail"] == ["Storage Transfer API"]
    assert at_sink(stage) == {}


def test_a_cancelled_transfer_stays_so_until_it_is_retried(stage: Stage, shell: Shell) -> None:
    fill(stage, {f"p/{index}": b"x" for index in range(60)})
    stage.ledger.change({"sts.objects_per_second": 2})
    prepared(shell, "p/")
    with shell.started("run", *BUCKETS, *QUICK, "--until-done") as daemon:
        wait_for(lambda: status(shell)["totals"]["objects_copied"] > 0)
        assert "1 cancelled" in shell.run("cancel", "p/").out
        assert daemon.wait(timeout=30) == 1
    again = shell.run("cancel", "p/")
    assert (again.code, "nothing to cancel" in again.out) == (1, True)
    assert "CANCELLED" in shell.run("status").out
    stage.ledger.change({"sts.objects_per_second": 0})
    assert shell.run("retry", "p/").code == 0
    assert shell.run("run", *BUCKETS, *QUICK, "--until-done").code == 0
    assert len(at_sink(stage)) == 60


def test_a_pause_without_hold_is_resumed_by_the_daemon(stage: Stage, shell: Shell) -> None:
    fill(stage, {f"p/{index}": b"x" for index in range(60)})
    stage.ledger.change({"sts.objects_per_second": 2})
    prepared(shell, "p/")
    with shell.started("run", *BUCKETS, *QUICK, "--until-done") as daemon:
        wait_for(lambda: status(shell)["totals"]["objects_copied"] > 0)
        assert "1 paused" in shell.run("pause-all-jobs").out
        stage.ledger.change({"sts.objects_per_second": 0})
        assert daemon.wait(timeout=30) == 0
    assert len(at_sink(stage)) == 60


def test_sigterm_ends_with_0_and_the_next_run_goes_on(stage: Stage, shell: Shell) -> None:
    fill(stage, {f"p{index}/x": b"x" for index in range(6)})
    stage.ledger.change({"sts.objects_per_second": 3})
    prepared(shell, *(f"p{index}/" for index in range(6)))
    with shell.started("run", *BUCKETS, *QUICK) as daemon:
        wait_for(lambda: status(shell)["counts"]["done"] > 0)
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=20) == 0
    stage.ledger.change({"sts.objects_per_second": 0})
    assert shell.run("run", *BUCKETS, *QUICK, "--until-done").code == 0
    assert stage.sts is not None
    assert len(stage.sts.jobs) == 6


def test_a_second_signal_ends_at_once(stage: Stage, shell: Shell) -> None:
    fill(stage, {"p/x": b"x"})
    stage.ledger.add_rule({"service": "sts", "method": "CreateTransferJob", "delay_s": 5})
    prepared(shell, "p/")
    with shell.started("run", *BUCKETS, *QUICK) as daemon:
        wait_for(lambda: "sts" in stage.ledger.report())
        daemon.send_signal(signal.SIGTERM)
        time.sleep(0.2)  # two signals sent at once may arrive as one
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=20) == 130
    assert shell.run("run", *BUCKETS, *QUICK, "--until-done").code == 0
    assert stage.sts is not None
    assert len(stage.sts.jobs) == 1


@pytest.mark.parametrize("address", [STORE, "bigquery"])
def test_two_daemons_on_one_store(stage: Stage, tmp_path: Path, address: str) -> None:
    shell = Shell(tmp_path, stage.environment | {"STS_MANAGER_STORE": address})
    fill(stage, {"p/x": b"x"})
    stage.ledger.change({"sts.operations_in_progress_max": 0})
    prepared(shell, "p/")
    with shell.started("run", *BUCKETS, *QUICK) as first:
        wait_for(lambda: status(shell)["counts"]["running"] == 1)
        once = shell.run("run", *BUCKETS, "--once")
        assert once.code == 3
        assert f"(pid {first.pid}) runs on this store" in once.err
        with shell.started("run", *BUCKETS, *QUICK) as second:
            assert second.stderr is not None
            lines = iter(second.stderr.readline, "")
            waiting = next(json.loads(line) for line in lines if "waiting_for_lease" in line)
            assert f"pid {first.pid}" in waiting["holder"]
            first.kill()
            first.wait()
            taken = next(json.loads(line) for line in lines if "lease_taken" in line)
            assert taken["epoch"] == 2
            second.send_signal(signal.SIGTERM)
            assert second.wait(timeout=20) == 0
    assert stage.sts is not None
    assert len(stage.sts.jobs) == 1


def test_the_service_away_at_start_and_in_the_middle(stage: Stage, shell: Shell) -> None:
    fill(stage, {"p/x": b"x", "q/x": b"x"})
    prepared(shell, "p/", "q/")
    away = shell.run("run", *BUCKETS, *QUICK, "--once", more={"STORAGE_TRANSFER_EMULATOR_HOST": "127.0.0.1:1"})
    assert away.code == 3
    assert "refused  p/: UNAVAILABLE: create_transfer_job" in away.err
    stage.ledger.add_rule({"service": "sts", "method": "ListOperations", "error": "UNAVAILABLE", "times": 3})
    ran = shell.run("run", *BUCKETS, *QUICK, "--until-done")
    assert ran.code == 0
    assert "degraded" in ran.err
    assert "recovered" in ran.err
    assert stage.sts is not None
    assert len(stage.sts.jobs) == 2


def test_a_run_until_done_that_is_stopped_before_is_not_taken_for_done(stage: Stage, shell: Shell) -> None:
    fill(stage, {"p/x": b"x", "q/x": b"x"})
    stage.ledger.change({"sts.operations_in_progress_max": 0})
    prepared(shell, "p/", "q/")
    with shell.started("run", *BUCKETS, *QUICK, "--until-done", "--max-concurrent-jobs", "1") as daemon:
        wait_for(lambda: status(shell)["counts"]["running"] == 1)
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=30) == 4
        assert daemon.stderr is not None
        assert "stopped before the end: 1 waiting, 1 running. Run the same command again" in daemon.stderr.read()
    stage.ledger.change({"sts.operations_in_progress_max": 200})
    stage.sts._admit()  # type: ignore[union-attr]
    assert shell.run("run", *BUCKETS, *QUICK, "--until-done").code == 0


def test_the_store_locked_in_the_middle(stage: Stage, shell: Shell) -> None:
    fill(stage, {"p/x": b"x"})
    stage.ledger.change({"sts.operations_in_progress_max": 0})
    prepared(shell, "p/")
    with shell.started("run", *BUCKETS, *QUICK, "--until-done") as daemon:
        wait_for(lambda: status(shell)["counts"]["running"] == 1)
        other = sqlite3.connect(shell.folder / "sts_manager.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert daemon.stderr is not None
        assert any("degraded" in line and "is locked" in line for line in iter(daemon.stderr.readline, ""))
        assert any("store_unreachable_polling_on" in line for line in iter(daemon.stderr.readline, ""))
        other.execute("ROLLBACK")
        other.close()
        stage.ledger.change({"sts.operations_in_progress_max": 200})
        stage.sts._admit()  # type: ignore[union-attr]
        assert any("recovered" in line for line in iter(daemon.stderr.readline, ""))
        assert daemon.wait(timeout=30) == 0


WRONG = [
    (["status"], 3, "there is no store at"),
    (["run", "--source-bucket", "s3://a-bucket"], 3, "there is no store at"),
    (["frobnicate"], 2, "No such command"),
    (["run", "--max-concurent-jobs", "3"], 2, "No such option"),
    (["prepare-tables", "--job-prefix-source-file", "nowhere.json"], 2, "nowhere.json"),
    (["prepare-tables", "--store", "sqlite:////nowhere/x.db"], 2, "the folder /nowhere does not exist"),
    (["prepare-tables", "--store", "sqlite:////proc/x.db"], 3, "cannot be written"),
    (["status", "--store", "nonsense"], 2, "is not a store address"),
    (["retry"], 2, "name prefixes to retry"),
    (["status", "--store", "bigquery://project"], 2, "is written bigquery, or bigquery://PROJECT/DATASET"),
    (["status", "--store", "bigquery", "--dataset", "my-data"], 2, "--dataset: 'my-data' is not a dataset's name"),
    (["status", "--store", "bigquery://Project/data"], 2, "'Project' is not a project's id"),
    (
        ["doctor", "--prefix", "p/", "--source-bucket", "gs://a-bucket", "--project", "my-project"],
        2,
        "--prefix is for an S3 source",
    ),
    (
        ["doctor", "--route", "sts-url-list", "--source-bucket", "s3://a-bucket", "--project", "my-project"],
        2,
        "--cdn-url is missing",
    ),
    (["doctor", "--scan-max", "0"], 2, "--scan-max"),
    (["health"], 2, "--health-file: name the file"),
    (["health", "--health-file", "nowhere"], 1, "unhealthy: nowhere does not exist"),
    (["query", "nope"], 2, "there is no query 'nope'"),
    (["run", "--job-interval", "5"], 2, "--job-interval is 5 s, less than --sleep-timeout (default) of 60 s"),
    (["run", "--source-bucket", "b-ucket", "--destination-bucket", "b-ucket"], 2, "are one place"),
]


@pytest.mark.parametrize(("words", "code", "told"), WRONG)
def test_wrong_input_gets_one_clear_message(tmp_path: Path, words: list[str], code: int, told: str) -> None:
    ran = Shell(tmp_path, {"GOOGLE_CLOUD_PROJECT": "p"}).run(*words)
    assert told in ran.err
    assert "Traceback" not in ran.err
    assert ran.code == code


def test_wrong_environment_and_file(shell: Shell) -> None:
    typo = shell.run("status", more={"STS_MANAGER_STOER": STORE})
    assert (typo.code, "did you mean STS_MANAGER_STORE?" in typo.err) == (2, True)
    (shell.folder / "config.json").write_text('{"job-tabel": "x"}')
    file = shell.run("status", "--config-path", "config.json")
    assert (file.code, "unknown setting 'job-tabel' in config.json; did you mean 'job-table'?" in file.err) == (2, True)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"AWS_SECRET_ACCESS_KEY": ""}, "s3://source-bucket needs credentials: --s3-role-arn"),
        ({"AWS_SESSION_TOKEN": "x"}, "AWS_SESSION_TOKEN is set: these keys are temporary"),
    ],
)
def test_missing_credentials(shell: Shell, more: dict[str, str], told: str) -> None:
    prepared(shell, "p/")
    ran = shell.run("run", *BUCKETS, more=more)
    assert (ran.code, told in ran.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "more", "told"),
    [
        (["--destination-bucket", "gs://no-such-bucket"], {}, "add-iam-policy-binding gs://no-such-bucket"),
        (["--source-bucket", "s3://no-such-bucket"], {}, "s3:GetObject on s3://no-such-bucket"),
        ([], {"AWS_SECRET_ACCESS_KEY": "wrong-secret"}, "request signature we calculated does not match"),
        ([], {"GOOGLE_CLOUD_PROJECT": "another"}, "does not have permission on project 'another'"),
    ],
)
def test_what_cannot_go_on_ends_with_3_names_the_cause_and_loses_nothing(
    stage: Stage, shell: Shell, words: list[str], more: dict[str, str], told: str
) -> None:
    fill(stage, {"p/x": b"x"})
    prepared(shell, "p/")
    ran = shell.run("run", *BUCKETS, *words, *QUICK, "--until-done", more=more)
    assert ran.code == 3
    assert told in ran.err.splitlines()[-1]
    assert "wrong-secret" not in ran.err
    found = status(shell)
    assert (found["counts"]["waiting"], told in found["breaker"]["message"]) == (1, True)
    # Mended, the next run goes on at once: it waits for no probe, and a mistyped bucket binds nothing.
    mended = shell.run("run", *BUCKETS, *QUICK, "--until-done")
    assert mended.code == 0, mended.err
    found = status(shell)
    assert (found["counts"]["done"], found["breaker"], found["source"]) == (1, None, f"s3://{SOURCE}")


def test_a_store_belongs_to_its_buckets(stage: Stage, shell: Shell) -> None:
    fill(stage, {"p/x": b"x"})
    prepared(shell, "p/")
    assert shell.run("run", *BUCKETS, *QUICK, "--until-done").code == 0
    other = shell.run("run", "--source-bucket", f"s3://{SOURCE}", "--destination-bucket", "gs://other-bucket")
    assert (other.code, f"belongs to a migration with gs://{SINK}" in other.err) == (2, True)


def test_overlapping_prefixes_are_refused_against_the_table_too(shell: Shell) -> None:
    prepared(shell, "a/b/", "c/")
    (shell.folder / "prefixes.json").write_text('["a/", "d/"]')
    ran = shell.run("prepare-tables", "--job-prefix-source-file", "prefixes.json")
    assert (ran.code, "'a/' overlaps with 'a/b/'" in ran.err) == (2, True)
    assert status(shell)["counts"]["waiting"] == 2


@pytest.mark.parametrize("script", ["sts_job_manager", "prepare_tables", "pause_all_jobs", "remove_successful_one_time_jobs"])
def test_the_older_tools_scripts_are_there(script: str) -> None:
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, str(root / "tools" / f"{script}.py"), "--help"], capture_output=True, text=True, check=False, cwd=root
    )
    assert ran.returncode == 0
    assert "--job-table" in ran.stdout


def test_bigquery_away_in_the_middle(stage: Stage, tmp_path: Path) -> None:
    """The daemon says degraded, polls on, starts nothing, tells Monitoring, and recovers by itself."""
    shell = Shell(tmp_path, stage.environment | {"STS_MANAGER_STORE": "bigquery"})
    fill(stage, {"p/x": b"x", "q/x": b"x"})
    stage.ledger.change({"sts.operations_in_progress_max": 0, "monitoring.sampling_seconds": 0})
    prepared(shell, "p/", "q/")
    with shell.started("run", *BUCKETS, *QUICK, "--until-done", "--max-concurrent-jobs", "1", "--publish-heartbeat") as daemon:
        wait_for(lambda: status(shell)["counts"]["running"] == 1)
        stage.ledger.add_rule({"service": "bigquery", "method": "*", "error": "UNAVAILABLE", "times": 0})
        assert daemon.stderr is not None
        assert any("degraded" in line and "Service unavailable" in line for line in iter(daemon.stderr.readline, ""))
        assert any("store_unreachable_polling_on" in line for line in iter(daemon.stderr.readline, ""))
        stage.ledger.change({"sts.operations_in_progress_max": 200})
        stage.sts._admit()  # type: ignore[union-attr]
        wait_for(lambda: at_sink(stage) == {"p/x": b"x"})
        jobs = stage.ledger.report()["sts"]["CreateTransferJob"]
        stage.ledger.rules.clear()
        assert any("recovered" in line for line in iter(daemon.stderr.readline, ""))
        assert jobs == 1, "nothing new started meanwhile"
        assert daemon.wait(timeout=40) == 0
    assert at_sink(stage) == {"p/x": b"x", "q/x": b"x"}
