"""Route sts-url-list as users run it: the daemon, its lister and the commands as processes, the clouds as the stage."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from cdn_worker.protocol.messages import JobSpec
from cdn_worker.protocol.url_list_jobs import State
from cdn_worker.protocol.url_list_ledger import ListLedger
from sts_manager.domain.errors import StoreUnavailable
from tests.end_to_end.commands import BUCKETS, QUICK, Ran, Shell
from tests.end_to_end.test_pool import cdn_flags
from tests.proofs import sized
from tests.stages import SINK, SOURCE, archive, at_sink, fill, gcs_client, restore, s3_client, wait_for
from tools.emulators.gcs.objects import Attributes, Listing
from tools.emulators.stage import Stage

OBJECTS = {f"a/{name}": f"body of {name}".encode() * 9 for name in ("1", "2", "3", "b c", "d+e", "f%20g", "日本", "h#i", "x//y")}


def now_at_sink(stage: Stage) -> dict[str, bytes]:
    """In one look, while objects are being moved."""
    return {found.name: found.read() for found in stage.objects.list(SINK, Listing()).objects}


class Lists:
    """A store, a folder and a stage."""

    def __init__(self, stage: Stage, folder: Path, prefixes: Sequence[Any] = ("a/",)) -> None:
        self.stage, self.folder = stage, folder
        self.shell = Shell(folder, stage.environment)
        self.flags = [*BUCKETS, *QUICK, *cdn_flags(stage), "--route", "sts-url-list"]
        (folder / "prefixes.json").write_text(json.dumps(list(prefixes)))
        loaded = self.shell.run("prepare-tables", "--job-prefix-source-file", "prefixes.json")
        assert loaded.code == 0, loaded.err

    def run(self, *words: str) -> Ran:
        return self.shell.run("run", *self.flags, "--until-done", *words)

    def row(self, columns: str = "status", prefix: str = "a/") -> Any:
        with closing(sqlite3.connect(self.folder / "sts_manager.db")) as store:
            found = store.execute(f"SELECT {columns} FROM sts_job WHERE prefix = ?", (prefix,)).fetchone()
            return found[0] if len(found) == 1 else found

    def results(self) -> Any:
        return json.loads(self.shell.run("history", "a/", "--json").out)[-1]["operation_results"]

    def steps(self) -> list[State]:
        """Of every job, as the ledger tells them at this moment."""
        path = self.folder / "sts_manager_lists.db"
        if not path.exists() or not _tables(path):
            return []
        with closing(sqlite3.connect(path, timeout=10)) as ledger:
            return [State(found[0]) for found in ledger.execute("SELECT state FROM job ORDER BY began_at DESC")]

    def reached(self, step: State) -> bool:
        """Some job that is not over is at this step or past it, or none is left."""
        order, now = list(State), self.steps()
        live = [order.index(one) for one in now if one is not State.OVER]
        return max(live, default=-1) >= order.index(step) or bool(now and not live)


def test_objects_end_under_their_own_names_with_what_the_list_lost(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    with s3_client(stage) as source:
        source.put_object(
            Bucket=SOURCE, Key="a/1", Body=OBJECTS["a/1"], Metadata={"owner": "me"}, ContentType="text/x", CacheControl="no-store"
        )
    lists = Lists(stage, tmp_path)
    ended = lists.run("--url-list-rows", "3")
    assert ended.code == 0, ended.err
    assert at_sink(stage) == OBJECTS, "and nothing else is left in the bucket"
    with gcs_client(stage) as gcs:
        blob = gcs.bucket(SINK).get_blob("a/1")
        assert (blob.content_type, blob.cache_control, blob.metadata["owner"]) == ("text/x", "no-store", "me")
        assert "x-goog-source-etag" in blob.metadata
    assert stage.sts is not None
    assert sorted(name.rpartition("-p")[2] for name in stage.sts.jobs) == ["0", "1", "2", "3"], "a canary, then three lists"
    assert lists.row("status, attempt, objects_copied, objects_failed") == ("done", 1, len(OBJECTS), 0)
    results = lists.results()
    assert results["verified"] == {"md5": len(OBJECTS), "crc32c": 0, "size": 0}
    everything = (
        (tmp_path / "sts_manager.db").read_bytes() + (tmp_path / "sts_manager_lists.db").read_bytes() + ended.err.encode()
    )
    assert b"Signature=" not in everything, "no signature is kept or told"
    removed = lists.shell.run("remove-successful-one-time-jobs")
    assert "4 removed, 0 left" in removed.out
    again = lists.shell.run("rerun", "a/")
    assert again.code == 0, again.err
    before = stage.ledger.calls["cdn", "GET"]
    assert lists.run().code == 0
    assert stage.ledger.calls["cdn", "GET"] == before, "what is there and equal is not listed again"


def test_a_bucket_whose_key_encrypts_everything_shows_no_hashes_in_its_listing(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    stage.ledger.change(
        {"gcs.buckets": {SINK: {"encryption": {"defaultKmsKeyName": "projects/p/locations/us/keyRings/r/cryptoKeys/k"}}}}
    )
    lists = Lists(stage, tmp_path)
    ended = lists.run("--url-list-rows", "4")
    assert ended.code == 0, ended.err
    assert at_sink(stage) == OBJECTS, "and nothing else is left in the bucket"
    results = lists.results()
    assert results["verified"] == {"md5": len(OBJECTS), "crc32c": 0, "size": 0}, "what the listing does not tell was asked for"
    assert lists.shell.run("rerun", "a/").code == 0
    before = stage.ledger.calls["cdn", "GET"]
    assert lists.run().code == 0
    assert stage.ledger.calls["cdn", "GET"] == before, "what is there is known by its size and what was recorded with it"


@pytest.mark.slow
def test_kills_at_any_point_leave_no_trace(stage: Stage, tmp_path: Path) -> None:
    objects = {f"{prefix}/{index:02}": f"{prefix} {index}".encode() * 5 for prefix in ("a", "b") for index in range(40)}
    fill(stage, objects)
    stage.ledger.change({"sts.objects_per_second": 60})
    lists = Lists(stage, tmp_path, ["a/", "b/"])
    moments = random.Random(20261121)
    targets = list(State)[: list(State).index(State.READY)]
    steps: set[State] = set()
    for kill in range(sized(9, 12)):
        target = targets[kill % len(targets)]
        with lists.shell.started("run", *lists.flags, "--url-list-rows", "15", "--until-done") as daemon:
            while daemon.poll() is None and not lists.reached(target):
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 0.2))
            if daemon.poll() is not None:
                break
            steps.update(lists.steps())
            daemon.kill()
    stage.ledger.change({"sts.objects_per_second": 0})
    ended = lists.run("--url-list-rows", "15")
    assert ended.code == 0, ended.err
    assert len(steps - {State.OVER}) >= 3, f"it must be killed at different steps to prove anything: {steps}"
    assert at_sink(stage) == objects
    assert lists.row("attempt", "a/") == 1
    assert stage.sts is not None
    assert all(len(names) == 1 for names in stage.sts.by_job.values()), "each list was run once"
    copied = sum(operation.work.counts.copied[0] for operation in stage.sts.operations.values())
    assert copied == len(objects), "nothing was transferred twice"


@pytest.mark.parametrize("naming", ["encoded", "query"])
def test_however_the_service_names_them(stage: Stage, tmp_path: Path, naming: str) -> None:
    fill(stage, OBJECTS)
    stage.ledger.change({"sts.url_list_names": naming})
    lists = Lists(stage, tmp_path)
    ended = lists.run()
    if naming == "encoded":
        assert ended.code == 0, ended.err
        assert at_sink(stage) == OBJECTS
        return
    assert ended.code == 1
    code, message, attempt = lists.row("error_code, error_message, attempt")
    assert (code, attempt) == ("URL_LIST_NAMES", 1), "another attempt would meet the same"
    assert "cannot be given their own names" in message
    assert at_sink(stage) == {}, "the canary is cleared away"
    assert stage.sts is not None
    assert len(stage.sts.jobs) == 1, "nothing but the canary was transferred"
    assert "Signature" not in message + ended.err + ended.out


@pytest.mark.parametrize("required", ["row", "list"])
def test_a_service_that_wants_an_md5_in_each_row_is_found_out_by_two_objects(stage: Stage, tmp_path: Path, required: str) -> None:
    """S3 tells none of one that was uploaded in parts. Only the canaries are transferred, and the message says what to do."""
    fill(stage, OBJECTS)
    with s3_client(stage) as source:
        upload = source.create_multipart_upload(Bucket=SOURCE, Key="a/parts")["UploadId"]
        part = source.upload_part(Bucket=SOURCE, Key="a/parts", UploadId=upload, PartNumber=1, Body=b"in one part")
        done = {"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]}
        source.complete_multipart_upload(Bucket=SOURCE, Key="a/parts", UploadId=upload, MultipartUpload=done)
    stage.ledger.change({"sts.url_list_md5_required": required})
    lists = Lists(stage, tmp_path)
    ended = lists.run("--max-attempts", "1")
    assert ended.code == 1, ended.err
    code, message = lists.row("error_code, error_message")
    assert code == "INVALID_ARGUMENT"
    assert "has no MD5" in message
    assert "by route cdn or sts-s3" in message
    assert at_sink(stage) == {}, "the canaries are cleared away"
    assert stage.sts is not None
    assert len(stage.sts.jobs) == 1, "nothing but the canaries was transferred"
    stage.ledger.change({"sts.url_list_md5_required": ""})
    assert lists.shell.run("retry", "a/").code == 0
    again = lists.run()
    assert again.code == 0, again.err
    assert at_sink(stage) == OBJECTS | {"a/parts": b"in one part"}


def in_parts(stage: Stage, key: str, *parts: bytes) -> bytes:
    with s3_client(stage) as source:
        upload = source.create_multipart_upload(Bucket=SOURCE, Key=key)["UploadId"]
        done = []
        for number, body in enumerate(parts, 1):
            part = source.upload_part(Bucket=SOURCE, Key=key, UploadId=upload, PartNumber=number, Body=body)
            done.append({"ETag": part["ETag"], "PartNumber": number})
        source.complete_multipart_upload(Bucket=SOURCE, Key=key, UploadId=upload, MultipartUpload={"Parts": done})
    return b"".join(parts)


PART = 5 << 20


@pytest.mark.parametrize("proof", ["bytes", "size"])
def test_an_object_without_an_md5_is_read_back(stage: Stage, tmp_path: Path, proof: str) -> None:
    """Its parts are of no size that anybody would guess: S3 tells it."""
    fill(stage, OBJECTS)
    first, last = random.Random(1).randbytes(PART + 4321), random.Random(2).randbytes(1234)
    body = in_parts(stage, "a/parts", first, last)
    lists = Lists(stage, tmp_path)
    ended = lists.run("--url-list-proof", proof)
    assert ended.code == 0, ended.err
    assert at_sink(stage) == OBJECTS | {"a/parts": body}
    by = {"md5": 1, "crc32c": 0, "size": 0} if proof == "bytes" else {"md5": 0, "crc32c": 0, "size": 1}
    assert lists.results()["verified"] == by | {"md5": by["md5"] + len(OBJECTS)}
    assert "landed_unproved" not in ended.err


def test_an_older_version_that_the_cdn_has_kept_is_found_out_and_read_from_s3(stage: Stage, tmp_path: Path) -> None:
    """Of the same size, and uploaded in parts: no MD5 stands in the list, so the service takes what the cache gives."""
    fill(stage, OBJECTS)
    older = in_parts(stage, "a/parts", random.Random(1).randbytes(PART), b"the older version")
    stage.ledger.change({"cdn.cache_seconds": 3600, "cdn.public": True})
    assert stage.cdn is not None
    with urlopen(f"http://{stage.cdn.address}/{SOURCE}/a/parts") as answer:
        assert answer.read() == older
    newer = in_parts(stage, "a/parts", random.Random(2).randbytes(PART), b"the newer version")
    lists = Lists(stage, tmp_path)
    ended = lists.run()
    assert ended.code == 0, ended.err
    assert at_sink(stage) == OBJECTS | {"a/parts": newer}
    assert "landed_unproved" in ended.err
    assert lists.results()["verified"] == {"md5": len(OBJECTS) + 1, "crc32c": 0, "size": 0}
    again = lists.shell.run("rerun", "--all")
    assert again.code == 0
    assert lists.run().code == 0
    assert lists.row("objects_copied, objects_skipped") == (0, len(OBJECTS) + 1), "what is recorded is what is there"


def test_what_fails_is_named_and_a_retry_moves_just_that(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    with s3_client(stage) as source:
        source.put_object(Bucket=SOURCE, Key="a/frozen", Body=b"x", StorageClass="GLACIER")
    stage.objects.put(SINK, "a/2", b"somebody else's", Attributes())
    lists = Lists(stage, tmp_path)
    first = lists.run("--max-attempts", "1")
    assert first.code == 1
    told = {one["key"]: one["error"] for one in json.loads(lists.shell.run("failures", "--json").out)}
    assert told == {"a/frozen": "archived", "a/2": "exists"}
    assert lists.row("objects_copied, objects_failed") == (len(OBJECTS) - 1, 2)
    with s3_client(stage) as source:
        source.delete_object(Bucket=SOURCE, Key="a/frozen")
    stage.objects.delete(SINK, "a/2")
    assert lists.shell.run("retry", "a/").code == 0
    again = lists.run()
    assert again.code == 0, again.err
    assert lists.row("objects_copied, objects_skipped, objects_failed") == (1, len(OBJECTS) - 1, 0)
    assert at_sink(stage) == OBJECTS


def test_an_object_that_the_service_cannot_read_is_told_with_its_reason(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    # The canary, and then one object more, are read before the CDN refuses one.
    stage.ledger.add_rule({"service": "cdn", "method": "HEAD", "error": "FORBIDDEN", "after": 2, "times": 1})
    lists = Lists(stage, tmp_path)
    first = lists.run("--max-attempts", "1")
    assert first.code == 1
    (one,) = json.loads(lists.shell.run("failures", "--json").out)
    assert (one["error"], "answered 403" in one["details"]) == ("permission_denied", True)
    assert one["key"] not in at_sink(stage)
    assert len(at_sink(stage)) == len(OBJECTS) - 1


def test_objects_in_an_archive_tier_are_named_and_none_of_them_is_the_canary(stage: Stage, tmp_path: Path) -> None:
    """No listing tells the tier, and the CDN answers 403 as to a stranger; theirs are the names that would be chosen first."""
    fill(stage, OBJECTS | {"b/1": b"b"})
    cold = {f"a/100% cold {index}" for index in range(3)}
    for key in cold:
        archive(stage, key, "ARCHIVE_ACCESS")
    lists = Lists(stage, tmp_path, ["a/", "b/"])
    ended = lists.run("--max-concurrent-jobs", "1")
    assert ended.code == 1, ended.err
    told = {one["key"]: one["error"] for one in json.loads(lists.shell.run("failures", "--json").out)}
    assert told == dict.fromkeys(cold, "archived")
    assert at_sink(stage) == OBJECTS | {"b/1": b"b"}
    assert lists.row("status, error_code, attempt") == ("error", "ARCHIVED", 1)
    assert "BREAKER" not in lists.shell.run("status").out
    for key in cold:
        restore(stage, key)
    assert lists.shell.run("retry", "a/").code == 0
    again = lists.run()
    assert again.code == 0, again.err
    assert at_sink(stage) == OBJECTS | {"b/1": b"b"} | dict.fromkeys(cold, b"cold")


def test_an_archived_object_behind_the_canary_is_told_from_a_denied_one(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    archive(stage, "a/~cold", "DEEP_ARCHIVE_ACCESS", b"cold" * 1000)
    lists = Lists(stage, tmp_path)
    assert lists.run().code == 1
    told = {one["key"]: one["error"] for one in json.loads(lists.shell.run("failures", "--json").out)}
    assert told == {"a/~cold": "archived"}
    assert lists.row("status, error_code, attempt") == ("error", "ARCHIVED", 1)
    assert at_sink(stage) == OBJECTS


def test_a_cdn_that_refuses_the_canary_stops_before_anything_is_moved(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    lists = Lists(stage, tmp_path, ["a/", "b/"])
    stage.ledger.add_rule({"service": "cdn", "method": "HEAD", "error": "FORBIDDEN", "times": 0})
    ended = lists.run("--max-concurrent-jobs", "1")
    assert ended.code == 3, ended.err
    assert "PERMISSION_DENIED" in ended.err
    assert at_sink(stage) == {}


def test_an_object_that_changes_between_the_listing_and_the_move_is_not_taken_for_the_listed_one(
    stage: Stage, tmp_path: Path
) -> None:
    fill(stage, OBJECTS)
    stage.ledger.change({"sts.objects_per_second": 4})
    lists = Lists(stage, tmp_path)
    with lists.shell.started("run", *lists.flags, "--until-done", "--max-attempts", "1") as daemon:
        wait_for(lambda: lists.steps()[:1] == [State.SENDING])
        moved = now_at_sink(stage)
        key = next(key for key in sorted(OBJECTS) if key not in moved)
        wait_for(lambda: any(name.startswith(".sts-manager/") and name.endswith(key) for name in now_at_sink(stage)))
        with s3_client(stage) as source:
            source.put_object(Bucket=SOURCE, Key=key, Body=b"another body")
        stage.ledger.change({"sts.objects_per_second": 0})
        assert daemon.wait(timeout=60) == 1
    (one,) = json.loads(lists.shell.run("failures", "--json").out)
    assert (one["key"], one["error"]) == (key, "source_changing")
    assert set(at_sink(stage)) == set(OBJECTS) - {key}


def test_what_a_person_pauses_at_the_service_stays_paused_until_a_command(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    stage.ledger.change({"sts.objects_per_second": 3})
    lists = Lists(stage, tmp_path)
    service = stage.sts
    assert service is not None
    with lists.shell.started("run", *lists.flags, "--until-done") as daemon:
        wait_for(lambda: lists.steps()[:1] == [State.SENDING] and len(service.operations) == 2)
        service.pause(max(service.operations))
        wait_for(lambda: lists.row() == "paused")
        stage.ledger.change({"sts.objects_per_second": 0})
        before = lists.row("generation")
        shown = lists.shell.run("status")  # some turns go by
        assert (shown.code, lists.row(), lists.row("generation")) == (0, "paused", before)
        assert "1 resumed" in lists.shell.run("resume-all-jobs").out
        assert daemon.wait(timeout=60) == 0
    assert at_sink(stage) == OBJECTS


def test_an_origin_that_redirects_is_told_by_the_canary(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    stage.ledger.add_rule({"service": "cdn", "method": "HEAD", "error": "REDIRECT", "times": 0})
    lists = Lists(stage, tmp_path)
    assert lists.run("--max-attempts", "1").code == 1
    code, message = lists.row("error_code, error_message")
    assert (code, "redirects" in message, "sent ahead of all others" in message) == ("FAILED_PRECONDITION", True, True)
    assert at_sink(stage) == {}
    assert stage.sts is not None
    assert len(stage.sts.jobs) == 1


def test_a_pause_holds_the_lists_and_a_resume_lets_them_go(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    stage.ledger.change({"sts.objects_per_second": 3})
    lists = Lists(stage, tmp_path)
    with lists.shell.started("run", *lists.flags, "--until-done") as daemon:
        wait_for(lambda: lists.steps()[:1] == [State.SENDING])
        paused = lists.shell.run("pause-all-jobs", "--hold")
        assert (paused.code, "1 paused" in paused.out) == (0, True), paused.out + paused.err
        wait_for(lambda: lists.row() == "paused")
        assert stage.sts is not None
        assert {str(one.work.status.name) for one in stage.sts.operations.values()} <= {"PAUSED", "SUCCESS"}  # type: ignore[attr-defined]
        stage.ledger.change({"sts.objects_per_second": 0})
        resumed = lists.shell.run("resume-all-jobs")
        assert resumed.code == 0, resumed.err
        assert daemon.wait(timeout=30) == 0
    assert at_sink(stage) == OBJECTS


@pytest.mark.parametrize("how", ["command", "console"])
def test_a_cancelled_prefix_stays_so_until_it_is_retried(stage: Stage, tmp_path: Path, how: str) -> None:
    fill(stage, OBJECTS)
    stage.ledger.change({"sts.objects_per_second": 3})
    lists = Lists(stage, tmp_path)
    service = stage.sts
    assert service is not None
    with lists.shell.started("run", *lists.flags) as daemon:
        wait_for(lambda: lists.steps()[:1] == [State.SENDING] and len(service.operations) == 2)
        if how == "command":
            cancelled = lists.shell.run("cancel", "a/")
            assert cancelled.code == 0, cancelled.out + cancelled.err
        else:
            service.cancel(max(service.operations))
        wait_for(lambda: lists.row() == "error")
        assert lists.row("error_code, attempt") == ("CANCELLED", 1)
        assert not any(name.startswith(".sts-manager/") for name in at_sink(stage))
        stage.ledger.change({"sts.objects_per_second": 0})
        assert lists.shell.run("retry", "a/").code == 0
        wait_for(lambda: lists.row() == "done")
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=20) == 0
    assert at_sink(stage) == OBJECTS


@pytest.mark.parametrize(
    ("method", "error", "applied"),
    [("objects.move", "UNIMPLEMENTED", False), ("objects.move", "UNAVAILABLE", True), ("objects.patch", "UNAVAILABLE", True)],
)
def test_moves_that_are_missing_or_whose_answers_are_lost(
    stage: Stage, tmp_path: Path, method: str, error: str, applied: bool
) -> None:
    fill(stage, OBJECTS)
    stage.ledger.add_rule(
        {"service": "gcs", "method": method, "error": error, "times": 0 if not applied else 4, "applied": applied}
    )
    lists = Lists(stage, tmp_path)
    ended = lists.run()
    assert ended.code == 0, ended.err
    assert at_sink(stage) == OBJECTS
    assert stage.ledger.rules[0].fired > 0


def test_an_object_that_the_sink_refuses_fails_alone(stage: Stage, tmp_path: Path) -> None:
    fill(stage, OBJECTS)
    stage.ledger.add_rule({"service": "gcs", "method": "objects.patch", "error": "BAD_REQUEST", "after": 2, "times": 1})
    lists = Lists(stage, tmp_path)
    ended = lists.run("--max-attempts", "1")
    assert ended.code == 1, ended.err
    (one,) = json.loads(lists.shell.run("failures", "--json").out)
    assert one["error"] == "sink"
    assert set(at_sink(stage)) == set(OBJECTS) - {one["key"]}, "and it is cleared away"


def test_a_list_that_may_not_begin_leaves_nothing_of_those_that_had_begun(stage: Stage, tmp_path: Path) -> None:
    """They were not waited for: what they brought landed when everything had been cleared away, and stayed there."""
    fill(stage, OBJECTS)
    stage.ledger.change({"sts.objects_per_second": 2})
    # The canary's job and the first list's are made; then a right is gone, until the retry.
    stage.ledger.add_rule({"service": "sts", "method": "CreateTransferJob", "error": "PERMISSION_DENIED", "after": 2, "times": 1})
    lists = Lists(stage, tmp_path)
    ended = lists.run("--url-list-rows", "3", "--max-attempts", "1")
    assert ended.code == 1, ended.err
    assert lists.row("status, error_code") == ("error", "PERMISSION_DENIED")
    there = at_sink(stage)
    assert 1 < len(there) < len(OBJECTS), "what had begun was brought, and has its own names"
    assert set(there) < set(OBJECTS), "and nothing else is left in the bucket"


def test_moves_that_are_refused_for_a_while_wait(stage: Stage, tmp_path: Path) -> None:
    """What has been transferred is not paid for twice because a right was lost for a minute."""
    fill(stage, OBJECTS)
    # The canary is moved; then a right is gone for as long as it takes to be asked for thrice, with the pauses between.
    stage.ledger.add_rule({"service": "gcs", "method": "objects.move", "error": "FORBIDDEN", "after": 1, "times": 40})
    lists = Lists(stage, tmp_path)
    ended = lists.run()
    assert ended.code == 0, ended.err
    assert "lists_wait" in ended.err
    assert at_sink(stage) == OBJECTS
    assert stage.sts is not None
    copied = sum(operation.work.counts.copied[0] for operation in stage.sts.operations.values())
    assert copied == len(OBJECTS)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--route", "sts-url-list"], "--cdn-url is missing"),
        (["--route", "sts-url-list", "--cdn-url", "https://d.example/#part"], "is written https://DOMAIN/"),
        (["--route", "sts-url-list", "--cdn-url", "https://d.example/", "--url-list-rows", "0"], "--url-list-rows"),
        (["--route", "sts-url-list", "--cdn-url", "https://d.example/", "--source-bucket", "gs://other"], "which reads S3"),
        (["--route", "sts-url-lists"], "--route"),
    ],
)
def test_wrong_flags_are_named(stage: Stage, tmp_path: Path, words: list[str], told: str) -> None:
    ran = Shell(tmp_path, stage.environment).run("run", *BUCKETS, *words)
    assert ran.code == 2
    assert told in ran.err


def test_a_host_that_the_service_cannot_reach_is_refused_before_it_is_asked(stage: Stage, tmp_path: Path) -> None:
    """Without the stage's service beside it, a CDN on this machine is none that Google could read from."""
    fill(stage, OBJECTS)
    lists = Lists(stage, tmp_path)
    environment = {name: value for name, value in stage.environment.items() if name != "STORAGE_TRANSFER_EMULATOR_HOST"}
    ledger = tmp_path / "alone.db"
    lister = Shell(tmp_path, environment, "cdn_worker")
    with (
        lister.started("lists", "--ledger", str(ledger), *cdn_flags(stage)),
        closing(ListLedger(ledger, StoreUnavailable)) as opened,
    ):
        spec = JobSpec(job="transferJobs/stsm-x-a1", prefix="a/", source_bucket=SOURCE, sink_bucket=SINK)
        opened.begin(spec, "a/", datetime.now(UTC), full_metadata=True)

        def message() -> str:
            job = opened.job(spec.job)
            assert job is not None
            return job.error_message if job.state is State.OVER else ""

        wait_for(lambda: bool(message()))
        assert "is not https://" in message()
    assert stage.ledger.calls["s3", "ListObjectsV2"] == 0
    assert lists.row() == "waiting"


def _tables(path: Path) -> bool:
    with closing(sqlite3.connect(path, timeout=10)) as opened:
        return bool(opened.execute("SELECT 1 FROM sqlite_master WHERE name = 'job'").fetchone())
