"""`cdn-worker copy` as a user runs it: processes, real objects, kills, wrong inputs."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.end_to_end.commands import Shell
from tests.proofs import sized
from tests.stages import SINK, SOURCE, at_sink, fill, gcs_client, s3_client, wait_for
from tools.emulators.cdn import KEY_PAIR_ID
from tools.emulators.stage import Stage

PLACES = ("--source", f"s3://{SOURCE}/dir/", "--destination", f"gs://{SINK}/kept/dir/")


def objects(count: int = 40, size: int = 3000) -> dict[str, bytes]:
    return {f"dir/{index % 5}/part {index:04}": random.Random(index).randbytes(size) for index in range(count)}


def kept(wanted: dict[str, bytes]) -> dict[str, bytes]:
    """As it is at the sink: one root in place of the other."""
    return {f"kept/{key}": body for key, body in wanted.items()}


def cdn(stage: Stage, key_pair_id: str = KEY_PAIR_ID) -> tuple[str, ...]:
    key = Path(stage.environment["CDN_PRIVATE_KEY_FILE"]).with_name(f"{key_pair_id}.pem")
    url = f"http://{stage.environment['CDN_EMULATOR_HOST']}/{SOURCE}/"
    return "--cdn-url", url, "--cdn-key-pair-id", key_pair_id, "--cdn-private-key-file", str(key)


def verdicts(folder: Path, name: str = "verdicts.ndjson") -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    assert max(Counter(row["key"] for row in rows).values()) == 1, "one verdict a key"
    return {row["key"]: row for row in rows}


@pytest.fixture
def shell(stage: Stage, tmp_path: Path) -> Shell:
    return Shell(tmp_path, stage.environment, "cdn_worker")


@pytest.mark.parametrize("way", ["s3", "cdn", "cdn with an EC key", "public cdn"])
def test_a_prefix_is_copied_and_proved_and_a_second_run_copies_nothing(stage: Stage, shell: Shell, way: str) -> None:
    wanted = objects() | {"dir/": b"", "dir/large": random.Random(1).randbytes(9 << 20)}
    fill(stage, wanted | {"elsewhere": b"is not copied"})
    more = {"s3": (), "cdn": cdn(stage), "cdn with an EC key": cdn(stage, f"{KEY_PAIR_ID}EC")}.get(way, cdn(stage)[:2])
    stage.ledger.change({"cdn.public": way == "public cdn"})
    ran = shell.run("copy", *PLACES, *more, "--processes", "2")
    assert ran.code == 0, ran.err
    assert at_sink(stage) == kept(wanted)
    rows = verdicts(shell.folder)
    assert set(rows) == set(wanted)
    assert {(row["verdict"], row["verified"]) for row in rows.values()} == {("done", "md5")}
    with gcs_client(stage) as client:
        there = {blob.name: blob for blob in client.list_blobs(SINK)}
    for key, row in rows.items():
        blob = there[f"kept/{key}"]
        assert (row["generation"], row["crc32c"], row["size"]) == (blob.generation, blob.crc32c, blob.size)
    assert "secret" not in ran.out + ran.err
    again = shell.run("copy", *PLACES, *more, "--verdicts", "again.parquet")
    assert again.code == 0, again.err
    table = pq.read_table(shell.folder / "again.parquet").to_pylist()
    assert {row["key"]: (row["verdict"], row["generation"]) for row in table} == {
        key: ("skipped", row["generation"]) for key, row in rows.items()
    }


def test_a_dry_run_says_what_would_be_copied_and_changes_nothing(stage: Stage, shell: Shell) -> None:
    fill(stage, objects(12))
    ran = shell.run("copy", *PLACES, "--dry-run")
    assert ran.code == 0
    assert "12 objects listed, 35.2 KiB" in ran.out
    assert "would copy           12      35.2 KiB; nothing was changed" in ran.out
    assert at_sink(stage) == {}
    assert not list(shell.folder.glob("verdicts*"))


def test_what_differs_is_left_alone_unless_it_may_be_overwritten(stage: Stage, shell: Shell) -> None:
    wanted = objects(10)
    fill(stage, wanted)
    other = "dir/0/part 0000"
    with gcs_client(stage) as client:
        client.bucket(SINK).blob(f"kept/{other}").upload_from_string(b"somebody's")
    ran = shell.run("copy", *PLACES)
    assert ran.code == 1
    assert "error exists: 1, as 'dir/0/part 0000'" in ran.out
    assert at_sink(stage) == kept(wanted | {other: b"somebody's"})
    assert verdicts(shell.folder)[other]["error"] == "exists"
    ran = shell.run("copy", *PLACES, "--overwrite")
    assert ran.code == 0, ran.out
    assert at_sink(stage) == kept(wanted)
    assert Counter(row["verdict"] for row in verdicts(shell.folder).values()) == {"skipped": 9, "done": 1}


def test_filters_and_what_cannot_be_copied(stage: Stage, shell: Shell) -> None:
    fill(stage, {"dir/plain": b"1"})
    with s3_client(stage) as s3:
        s3.put_object(Bucket=SOURCE, Key="dir/frozen", Body=b"2", StorageClass="GLACIER")
        s3.put_object(Bucket=SOURCE, Key="dir/rare", Body=b"3", StorageClass="STANDARD_IA")
        s3.put_object(Bucket=SOURCE, Key="dir/line\nbreak", Body=b"4")
    ran = shell.run("copy", *PLACES, "--storage-class", "NEARLINE")
    assert ran.code == 1
    rows = verdicts(shell.folder)
    assert {key: (row["verdict"], row["error"]) for key, row in rows.items()} == {
        "dir/plain": ("done", None),
        "dir/rare": ("done", None),
        "dir/frozen": ("unmappable", "archived"),
        "dir/line\nbreak": ("unmappable", "name"),
    }
    with gcs_client(stage) as client:
        assert {blob.storage_class for blob in client.list_blobs(SINK)} == {"NEARLINE"}
    only = shell.run("copy", *PLACES, "--source-storage-class", "STANDARD_IA", "--verdicts", "only.ndjson")
    assert only.code == 0
    assert set(verdicts(shell.folder, "only.ndjson")) == {"dir/rare"}
    before = verdicts(shell.folder)
    old = shell.run("copy", *PLACES, "--modified-before", "2001-01-01")
    assert (old.code, "there is no object that fits" in old.err) == (2, True)
    assert verdicts(shell.folder) == before, "the verdicts of an earlier run stand"


def test_paths_of_a_cdn_that_are_not_the_keys(stage: Stage, shell: Shell) -> None:
    wanted = {"dir/new/a": b"1", "dir/new/b": b"2"}
    fill(stage, wanted)
    with s3_client(stage) as s3:
        for key, body in wanted.items():
            s3.put_object(Bucket=SOURCE, Key=key.replace("new", "old"), Body=body)
    places = ("--source", f"s3://{SOURCE}/dir/new/", "--destination", f"gs://{SINK}/kept/dir/new/")
    ran = shell.run("copy", *places, *cdn(stage), "--substitute", "/new/=/old/")
    assert ran.code == 0, ran.out + ran.err
    assert at_sink(stage) == kept(wanted)
    keys = {key: row["verdict"] for key, row in verdicts(shell.folder).items()}
    assert keys == dict.fromkeys(wanted, "done")


@pytest.mark.slow
def test_many_kills_and_no_verified_object_is_copied_twice(stage: Stage, shell: Shell) -> None:
    wanted = objects(900, 20_000) | {f"dir/large-{index}": random.Random(index).randbytes(10 << 20) for index in range(3)}
    fill(stage, wanted)
    moments = random.Random(20261121)
    seen: dict[str, int] = {}
    at_work = 0
    for _ in range(sized(7, 20)):
        with shell.started("copy", *PLACES, *cdn(stage), "--processes", "2") as run:
            # The moment counts from the first request for bytes, so that it never falls into the start of the interpreter.
            wait_for(partial(_begun, stage, run, reads(stage)))
            time.sleep(moments.uniform(0, 0.12))
            at_work += run.poll() is None
            run.kill()
        with gcs_client(stage) as client:
            there = {blob.name: blob.generation for blob in client.list_blobs(SINK)}
        assert {name: there[name] for name in seen} == seen, "what was there is as it was"
        seen = there
    assert at_work > sized(4, 14), "it must be killed at work to prove anything"
    ran = shell.run("copy", *PLACES, *cdn(stage))
    assert ran.code == 0, ran.out + ran.err
    assert at_sink(stage) == kept(wanted)
    rows = verdicts(shell.folder)
    assert set(rows) == set(wanted)
    wrong = [
        key
        for key, row in rows.items()
        if f"kept/{key}" in seen and (row["verdict"], row["generation"]) != ("skipped", seen[f"kept/{key}"])
    ]
    assert wrong == []
    with gcs_client(stage) as client:
        there = {blob.name: blob.generation for blob in client.list_blobs(SINK)}
    assert {name: there[name] for name in seen} == seen


def reads(stage: Stage) -> int:
    return stage.ledger.report().get("cdn", {}).get("GET", 0)


def _begun(stage: Stage, run: subprocess.Popen[str], before: int) -> bool:
    return run.poll() is not None or reads(stage) > before


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are looked up in /proc")
def test_a_process_that_dies_takes_nothing_with_it(stage: Stage, shell: Shell) -> None:
    wanted = objects(600)
    fill(stage, wanted)
    with shell.started("copy", *PLACES, *cdn(stage), "--processes", "2") as run:
        wait_for(lambda: len(at_sink_names(stage)) > 20)
        victims = children(run.pid)
        assert len(victims) == 2
        os.kill(victims[0], signal.SIGKILL)
        out, err = run.communicate(timeout=60)
    assert run.returncode == 0, out + err
    assert "a copying process died (SIGKILL); its" in err
    assert at_sink(stage) == kept(wanted)
    assert set(verdicts(shell.folder)) == set(wanted)


def at_sink_names(stage: Stage) -> list[str]:
    with gcs_client(stage) as client:
        return [blob.name for blob in client.list_blobs(SINK)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_and_the_same_command_goes_on(stage: Stage, shell: Shell, number: int) -> None:
    wanted = objects(600)
    fill(stage, wanted)
    with shell.started("copy", *PLACES, *cdn(stage), "--processes", "2") as run:
        wait_for(lambda: len(at_sink_names(stage)) > 20)
        run.send_signal(number)
        out, err = run.communicate(timeout=30)
    assert run.returncode == 1
    assert "run the same command again to go on" in err, out
    assert not (shell.folder / "verdicts.ndjson").exists(), "a file by that name has every key"
    told = verdicts(shell.folder, "verdicts.ndjson.partial")
    there = at_sink_names(stage)
    assert {f"kept/{key}" for key, row in told.items() if row["verdict"] == "done"} == set(there), (
        "what was in flight was waited for"
    )
    assert len(there) < len(wanted)
    assert shell.run("copy", *PLACES, *cdn(stage)).code == 0
    assert at_sink(stage) == kept(wanted)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--source", "source/dir"), "--source 'source/dir': it is written s3://BUCKET/PREFIX"),
        (("--destination", "s3://x/y"), "--destination 's3://x/y': it is written gs://BUCKET/PREFIX"),
        (("--source", "s3://No_Bucket!/x"), "'No_Bucket!' is no bucket's name"),
        (("--cdn-url", "d111.cloudfront.net"), "it is written https://DOMAIN/"),
        (("--cdn-key-pair-id", "K1"), "--cdn-url names it"),
        (("--cdn-url", "https://d/", "--cdn-key-pair-id", "K1"), "--cdn-private-key-file or --cdn-private-key-secret is missing"),
        (("--cdn-url", "https://d/", "--cdn-key-pair-id", "K1", "--cdn-private-key-file", "none.pem"), "none.pem cannot be read"),
        (("--verdicts", "verdicts.csv"), "its name ends with .ndjson"),
        (("--verdicts", "no/such/folder/v.ndjson"), "cannot be written: No such file or directory"),
        (("--modified-since", "yesterday"), "--modified-since 'yesterday': a time is written"),
        (("--modified-since", "2026-02-01", "--modified-before", "2026-01-01"), "no object fits"),
        (("--cdn-url", "https://d/", "--substitute", "old"), "--substitute 'old': it is written OLD=NEW"),
        (("--kms-key", "my-key"), "--kms-key 'my-key': it is written projects/"),
        (("--storage-class", "nearline"), "classes are written in capitals"),
        (("--source", f"s3://{SOURCE}/nothing/here/"), "there is no object that fits; is the prefix right"),
        (("--aws-profile", "nobody"), "AWS credentials:"),
        (
            ("--cdn-url", "http://no-such-distribution.invalid/"),
            "--cdn-url http://no-such-distribution.invalid/ cannot be reached",
        ),
        (("--s3-endpoint", "http://127.0.0.1:1"), "S3 at http://127.0.0.1:1 cannot be reached"),
        (("--gcs-endpoint", "http://127.0.0.1:1"), "Cloud Storage at http://127.0.0.1:1 cannot be reached"),
    ],
)
def test_bad_input_is_named(stage: Stage, shell: Shell, words: tuple[str, ...], told: str) -> None:
    fill(stage, objects(1))
    places = dict(zip(PLACES[::2], PLACES[1::2], strict=True)) | {
        name: value for name, value in zip(words[::2], words[1::2], strict=True) if name in PLACES
    }
    rest = [word for name, value in zip(words[::2], words[1::2], strict=True) if name not in PLACES for word in (name, value)]
    ran = shell.run("copy", *[word for pair in places.items() for word in pair], *rest)
    assert ran.code == 2, ran.out + ran.err
    assert told in ran.err
    assert at_sink(stage) == {}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--source", "s3://no-such-bucket/x"), "NoSuchBucket"),
        (("--destination", "gs://no-such-bucket/x"), "gs://no-such-bucket answered 404"),
    ],
)
def test_a_bucket_that_is_missing_is_named(stage: Stage, shell: Shell, words: tuple[str, str], told: str) -> None:
    fill(stage, objects(1))
    places = dict(zip(PLACES[::2], PLACES[1::2], strict=True)) | dict([words])
    ran = shell.run("copy", *[word for pair in places.items() for word in pair])
    assert ran.code == 1
    assert told in ran.err
    assert "Traceback" not in ran.err


def test_a_key_pair_that_does_not_fit_ends_the_run_early_and_is_explained(stage: Stage, shell: Shell) -> None:
    fill(stage, objects(500))  # many more than are in flight when the first verdict is known
    wrong = (*cdn(stage)[:5], cdn(stage, f"{KEY_PAIR_ID}EC")[5])
    ran = shell.run("copy", *PLACES, *wrong)
    assert ran.code == 1
    assert "objects all ended with forbidden" in ran.err
    assert "trusted key group" in ran.err
    assert "Signature=" not in ran.err + ran.out
    assert stage.ledger.report()["cdn"]["GET"] < 3 * 500, "it does not try them all"


def test_a_sink_that_may_not_be_written_ends_the_run_early(stage: Stage, shell: Shell) -> None:
    fill(stage, objects(60))
    stage.ledger.add_rule({"service": "gcs", "method": "xml.put", "error": "FORBIDDEN", "times": 0})
    ran = shell.run("copy", *PLACES)
    assert ran.code == 1
    assert "objects all ended with sink_forbidden" in ran.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk is played by /dev/full")
def test_a_disk_that_is_full_says_what_to_do(stage: Stage, shell: Shell) -> None:
    fill(stage, objects(5))
    (shell.folder / "verdicts.ndjson.partial").symlink_to("/dev/full")
    ran = shell.run("copy", *PLACES)
    assert ran.code == 1
    assert "cannot be written: No space left on device" in ran.err
    assert "run the same command again" in ran.err
    (shell.folder / "verdicts.ndjson.partial").unlink()
    assert shell.run("copy", *PLACES).code == 0
    assert set(verdicts(shell.folder)) == set(objects(5))
