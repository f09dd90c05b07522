"""What Cloud Storage really answers to a write (two lines of hashes, or nothing), and to a listing of what a key encrypts."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from cdn_worker.domain.integrity import Verified
from cdn_worker.domain.verdict import Verdict
from tests.copies import Copies, false_dones, tasks_of, way
from tests.end_to_end.commands import Shell
from tests.end_to_end.test_copy import PLACES, kept, verdicts
from tests.proofs import sized
from tests.stages import SINK, at_sink, fill, gcs_client
from tools.emulators.stage import Stage

AT_START = 1
"""A copy first asks whether the service is there at all."""
KMS_KEY = "projects/stage-project/locations/us/keyRings/r/cryptoKeys/k"


def objects(count: int, size: int = 300) -> dict[str, bytes]:
    return {f"dir/{index:05}": random.Random(index).randbytes(size) for index in range(count)} | {"dir/empty": b""}


def calls(stage: Stage, method: str) -> int:
    return stage.ledger.report()["gcs"].get(method, 0)


@pytest.fixture
def shell(stage: Stage, tmp_path: Path) -> Shell:
    return Shell(tmp_path, stage.environment, "cdn_worker")


@pytest.mark.parametrize("told", [True, False], ids=["two lines of hashes", "nothing"])
def test_each_object_is_written_once_whatever_the_answer_tells(stage: Stage, shell: Shell, told: bool) -> None:
    wanted = objects(sized(200, 2600))
    fill(stage, wanted)
    stage.ledger.change({"gcs.put_answer_headers": told})
    ran = shell.run("copy", *PLACES, "--processes", "1")
    assert ran.code == 0, ran.err
    assert calls(stage, "xml.put") == len(wanted)
    assert calls(stage, "objects.get") == AT_START + (0 if told else len(wanted))
    rows = verdicts(shell.folder)
    assert {(row["verdict"], row["verified"]) for row in rows.values()} == {("done", "md5")}
    assert at_sink(stage) == kept(wanted)


def test_what_libcurl_wrote_twice_by_itself_is_ours(stage: Stage) -> None:
    """A quarter of the connections breaks once the write was applied; a request on one that was used before is repeated."""
    wanted = objects(sized(1000, 20_000))
    fill(stage, wanted)
    lost = {"service": "gcs", "method": "xml.put", "error": "UNAVAILABLE", "every": 4, "times": 0, "applied": True}
    stage.ledger.add_rule(lost)
    copies = Copies(way()).run(tasks_of(stage), seconds=sized(60, 900))
    assert false_dones(stage, copies.verdicts, wanted) == []
    assert {one.verdict for one in copies.verdicts.values()} == {Verdict.DONE}
    assert set(copies.verdicts) == set(wanted)
    assert stage.ledger.rules[0].fired >= len(wanted) // 5


@pytest.mark.parametrize("headers", [False, True], ids=["a resource alone", "headers beside it"])
def test_the_last_answer_of_a_session_is_read_by_its_kind(stage: Stage, headers: bool) -> None:
    wanted = {"large": random.Random(1).randbytes((2 << 20) + 5), "..": b"", "by/../session": b"small"}
    wanted.pop("..")
    fill(stage, wanted)
    stage.ledger.change({"gcs.session_answer_headers": headers})
    copies = Copies(way()).run(tasks_of(stage))
    assert false_dones(stage, copies.verdicts, wanted) == []
    assert {(one.verdict, one.verified, one.tries) for one in copies.verdicts.values()} == {(Verdict.DONE, Verified.MD5, 1)}


@pytest.mark.parametrize("bucket", [True, False], ids=["the bucket's key", "--kms-key"])
def test_a_second_look_at_what_a_key_encrypts(stage: Stage, shell: Shell, bucket: bool) -> None:
    wanted = objects(30) | {"dir/large": random.Random(2).randbytes(9 << 20)}
    fill(stage, wanted)
    if bucket:
        stage.ledger.change({"gcs.buckets": {SINK: {"encryption": {"defaultKmsKeyName": KMS_KEY}}}})
    more = () if bucket else ("--kms-key", KMS_KEY)
    first = shell.run("copy", *PLACES, *more, "--processes", "1")
    assert first.code == 0, first.err
    with gcs_client(stage) as client:
        listed = list(client.list_blobs(SINK))
    assert {(blob.crc32c, blob.md5_hash) for blob in listed} == {(None, None)}, "the listing tells no hashes"
    written = calls(stage, "xml.put")
    second = shell.run("copy", *PLACES, *more, "--processes", "1", "--verdicts", "again.ndjson")
    assert second.code == 0, second.err
    rows = verdicts(shell.folder, "again.ndjson")
    assert {(row["verdict"], row["verified"]) for row in rows.values()} == {("skipped", "size")}
    assert calls(stage, "xml.put") == written


def test_what_others_wrote_under_a_key_is_known_by_its_md5(stage: Stage, shell: Shell) -> None:
    """Nobody recorded where it came from, and the listing tells no hash: each is asked for, once."""
    wanted = objects(20)
    fill(stage, wanted)
    stage.ledger.change({"gcs.buckets": {SINK: {"encryption": {"defaultKmsKeyName": KMS_KEY}}}})
    other = min(kept(wanted))
    with gcs_client(stage) as client:
        for name, body in kept(wanted).items():
            client.bucket(SINK).blob(name).upload_from_string(bytes(len(body)) if name == other else body)
    ran = shell.run("copy", *PLACES, "--processes", "1")
    assert ran.code == 1, ran.err
    ends = {f"kept/{key}": (row["verdict"], row["verified"] or row["error"]) for key, row in verdicts(shell.folder).items()}
    assert ends == {name: ("failed", "exists") if name == other else ("skipped", "md5") for name in kept(wanted)}
    assert calls(stage, "objects.get") == AT_START + len(wanted)
    assert calls(stage, "xml.put") == 0
