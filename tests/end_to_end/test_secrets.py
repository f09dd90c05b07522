"""A canary: secrets that are nowhere else, down every way that fails, at DEBUG; then looked for wherever they must not be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.end_to_end.commands import BUCKETS, QUICK, Ran, Shell
from tests.end_to_end.test_copy import PLACES
from tests.end_to_end.test_pool import Pool, asked, cdn_flags
from tests.stages import SOURCE, fill, wait_for
from tools.emulators.stage import KEYS, Stage

CANARY = "wJalrXUtnFEMIcanaryK7MDENGbPxRfiCYEXAMPLEKEY"
TOKEN = "FwoGZXIvYXdzEcanaryToken4pYxIzU6Vb1TnQ"
PASSWORD = "canary-pass-8c1f"
ONCE = ("--until-done", "--max-attempts", "2")
OBJECTS = {"a/1": b"one" * 500, "a/2": b"two" * 500, "b/1": b"three", "dir/1": b"four" * 100}
SIGNED = re.compile(rb"(?:[?&]|\b)(?:Policy|Signature|X-Amz-Signature|X-Amz-Credential)=[A-Za-z0-9~_%+/-]{12,}")


class Watched:
    """A folder, a stage, and all that was printed in it."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage, self.folder = stage, folder
        self.environment = {**stage.environment, "LOGLEVEL": "DEBUG", "PYTHONFAULTHANDLER": "1"}
        self.printed: list[str] = []
        key = Path(stage.environment["CDN_PRIVATE_KEY_FILE"]).read_text()
        # The lines of a key in PEM form: each is a secret.
        lines = [line for line in key.splitlines() if len(line) > 40]
        self.secrets = [CANARY, TOKEN, PASSWORD, KEYS.secret, *lines]

    def run(self, *words: str, module: str = "sts_manager", more: Mapping[str, str] | None = None) -> Ran:
        ran = Shell(self.folder, self.environment | dict(more or {}), module).run(*words)
        self.printed += [ran.out, ran.err]
        return ran

    def leaks(self) -> Iterator[str]:
        """Where a secret stands: in what was printed, in any file that was written, in what other services were told."""
        told = {"printed": "\n".join(self.printed).encode()}
        told |= {path.name: path.read_bytes() for path in sorted(self.folder.rglob("*")) if path.is_file()}
        told["monitoring"] = repr(vars(self.stage.monitoring)).encode() if self.stage.monitoring is not None else b""
        told["cloud logging"] = repr(self.stage.ledger.log_entries).encode()
        for where, body in told.items():
            yield from (f"{where}: {secret[:12]}…" for secret in self.secrets if secret.encode() in body)
            yield from (f"{where}: {found[:30]!r}" for found in SIGNED.findall(body))


@pytest.fixture
def watched(stage: Stage, tmp_path: Path) -> Watched:
    fill(stage, OBJECTS)
    return Watched(stage, tmp_path)


WRONG = {"AWS_SECRET_ACCESS_KEY": CANARY}


def test_what_is_looked_for_would_be_found(watched: Watched) -> None:
    watched.printed += [f"x {CANARY} y", "https://d/x?Policy=eyJTdGF0ZW1lbnQiOlt7&Signature=abcdefghijklmnop"]
    (watched.folder / "file.db").write_bytes(b"\0" + TOKEN.encode())
    assert len(list(watched.leaks())) == 4


def test_no_secret_of_the_transfer_services_routes(watched: Watched) -> None:
    pool = Pool(watched.stage, watched.folder, ["a/", "b/"])
    watched.printed.clear()
    refused = watched.run("run", *BUCKETS, *QUICK, *ONCE, "--publish-heartbeat", more=WRONG)
    assert refused.code != 0, "the keys are wrong"
    temporary = watched.run("run", *BUCKETS, *QUICK, *ONCE, more={"AWS_SESSION_TOKEN": TOKEN})
    assert temporary.code == 2, "temporary keys are refused"
    watched.stage.ledger.add_rule({"service": "sts", "method": "*", "error": "INTERNAL", "every": 2, "times": 20})
    watched.run("retry-errors")
    watched.run("run", *BUCKETS, *QUICK, *ONCE)
    lists = ("--route", "sts-url-list", *cdn_flags(watched.stage))
    watched.stage.ledger.add_rule({"service": "gcs", "method": "*", "error": "UNAVAILABLE", "every": 3, "times": 30})
    watched.run("rerun", "--all")
    watched.run("run", *BUCKETS, *QUICK, *ONCE, *lists)
    for words in (["status"], ["doctor", *BUCKETS, *lists], ["failures"], ["history", "a/"]):
        watched.run(*words, more=WRONG)
    assert pool.folder == watched.folder
    assert list(watched.leaks()) == []


def test_no_secret_of_the_pool_and_of_copies(watched: Watched) -> None:
    pool = Pool(watched.stage, watched.folder, ["a/", "b/"])
    for fault in ("FORBIDDEN", "RESET", "REDIRECT", "CHANGED_ETAG"):
        watched.stage.ledger.add_rule({"service": "cdn", "method": "GET", "error": fault, "every": 2, "times": 12})
    watched.run("run", *pool.flags, "--workers", "1", *ONCE)
    watched.run("retry-errors")
    watched.run("run", *pool.flags, "--workers", "1", *ONCE, more=WRONG)
    watched.stage.ledger.rules.clear()
    copied = watched.run("copy", *PLACES, module="cdn_worker", more=WRONG)
    assert copied.code != 0
    cdn = cdn_flags(watched.stage)
    watched.run("copy", *PLACES, *cdn, module="cdn_worker", more=WRONG)
    watched.stage.ledger.add_rule({"service": "gcs", "method": "*", "error": "FORBIDDEN", "times": 0})
    watched.run("copy", *PLACES, *cdn, "--verdicts", "verdicts.ndjson", module="cdn_worker")
    watched.run("copy", *PLACES, *cdn, "--cdn-private-key-file", "nothing.pem", module="cdn_worker")
    assert list(watched.leaks()) == []


def test_no_secret_over_http(watched: Watched) -> None:
    """What a worker says to whoever asks: its health and its metrics, while everything is refused."""
    pool = Pool(watched.stage, watched.folder, ["a/", "b/"])
    watched.stage.ledger.add_rule({"service": "cdn", "method": "GET", "error": "FORBIDDEN", "times": 0})
    worker = Shell(watched.folder, watched.environment, "cdn_worker")
    port = "18477"
    with worker.started(*pool.worker, "--health-port", port), pool.shell.started("run", *pool.flags, "--workers", "0"):
        wait_for(lambda: "PERMISSION_DENIED" in watched.run("status").out)
        watched.printed += [asked(port, path) for path in ("healthz", "metrics")]
    assert "cdn_worker" in watched.printed[-1]
    assert list(watched.leaks()) == []


def test_no_secret_in_what_goes_wrong_at_the_beginning(watched: Watched) -> None:
    """Wrong settings, files that are broken, a defect: what is printed then is read by whoever is asked for help."""
    for store in (f"postgresql://user:{PASSWORD}@127.0.0.1:1/x", f"nonsense://user:{PASSWORD}@h/x"):
        assert watched.run("status", "--store", store).code != 0
        assert watched.run("run", *BUCKETS, "--store", store).code != 0
    config = watched.folder / "config.json"
    config.write_text('{"job-interval": "soon"}')
    assert watched.run("run", *BUCKETS, "--config-path", "config.json").code == 2
    (watched.folder / "sts_manager.db").write_bytes(b"this is no database" * 100)
    assert watched.run("run", *BUCKETS, *QUICK, more=WRONG).code != 0
    (watched.folder / "key.pem").write_text(f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----\n")
    words = ["copy", *PLACES, "--cdn-url", f"https://d.example/{SOURCE}/", "--cdn-key-pair-id", "K"]
    assert watched.run(*words, "--cdn-private-key-file", "key.pem", module="cdn_worker").code != 0
    (watched.folder / "key.pem").unlink()
    assert list(watched.leaks()) == []
