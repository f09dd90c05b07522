"""The stage as a process: what scripts and the demo rely on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "tools.emulators", "up", *words]


def test_up_writes_the_environment_says_ready_and_ends_on_sigterm(tmp_path: Path) -> None:
    env_file = tmp_path / "stage.env"
    projects = ["--project", "my-project", "--project", "my-other-project"]
    words = command("--env-file", str(env_file), "--data", str(tmp_path / "data"), *projects)
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        sourced = subprocess.run(["bash", "-c", f". {env_file} && env"], capture_output=True, text=True, check=True)
        found = dict(line.split("=", 1) for line in sourced.stdout.splitlines() if "=" in line)
        wanted = {"AWS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST", "STORAGE_TRANSFER_EMULATOR_HOST", "GOOGLE_CLOUD_PROJECT"}
        assert wanted | {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "EMULATOR_ADMIN"} <= set(found)
        assert found["GOOGLE_CLOUD_PROJECT"] == "my-project"
        with urllib.request.urlopen(f"{found['EMULATOR_ADMIN']}/calls", timeout=10) as answer:
            assert json.load(answer) == {}
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    assert not env_file.exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--only", "s3,bigtable"], "unknown service 'bigtable'"),
        (["--only", "sts"], "start them too, or set"),
        (["--project", "My Project"], "'My Project' is no project's name: 6 to 30 small letters"),
    ],
)
def test_a_wrong_choice_is_named(tmp_path: Path, words: list[str], told: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.endswith(("_URL", "_HOST"))}
    ran = subprocess.run(
        command("--env-file", str(tmp_path / "x"), *words),
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert ran.returncode == 2
    assert told in " ".join(ran.stderr.replace("│", " ").split())
