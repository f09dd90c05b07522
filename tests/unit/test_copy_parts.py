"""The parts around the engine: who holds the keys, what passes between processes, the journal, the verdict file, the screen."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cdn_worker.copier.channel import Channel
from cdn_worker.copier.checkpoints import Journal
from cdn_worker.copy_command.progress import Progress, Screen, closing, sized, spent
from cdn_worker.copy_command.verdict_file import VerdictsLost, open_verdicts, partial
from cdn_worker.credentials.provider import Keyring, aws_credentials
from cdn_worker.credentials.signing_keys import signer_from_secret
from cdn_worker.domain.errors import BadInput
from cdn_worker.domain.integrity import Verified
from cdn_worker.domain.signing import Digest
from cdn_worker.domain.sigv4 import AwsKeys
from cdn_worker.domain.verdict import KeyVerdict, Tally, Verdict
from cdn_worker.object_copy.commands import Resume, Task
from cdn_worker.ports import Access

NOW = datetime(2026, 11, 21, 3, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


# The keyring


def keyring(clock: Clock, ends_after: timedelta | None = None, **more: Any) -> Keyring:
    made = iter(range(100))

    def google() -> tuple[str, datetime | None]:
        return f"token-{next(made)}", None if ends_after is None else clock.now + ends_after

    return Keyring(aws=lambda: (AwsKeys("id", "secret"), None), google=google, now=clock, **more)


def test_access_is_made_anew_five_minutes_before_it_ends() -> None:
    clock = Clock()
    ring = keyring(clock, timedelta(hours=1))
    first = ring.access()
    assert (first.bearer, first.until, first.version) == ("token-0", NOW + timedelta(minutes=55), 1)
    clock.now += timedelta(minutes=54)
    assert not ring.due(first)
    clock.now += timedelta(minutes=2)
    assert ring.due(first)
    assert ring.access().bearer not in ("", first.bearer)


def test_a_token_that_ends_at_once_is_not_asked_for_all_the_time() -> None:
    clock = Clock()
    ring = keyring(clock, timedelta(seconds=10))
    first = ring.access()
    assert not ring.due(first)
    clock.now += timedelta(seconds=3)
    assert ring.due(first)


def test_only_the_newest_access_is_renewed_and_not_twice_in_a_moment() -> None:
    clock = Clock()
    ring = keyring(clock)
    first = ring.access()
    assert ring.renewed(first.version) is None, "it is new: asking again helps nobody"
    clock.now += timedelta(seconds=5)
    second = ring.renewed(first.version)
    assert second is not None
    assert second.version == 2
    clock.now += timedelta(seconds=5)
    assert ring.renewed(first.version) is None, "somebody was refused with the old one, and there is a newer one"


def test_a_signature_is_made_anew_in_time_and_after_a_clock_that_jumped_back() -> None:
    clock = Clock()
    ring = keyring(clock, signer=lambda message: message[:3], base_url="https://d/p", key_pair_id="K", life=timedelta(hours=1))
    first = ring.access()
    assert "Key-Pair-Id=K" in first.signed
    clock.now += timedelta(minutes=47)
    assert not ring.due(first)
    clock.now += timedelta(minutes=2)
    assert ring.due(first)
    clock.now = NOW - timedelta(hours=3)
    assert ring.due(first)


def test_no_access_shows_a_secret() -> None:
    shown = repr(Access(aws=AwsKeys("id", "hush", "token"), signed="Signature=hush", bearer="hush", until=NOW, version=3))
    assert "hush" not in shown
    assert "token" not in shown


def test_missing_aws_credentials_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [one for one in os.environ if one.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(BadInput, match="set AWS_ACCESS_KEY_ID"):
        aws_credentials()


class Secrets:
    """Secret Manager, as far as it is asked."""

    def __init__(self, status: int, body: object) -> None:
        self.status_code, self._body = status, body
        self.asked: list[str] = []

    def get(self, url: str, timeout: float) -> Secrets:
        assert timeout > 0
        self.asked.append(url)
        return self

    def json(self) -> object:
        return self._body


def test_a_private_key_comes_from_secret_manager() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    session = Secrets(200, {"payload": {"data": base64.b64encode(pem).decode()}})
    assert signer_from_secret("projects/p/secrets/s", Digest.SHA256, session=session)(b"message")
    assert session.asked == ["https://secretmanager.googleapis.com/v1/projects/p/secrets/s/versions/latest:access"]
    signer_from_secret("projects/p/secrets/s/versions/3", Digest.SHA1, session=session, endpoint="http://x")
    assert session.asked[-1] == "http://x/v1/projects/p/secrets/s/versions/3:access"


@pytest.mark.parametrize(
    ("name", "status", "body", "told"),
    [
        ("my-secret", 200, {}, "it is written projects/PROJECT/secrets/NAME"),
        ("projects/p/secrets/s", 403, {}, "answered 403; it needs secretmanager.versions.access"),
        ("projects/p/secrets/s", 404, {}, "answered 404"),
        ("projects/p/secrets/s", 200, {"payload": {}}, "has no payload"),
        (
            "projects/p/secrets/s",
            200,
            {"payload": {"data": base64.b64encode(b"not a key").decode()}},
            "no private key in PEM form",
        ),
    ],
)
def test_a_secret_that_is_no_key_is_named(name: str, status: int, body: object, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        signer_from_secret(name, Digest.SHA1, session=Secrets(status, body))


# Between processes


def test_messages_arrive_whole_in_order_and_never_block() -> None:
    one, other = (Channel(end) for end in socket.socketpair())
    messages = [list(range(index)) for index in range(0, 60_000, 3000)]
    for message in messages:
        one.send(message)
    assert one.unsent, "more than the kernel takes: it waits on our side"
    found: list[object] = []
    while len(found) < len(messages):
        one.flush()
        found += other.received()
    assert found == messages
    one.close()
    assert other.received() == []
    assert other.closed


def test_what_was_sent_before_an_end_died_is_still_read() -> None:
    one, other = (Channel(end) for end in socket.socketpair())
    one.send("last words")
    one.close()
    other.send("to nobody")
    assert other.received() == ["last words"]
    other.received()
    assert other.closed


# The journal

OF = "s3://a/ http://gcs gs://b/"


def test_the_journal_tells_the_next_run_how_far_each_object_is(tmp_path: Path) -> None:
    path = tmp_path / "j"
    task = Task("k\n", 100, "e1")
    with_notes = Journal(path, OF)
    with_notes.note(task, Resume("http://s/1", 0, 0))
    with_notes.note(task, Resume("http://s/1", 64, 7))
    with_notes.close(complete=False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600, "who has the address may write the object"
    with path.open("a") as file:
        file.write('{"key": "cut by a ki')
    after = Journal(path, OF)
    assert after.resume("k\n", "e1", 100) == Resume("http://s/1", 64, 7)
    assert after.resume("k\n", "e2", 100) is None, "another object by now"
    assert after.resume("other", "e1", 100) is None
    elsewhere = Journal(path, "s3://a/ http://gcs gs://another/")
    assert elsewhere.resume("k\n", "e1", 100) is None, "its session writes to the first bucket"
    after.close(complete=True)
    assert not path.exists()


def test_the_journal_of_a_long_run_stays_small_and_keeps_what_is_not_done(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = Journal(path, OF)
    journal.note(Task("never done", 9, "e"), Resume("s", 1, 2))
    for index in range(6000):
        task = Task(f"k{index}", 100, "e1")
        journal.note(task, Resume("s", 64, 7))
        journal.ended(task.key)
    journal.close(complete=False)
    assert len(path.read_text().splitlines()) <= 1001
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Journal(path, OF).resume("never done", "e", 9) == Resume("s", 1, 2)


def test_a_journal_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput, match="folder of an earlier run cannot be read"):
        Journal(tmp_path / "folder", OF)


# Verdicts


def verdict(index: int = 0, error: str = "") -> KeyVerdict:
    if error:
        return KeyVerdict(key=f"k{index}", size=5, etag="e", verdict=Verdict.FAILED, error=error, details="why")
    return KeyVerdict(
        key=f"k{index}", size=5, etag="e", verdict=Verdict.DONE, generation=7, crc32c=b"\0\0\0\1", verified=Verified.CRC32C
    )


@pytest.mark.parametrize("name", ["v.ndjson", "v.jsonl", "v.parquet"])
def test_a_verdict_file_has_its_name_when_it_is_complete(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("an earlier run's")
    file = open_verdicts(path)
    file.add([verdict(0), verdict(1, "forbidden")])
    assert path.read_text() == "an earlier run's", "until then the earlier one stands"
    assert file.close(complete=True) == path
    rows: list[dict[str, Any]] = (
        pq.read_table(path).to_pylist()
        if name.endswith("parquet")
        else [json.loads(line) for line in path.read_text().splitlines()]
    )
    assert rows[0] == {
        "key": "k0",
        "size": 5,
        "etag": "e",
        "generation": 7,
        "crc32c": "AAAAAQ==",
        "verified": "crc32c",
        "verdict": "done",
        "error": None,
        "details": None,
    }
    assert (rows[1]["verdict"], rows[1]["error"], rows[1]["details"]) == ("failed", "forbidden", "why")


def test_an_incomplete_one_keeps_its_other_name(tmp_path: Path) -> None:
    path = tmp_path / "v.ndjson"
    file = open_verdicts(path)
    file.add([verdict()])
    assert file.close(complete=False) == partial(path)
    assert not path.exists()


def test_a_file_that_can_be_written_no_more_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "v.ndjson"
    partial(path).symlink_to("/dev/full")
    file = open_verdicts(path)
    with pytest.raises(VerdictsLost, match="run the same command again"):
        file.add([verdict()])
    with pytest.raises(VerdictsLost):
        file.close(complete=False)


# The screen


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1,023 B"), (1024, "1.0 KiB"), (5 << 40, "5.0 TiB"), (3000 << 50, "3,000.0 PiB")]
)
def test_sizes_are_for_people(count: int, text: str) -> None:
    assert sized(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (61, "1 min 01 s"), (7322, "2 h 02 min")])
def test_times_are_for_people(seconds: float, text: str) -> None:
    assert spent(seconds) == text


def test_the_closing_lines_name_each_error_with_an_example() -> None:
    tally = Tally()
    for index in range(3):
        tally.add(verdict(index))
    tally.add(verdict(9, "forbidden"))
    text = closing(tally.summary(), tally)
    assert "done" in text
    assert "error forbidden: 1, as 'k9': why" in text


def test_without_a_terminal_nothing_is_drawn_and_quiet_says_nothing() -> None:
    stream = io.StringIO()
    with Screen(stream) as screen:
        screen.show(Progress(listed=5, bytes_listed=10, listing=True, tally=Tally(), in_flight=0, restarts=0))
        screen.say("stopping")
    assert stream.getvalue() == "stopping\n"
    with Screen(stream, quiet=True) as screen:
        screen.say("nothing")
    assert "nothing" not in stream.getvalue()
