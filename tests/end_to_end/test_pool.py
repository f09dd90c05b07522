"""The worker pool as users run it: the daemon, its workers and the commands as processes, the clouds as the stage."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sqlite3
import urllib.request
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cdn_worker.protocol.codec import encoded
from cdn_worker.protocol.messages import CopyTask, Item, JobSpec, ListTask
from cdn_worker.queues.sqlite import sqlite_queues
from tests.end_to_end.commands import BUCKETS, QUICK, Ran, Shell
from tests.proofs import sized
from tests.stages import SINK, SOURCE, at_sink, fill, gcs_client, s3_client, wait_for
from tools.emulators.stage import Stage
from tools.pool_storm import Storm, bodies, rage
from tools.pool_storm import fill as fill_storm

OBJECTS = {f"{prefix}/{index:03}": f"{prefix} {index}".encode() * 20 for prefix in ("a", "b", "c") for index in range(60)}


def cdn_flags(stage: Stage) -> list[str]:
    words = ["--cdn-url", f"http://{stage.environment['CDN_EMULATOR_HOST']}/{SOURCE}/"]
    words += ["--cdn-key-pair-id", stage.environment["CDN_KEY_PAIR_ID"]]
    return [*words, "--cdn-private-key-file", stage.environment["CDN_PRIVATE_KEY_FILE"]]


class Pool:
    """A store, a folder and a stage; `worker`: the words of a `cdn-worker run` at the daemon's queue."""

    def __init__(self, stage: Stage, folder: Path, prefixes: Sequence[Any] = ("a/", "b/", "c/")) -> None:
        self.stage, self.folder = stage, folder
        self.shell = Shell(folder, stage.environment)
        self.workers = Shell(folder, stage.environment, "cdn_worker")
        self.flags = [*BUCKETS, *QUICK, *cdn_flags(stage), "--queue-lease", "5"]
        self.worker = ["run", "--queue", "sqlite:///sts_manager_queue.db", "--processes", "1", "--lease", "5", *cdn_flags(stage)]
        (folder / "prefixes.json").write_text(json.dumps(list(prefixes)))
        loaded = self.shell.run("prepare-tables", "--job-prefix-source-file", "prefixes.json")
        assert loaded.code == 0, loaded.err

    def run(self, *words: str) -> Ran:
        return self.shell.run("run", *self.flags, "--workers", "1", "--until-done", *words)

    def rows(self, columns: str = "prefix, status") -> dict[str, Any]:
        with closing(sqlite3.connect(self.folder / "sts_manager.db")) as store:
            return {row[0]: row[1] if len(row) == 2 else row[1:] for row in store.execute(f"SELECT {columns} FROM sts_job")}

    def ledger(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(self.folder / "sts_manager_pool.db", timeout=10)) as ledger:
            return ledger.execute(query).fetchall()

    def reads(self) -> int:
        return self.stage.ledger.calls["cdn", "GET"]


@pytest.mark.slow
def test_a_storm_leaves_every_prefix_done_and_every_object_there(stage: Stage, tmp_path: Path) -> None:
    storm = Storm(prefixes=10, objects=sized(200, 300), workers=2, kill_every_s=2, kills_max=sized(2, 4), delay_s=0.3)
    objects = bodies(storm)
    fill_storm(stage, objects)
    result = rage(storm, stage, tmp_path, objects)
    assert result.code == 0
    assert result.wrong == []
    assert result.statuses == {"done": 10}
    assert result.counters["objects_copied"] + result.counters["objects_skipped"] == len(objects)
    assert result.counters["objects_failed"] == 0
    assert result.kills > 0, "workers must be killed at work to prove anything"
    assert result.faults > 0, "and the CDN must fail"
    assert result.left == 0, "nothing of a finished prefix is left in the ledger"


def test_both_routes_run_side_by_side_and_are_paused_and_resumed_together(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    pool = Pool(stage, tmp_path, ["a/", {"prefix": "b/", "route": "sts-s3"}, {"prefix": "c/", "route": "cdn"}])
    stage.ledger.change({"sts.objects_per_second": 20})
    words = ["run", *pool.flags, "--workers", "0", "--max-concurrent-jobs", "1", "--max-concurrent-cdn-jobs", "2"]
    with pool.shell.started(*words) as daemon:
        wait_for(lambda: set(pool.rows().values()) == {"running"})
        assert pool.rows("prefix, route") == {"a/": "cdn", "b/": "sts-s3", "c/": "cdn"}
        paused = pool.shell.run("pause-all-jobs", "--hold", "--reason", "by a test")
        assert paused.code == 0, paused.err  # the daemon, which sees the hold, may be quicker with some of them
        wait_for(lambda: set(pool.rows().values()) == {"paused"})
        with pool.workers.started(*pool.worker, "--health-port", "0"):
            # The worker comes while all is paused: what it claims, it hands back.
            wait_for(lambda: len(pool.ledger("SELECT * FROM parked")) == 2)
            assert pool.reads() == 0
            resumed = pool.shell.run("resume-all-jobs")
            assert resumed.code == 0, resumed.err
            stage.ledger.change({"sts.objects_per_second": 0})
            wait_for(lambda: set(pool.rows().values()) == {"done"}, seconds=30)
        assert pool.ledger("SELECT * FROM parked") == []
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=20) == 0
    assert at_sink(stage) == OBJECTS


def test_small_prefixes_do_not_wait_for_the_next_dispatch(stage: Stage, tmp_path: Path) -> None:
    """At the intervals that come by themselves: one was begun each 20 minutes, at most 20, while the workers stood idle (M2)."""
    few = {f"{prefix:02}/a": b"%d" % prefix for prefix in range(30)}
    fill(stage, few)
    pool = Pool(stage, tmp_path, [f"{prefix:02}/" for prefix in range(30)])
    words = [*BUCKETS, "--route", "cdn", *cdn_flags(stage), "--workers", "1", "--until-done"]
    ran = pool.shell.run("run", *words)
    assert ran.code == 0, ran.err
    assert at_sink(stage) == few


def test_only_the_failed_keys_are_tried_again(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    with gcs_client(stage) as client:
        for key in ("a/007", "a/011"):
            client.bucket(SINK).blob(key).upload_from_string(b"somebody else's")
    pool = Pool(stage, tmp_path)
    first = pool.run()
    assert first.code == 1, first.err
    assert pool.rows() == {"a/": "error", "b/": "done", "c/": "done"}
    assert pool.rows("prefix, attempt") == {"a/": 1, "b/": 1, "c/": 1}, "another attempt would only have met the same"
    assert pool.rows("prefix, error_code, objects_copied, objects_failed")["a/"] == ("EXISTS", 58, 2)
    told = json.loads(pool.shell.run("failures", "--json").out)
    assert [(one["prefix"], one["key"], one["error"]) for one in told] == [("a/", "a/007", "exists"), ("a/", "a/011", "exists")]
    shown = pool.shell.run("failures", "a/")
    assert "exists (2): another object has its name" in shown.out
    assert "a/007" in pool.shell.run("query", "failed_objects").out
    assert pool.shell.run("failures", "nowhere/").code == 2
    with gcs_client(stage) as client:
        for key in ("a/007", "a/011"):
            client.bucket(SINK).blob(key).delete()
    before, listed = pool.reads(), stage.ledger.calls["s3", "ListObjectsV2"]
    assert pool.shell.run("retry", "a/").code == 0
    again = pool.run()
    assert again.code == 0, again.err
    assert pool.reads() - before == 3, "two objects, and the canary before them"
    assert stage.ledger.calls["s3", "ListObjectsV2"] - listed <= 2, "each by its own name"
    counted = pool.rows("prefix, status, objects_copied, objects_skipped, objects_failed")["a/"]
    assert counted == ("done", 2, 58, 0)
    assert at_sink(stage) == OBJECTS
    assert pool.ledger("SELECT * FROM failure") == []
    wait_for(lambda: "no failed object is known" in pool.shell.run("failures").out)


def test_a_delta_pass_moves_what_is_new_or_changed_and_nothing_else(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    pool = Pool(stage, tmp_path)
    assert pool.run().code == 0
    changes = {f"a/{index:03}": b"changed" * index for index in range(1, 6)} | {f"b/new {index}": b"new" for index in range(3)}
    with s3_client(stage) as s3:
        for key, body in changes.items():
            s3.put_object(Bucket=SOURCE, Key=key, Body=body)
    before = stage.ledger.calls.copy()
    rerun = pool.shell.run("rerun", "--all")
    assert (rerun.code, "3 set to run again" in rerun.out) == (0, True), rerun.out
    ended = pool.run()
    assert ended.code == 0, ended.err
    spent = stage.ledger.calls - before
    assert at_sink(stage) == OBJECTS | changes
    counts = pool.rows("prefix, status, objects_copied, objects_skipped")
    assert counts == {"a/": ("done", 5, 55), "b/": ("done", 3, 60), "c/": ("done", 0, 60)}
    assert spent["cdn", "GET"] == len(changes) + 2, "the objects, and a canary for each prefix with work"
    assert spent["gcs", "xml.put"] == len(changes)
    assert spent["gcs", "objects.get"] == 0, "nothing else is read"
    assert pool.shell.run("rerun", "nowhere/").code == 1


def test_the_object_ledger_has_a_line_for_every_object(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    pool = Pool(stage, tmp_path)
    assert pool.run("--object-ledger").code == 0
    with gcs_client(stage) as client:
        there = {blob.name: (blob.size, blob.generation, blob.crc32c) for blob in client.list_blobs(SINK)}
    with closing(sqlite3.connect(tmp_path / "sts_manager.db")) as store:
        rows = store.execute("SELECT key, size, generation, crc32c, verified, verdict FROM sts_job_object").fetchall()
    assert {row[0]: tuple(row[1:4]) for row in rows} == there
    assert {tuple(row[4:]) for row in rows} == {("md5", "done")}
    assert pool.shell.run("rerun", "--all").code == 0
    assert pool.run("--object-ledger").code == 0
    with closing(sqlite3.connect(tmp_path / "sts_manager.db")) as store:
        verdicts = store.execute("SELECT verdict, count(*) FROM sts_job_object GROUP BY verdict").fetchall()
    assert verdicts == [("skipped", len(OBJECTS))]
    assert pool.ledger("SELECT * FROM object") == []


def test_passes_one_by_one_take_in_what_workers_elsewhere_reported(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    pool = Pool(stage, tmp_path, ["a/"])
    once = ["run", *pool.flags, "--workers", "0", "--once"]
    assert pool.shell.run(*once).code == 0
    with pool.workers.started(*pool.worker):
        wait_for(lambda: not waiting(pool), seconds=30)

        def done() -> bool:
            assert pool.shell.run(*once).code == 0
            return bool(pool.rows() == {"a/": "done"})

        wait_for(done, seconds=30)


def test_the_pool_alone_needs_no_project(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    pool = Pool(stage, tmp_path, ["a/"])
    unnamed = {
        name: value
        for name, value in stage.environment.items()
        if name not in ("GOOGLE_CLOUD_PROJECT", "STORAGE_TRANSFER_EMULATOR_HOST")
    }
    ended = Shell(tmp_path, unnamed).run("run", *pool.flags, "--workers", "1", "--until-done")
    assert ended.code == 0, ended.err
    refused = Shell(tmp_path, unnamed).run("run", *BUCKETS, "--route", "sts-s3", "--until-done")
    assert (refused.code, "no project given" in refused.err) == (2, True)


def test_a_cancelled_prefix_ends_and_stays_so_until_it_is_retried(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    pool = Pool(stage, tmp_path, ["a/"])
    with pool.shell.started("run", *pool.flags, "--workers", "0") as daemon:
        wait_for(lambda: pool.rows() == {"a/": "running"})
        wait_for(lambda: pool.shell.run("cancel", "a/").code == 0)
        wait_for(lambda: pool.rows("prefix, status, error_code") == {"a/": ("error", "CANCELLED")})
        # The board is posted by a thread of its own: a worker that comes before that lists in vain.
        wait_for(lambda: board(pool) == {"over"})
        with pool.workers.started(*pool.worker):
            wait_for(lambda: not waiting(pool), seconds=30)
        assert pool.reads() == 0, "what was published of it is dropped"
        assert pool.shell.run("retry", "a/").code == 0
        with pool.workers.started(*pool.worker):
            wait_for(lambda: pool.rows() == {"a/": "done"}, seconds=30)
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=20) == 0
    assert at_sink(stage) == {key: body for key, body in OBJECTS.items() if key.startswith("a/")}


def board(pool: Pool) -> set[str]:
    with closing(sqlite3.connect(pool.folder / "sts_manager_queue.db", timeout=10)) as queue:
        return {str(state) for (state,) in queue.execute("SELECT state FROM board")}


def waiting(pool: Pool) -> int:
    with closing(sqlite3.connect(pool.folder / "sts_manager_queue.db", timeout=10)) as queue:
        return int(queue.execute("SELECT count(*) FROM message WHERE queue IN ('list', 'copy')").fetchone()[0])


def test_hostile_messages_are_buried_and_named_and_the_others_go_on(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    pool = Pool(stage, tmp_path)
    spec = JobSpec(job="transferJobs/nobodys", prefix="a/", source_bucket=SOURCE, sink_bucket=SINK)
    ours = encoded(CopyTask(spec=spec, shard="root", run="r", sequence=0, items=(Item("a/000", 9, "e" * 32),)))
    foreign = encoded(
        CopyTask(
            spec=JobSpec(job="j", prefix="", source_bucket="somebody-elses", sink_bucket=SINK),
            shard="root",
            run="r",
            sequence=0,
            items=(Item("a", 1, "e"),),
        )
    )
    newer = json.dumps(json.loads(ours) | {"v": 9}).encode()
    with closing(sqlite_queues(tmp_path / "sts_manager_queue.db", lease_s=5)) as queues:
        queues.copies.publish([b"\x80\x04evil", b"{}", ours[:40], ours.replace(b'"v":1', b'"v":0'), foreign, newer])
        with pool.workers.started(*pool.worker, "--allow-source", SOURCE, "--allow-destination", SINK):
            ended = pool.shell.run("run", *pool.flags, "--workers", "0", "--until-done")
    assert ended.code == 0, ended.err
    dead = [json.loads(line) for line in ended.err.splitlines() if '"dead_letter"' in line]
    assert len(dead) == 3, ended.err
    assert sum("not JSON" in one["cause"] for one in dead) == 2
    assert len(pool.ledger("SELECT * FROM dead_letter")) == 3
    # What names a job that nobody here knows may be another daemon's: it is told, and left where it is.
    assert ended.err.count("dead_letter_of_unknown_job") == 2
    with closing(sqlite3.connect(tmp_path / "sts_manager_queue.db", timeout=10)) as queue:
        reasons = [row[0] for row in queue.execute("SELECT reason FROM message WHERE queue = 'dead'")]
    assert any("'somebody-elses' is none of this worker's" in one for one in reasons), reasons
    assert waiting(pool) == 1, "the newer one is left for a newer worker"
    assert at_sink(stage) == OBJECTS


def allowed_sinks(folder: Path) -> list[set[str]]:
    """The destination buckets that each worker at this folder's queue takes tasks of."""
    found = []
    for number in workers_of(folder):
        words = Path(f"/proc/{number}/cmdline").read_text().split("\0")
        if "run" in words:
            found.append({words[at + 1] for at, word in enumerate(words) if word == "--allow-destination"})
    return found


def test_a_forged_task_writes_nowhere_and_a_bucket_that_is_loaded_meanwhile_is_served(stage: Stage, tmp_path: Path) -> None:
    """Who may publish to the queue could have the daemon's own worker write any bucket that its credentials may write (L3)."""
    fill(stage, OBJECTS)
    with gcs_client(stage) as client:
        for bucket in ("others-sink", "second-sink"):
            client.create_bucket(bucket)
    pool = Pool(stage, tmp_path, ["a/"])
    with pool.shell.started("run", *pool.flags, "--workers", "1") as daemon:
        wait_for(lambda: bool(allowed_sinks(tmp_path)) and bool(pool.ledger("SELECT * FROM job")))
        ((job, text),) = pool.ledger("SELECT name, spec FROM job")
        forged = JobSpec(job=job, prefix="a/", source_bucket=SOURCE, sink_bucket="others-sink")
        stolen = JobSpec(job=job, prefix="a/", source_bucket="others-source", sink_bucket=SINK)
        assert json.loads(text)["sink_bucket"] == SINK, "the genuine one has the same name"
        items = (Item("a/000", 80, hashlib.md5(OBJECTS["a/000"], usedforsecurity=False).hexdigest()),)
        with closing(sqlite_queues(tmp_path / "sts_manager_queue.db", lease_s=5)) as queues:
            queues.lists.publish([encoded(ListTask(spec=forged))])
            copies = [CopyTask(spec=spec, shard="root", run="r", sequence=0, items=items) for spec in (forged, stolen)]
            queues.copies.publish([encoded(one) for one in copies])
        wait_for(lambda: pool.rows() == {"a/": "done"}, seconds=40)
        wait_for(lambda: len(pool.ledger("SELECT * FROM dead_letter")) == 3, seconds=40)
        reasons = [reason for (reason,) in pool.ledger("SELECT reason FROM dead_letter ORDER BY reason")]
        assert [one.partition(":")[0] for one in reasons] == [
            "bucket 'others-sink' is none of this worker's",
            "bucket 'others-sink' is none of this worker's",
            "bucket 'others-source' is none of this worker's",
        ]
        assert at_sink(stage, "others-sink") == {}
        assert at_sink(stage) == {key: body for key, body in OBJECTS.items() if key.startswith("a/")}
        assert allowed_sinks(tmp_path) == [{SINK}]

        (tmp_path / "more.json").write_text(json.dumps([{"prefix": "b/", "destination": "gs://second-sink"}]))
        loaded = pool.shell.run("prepare-tables", "--job-prefix-source-file", "more.json")
        assert loaded.code == 0, loaded.err
        wait_for(lambda: pool.rows() == {"a/": "done", "b/": "done"}, seconds=60)
        assert at_sink(stage, "second-sink") == {key: body for key, body in OBJECTS.items() if key.startswith("b/")}
        assert allowed_sinks(tmp_path) == [{SINK, "second-sink"}]
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=25) == 0
    assert len(pool.ledger("SELECT * FROM dead_letter")) == 3, "no task of ours was refused"
    assert pool.rows("prefix, attempt, objects_copied, objects_failed") == {"a/": (1, 60, 0), "b/": (1, 60, 0)}
    assert at_sink(stage, "others-sink") == {}


def test_a_distribution_that_is_not_the_buckets_is_told_before_anything_moves(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    with s3_client(stage) as s3:
        s3.create_bucket(Bucket="another-bucket")
    pool = Pool(stage, tmp_path)
    wrong = f"http://{stage.environment['CDN_EMULATOR_HOST']}/another-bucket/"
    pool.flags[pool.flags.index("--cdn-url") + 1] = wrong
    ended = pool.run()
    assert ended.code == 3, ended.err
    assert "CDN_MISMATCH" in ended.err
    assert "is the distribution's origin this bucket" in ended.err
    assert at_sink(stage) == {}
    assert "CDN_MISMATCH" in pool.shell.run("status").out


def test_a_denied_listing_opens_the_breaker_and_names_the_cause(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    pool = Pool(stage, tmp_path)
    shell = Shell(tmp_path, {**stage.environment, "AWS_SECRET_ACCESS_KEY": "another-secret-of-no-worth-at-all"})
    ended = shell.run("run", *pool.flags, "--workers", "1", "--until-done")
    assert ended.code == 3, ended.err
    assert "PERMISSION_DENIED" in ended.err
    assert "SignatureDoesNotMatch" in ended.err
    assert "another-secret" not in ended.err + ended.out


def test_a_dead_workers_tasks_go_to_the_next_one_and_its_parent_takes_it_along(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    pool = Pool(stage, tmp_path)
    stage.ledger.add_rule({"service": "cdn", "method": "GET", "error": "SLOW", "times": 0})
    with pool.shell.started("run", *pool.flags, "--workers", "1") as daemon:
        wait_for(lambda: pool.reads() > 0, seconds=30)
        daemon.kill()
        daemon.wait()
    wait_for(lambda: not workers_of(tmp_path), seconds=30)
    stage.ledger.rules.clear()
    ended = pool.run()
    assert ended.code == 0, ended.err
    assert at_sink(stage) == OBJECTS


def workers_of(folder: Path) -> list[int]:
    """The processes whose working folder is this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if (entry / "cwd").resolve() == folder and b"cdn_worker" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_a_worker_tells_how_it_is_and_drains_when_it_is_told_to(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    pool = Pool(stage, tmp_path)
    port = "18931"
    with pool.shell.started("run", *pool.flags, "--workers", "0", "--until-done") as daemon:
        with pool.workers.started(*pool.worker, "--health-port", port) as worker:
            wait_for(lambda: pool.rows() == dict.fromkeys(("a/", "b/", "c/"), "done"), seconds=30)
            figures = {line.rpartition(" ")[0]: line.rpartition(" ")[2] for line in asked(port, "metrics").splitlines()}
            assert figures['cdn_worker_objects_total{verdict="done"}'] == str(len(OBJECTS))
            assert figures["cdn_worker_queue_up"] == "1"
            assert (asked(port, "healthz"), asked(port, "readyz")) == ("ok\n", "ok\n")
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(timeout=25) == 0
        assert daemon.wait(timeout=20) == 0


def asked(port: str, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as answer:
        return str(answer.read().decode())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "--queue", "redis://x"], "it is written sqlite:///FILE or pubsub://PROJECT/NAME?board="),
        (["run", "--queue", "pubsub://stage-project/pool"], "add ?board=gs://BUCKET/OBJECT"),
        (
            ["run", "--queue", "pubsub://stage-project/pool?board=gs://control/b"],
            "there is no subscription projects/stage-project",
        ),
        (["run", "--queue", "sqlite:///nowhere/queue.db"], "is its folder there and writable"),
        (["run", "--queue", "sqlite:///q.db", "--cdn-key-pair-id", "K1"], "--cdn-url names it"),
        (["prepare-queue", "--queue", "pubsub://UPPER/x"], "it is written pubsub://PROJECT/NAME?board="),
    ],
)
def test_wrong_words_to_a_worker(stage: Stage, tmp_path: Path, words: list[str], told: str) -> None:
    ran = Shell(tmp_path, stage.environment, "cdn_worker").run(*words)
    assert ran.code == 2
    assert told in ran.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "--route", "cnd"], "--route: 'cnd' will not do"),
        (["run", "--route", "cdn", "--source-bucket", "gs://there"], "which reads S3"),
        (["run", "--cdn-url", "https://d.example"], "is written https://DOMAIN/"),
        (["run", "--cdn-private-key-file", "key.pem"], "--cdn-url names it"),
        (["run", "--queue", "rabbit"], "is written sqlite:///FILE or pubsub://PROJECT/NAME"),
        (["run", "--workers", "-1"], "--workers: '-1' will not do"),
        (["route", "a/", "cnd"], "'cnd' is no route"),
        (["route", "cdn"], "'cdn' is no route"),
        (["rerun"], "name prefixes to run again"),
        (["rerun", "--all", "--every", "10"], "'10' is no span of time"),
    ],
)
def test_wrong_words_to_the_manager(stage: Stage, tmp_path: Path, words: list[str], told: str) -> None:
    pool = Pool(stage, tmp_path)
    ran = pool.shell.run(*words)
    assert ran.code == 2
    assert told in ran.err, ran.err


def test_a_route_is_given_to_a_prefix_that_is_not_on_its_way(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    pool = Pool(stage, tmp_path)
    given = pool.shell.run("route", "a/", "b/", "sts-s3")
    assert (given.code, "2 set to sts-s3" in given.out) == (0, True), given.out
    plan = pool.shell.run("run", *pool.flags, "--dry-run")
    assert "route    cdn: a distribution is given" in plan.out
    assert pool.run().code == 0
    assert pool.rows("prefix, route") == {"a/": "sts-s3", "b/": "sts-s3", "c/": "cdn"}
    assert pool.shell.run("route", "a/", "auto").code == 0
    assert pool.rows("prefix, route")["a/"] is None
    assert pool.shell.run("route", "nowhere/", "cdn").code == 1
    assert at_sink(stage) == OBJECTS


@pytest.mark.slow
def test_a_destination_that_does_not_answer_stands_on_the_first_line_of_status(stage: Stage, tmp_path: Path) -> None:
    """With the intervals that a daemon has by default: it was "stalled" for 23 minutes, and then POISON_TASK."""
    fill(stage, OBJECTS)
    pool = Pool(stage, tmp_path)
    nowhere = {**stage.environment, "STORAGE_EMULATOR_HOST": "http://127.0.0.1:1"}
    patient = ["--job-interval", "1200", "--metrics-interval", "300", "--sleep-timeout", "60"]
    flags = [one for one in pool.flags if one not in QUICK]
    shell = Shell(tmp_path, nowhere)
    with shell.started("run", *flags, *patient, "--workers", "1") as daemon:

        def told() -> bool:
            first = shell.run("status").out.partition("\n\n")[0].replace("\n", " ")
            return "nothing starts in the worker pool: UNREACHABLE: " in first and "127.0.0.1:1: " in first

        wait_for(told, seconds=100)
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=30) == 0
    assert pool.ledger("SELECT count(*) FROM dead_letter") == [(0,)]
    with closing(sqlite3.connect(tmp_path / "sts_manager_queue.db", timeout=10)) as queue:
        assert queue.execute("SELECT count(*) FROM message WHERE attempts > 1 OR queue = 'dead'").fetchone() == (0,)
    burned = [
        one for one in pool.rows("prefix, status, attempt - forgiven").values() if one not in (("waiting", 0), ("running", 1))
    ]
    assert not burned
    pool.shell.run("retry", "a/", "b/", "c/")
    ended = pool.run()
    assert ended.code == 0, ended.err
    assert at_sink(stage) == OBJECTS


def test_a_queue_of_another_migration_is_refused_with_both_names(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    pool = Pool(stage, tmp_path)
    assert pool.run().code == 0
    ours = json.loads(pool.shell.run("status", "--json").out)["migration"]
    other = ["--store", "sqlite:///other.db"]
    assert pool.shell.run("prepare-tables", "--job-prefix-source-file", "prefixes.json", *other).code == 0
    theirs = json.loads(pool.shell.run("status", "--json", *other).out)["migration"]
    refused = pool.shell.run("run", *pool.flags, *other, "--queue", "sqlite:///sts_manager_queue.db", "--until-done")
    assert refused.code == 2, refused.err
    assert f"is the queue of migration {ours}" in refused.err
    assert f"sqlite:///other.db is migration {theirs}: give this one a --queue of its own" in refused.err
