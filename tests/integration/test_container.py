"""The Dockerfile keeps its rules, and its build steps work in a clean directory, as far as that goes without Docker."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.end_to_end.commands import BUCKETS, QUICK
from tests.stages import fill
from tools.emulators.stage import Stage

ROOT = Path(__file__).parents[2]


@dataclass
class BuildStage:
    base: str
    name: str = ""
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        return [text for step, text in self.steps if step == word]


def parsed() -> tuple[dict[str, str], list[BuildStage]]:
    """The global ARGs and the stages of the Dockerfile."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    arguments: dict[str, str] = {}
    stages: list[BuildStage] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append(BuildStage(base, name))
        elif not stages:
            assert word == "ARG"
            name, _, value = rest.partition("=")
            arguments[name] = value
        else:
            stages[-1].steps.append((word, rest.strip()))
    return arguments, stages


def test_two_stages_on_one_slim_base_that_can_be_pinned_by_digest() -> None:
    arguments, stages = parsed()
    assert [stage.base for stage in stages] == ["${PYTHON_IMAGE}"] * 2
    assert re.fullmatch(r"python:3\.1[1-9]-slim-[a-z]+", arguments["PYTHON_IMAGE"])
    assert "--build-arg PYTHON_IMAGE=python:3.13-slim-bookworm@sha256:DIGEST" in (ROOT / "Dockerfile").read_text()


def test_the_image_runs_as_a_numeric_user_without_a_shell() -> None:
    last = parsed()[1][-1]
    (user,) = last.all("USER")
    assert all(part.isdigit() and int(part) > 0 for part in user.split(":"))
    assert last.all("RUN") == [], "the image itself is only copied together"
    for word in ("ENTRYPOINT", "CMD"):
        (text,) = last.all(word)
        assert isinstance(json.loads(text), list), f"{word} in exec form: no shell stands between SIGTERM and the daemon"
    (check,) = last.all("HEALTHCHECK")
    assert json.loads(check.partition("CMD ")[2]) == ["sts-manager", "health"]
    assert last.all("STOPSIGNAL") == ["SIGTERM"]
    assert last.all("WORKDIR") == ["/tmp"], "the one place that a read-only container may write to"


def test_no_secret_and_nothing_from_the_network_but_packages() -> None:
    for stage in parsed()[1]:
        assert not stage.all("ADD")
        for text in [*stage.all("ENV"), *stage.all("ARG")]:
            assert not re.search(r"KEY|SECRET|TOKEN|PASSWORD", text)
        for text in stage.all("RUN"):
            assert not re.search(r"\b(curl|wget|apt-get|git)\b", text)


def test_uv_is_the_pinned_one_everywhere() -> None:
    (pinned,) = re.findall(r"^UV_VERSION := (.+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert f"uv=={pinned}" in "".join(parsed()[1][0].all("RUN"))


def test_what_is_copied_is_there_and_is_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for text in parsed()[1][0].all("COPY"):
        for source in text.split()[:-1]:
            assert (ROOT / source).exists()
            assert f"!{source}" in ignored


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build stage's steps, with /build and /app somewhere else."""
    top = tmp_path_factory.mktemp("image")
    subprocess.run([sys.executable, "-m", "venv", str(top / "python")], check=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "VIRTUAL_ENV", "PYTHON"))}
    for name in ("UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_CACHE_DIR"):  # where packages come from is the machine's own matter
        if name in os.environ:
            environment[name] = os.environ[name]
    environment["PATH"] = f"{top / 'python' / 'bin'}:{environment['PATH']}"
    folder = top
    for word, text in parsed()[1][0].steps:
        if word == "WORKDIR":
            folder = top / text.lstrip("/")
            folder.mkdir(parents=True)
        elif word == "ENV":
            for pair in shlex.split(text):
                name, _, value = pair.partition("=")
                environment[name] = f"{top}{value}" if value.startswith("/app") else value
        elif word == "COPY":
            *sources, target = text.split()
            for source in sources:
                copy(ROOT / source, folder / target if len(sources) == 1 and target != "./" else folder / Path(source).name)
        else:
            assert word == "RUN"
            ran = subprocess.run(shlex.split(text), cwd=folder, env=environment, capture_output=True, text=True, check=False)
            assert ran.returncode == 0, ran.stderr
    shutil.rmtree(folder)  # the image has /app only
    return top / "app" / "venv" / "bin"


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


@pytest.mark.slow
def test_the_built_program_runs_and_brings_its_queries(built: Path, tmp_path: Path) -> None:
    def run(*words: str) -> str:
        program = [str(built / "sts-manager"), *words]
        ran = subprocess.run(program, cwd=tmp_path, env={"PATH": str(built)}, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    assert "prepare-tables" in run("--help")
    assert "throughput" in run("query")
    packages = {path.name for path in built.parent.glob("lib/python3*/site-packages/*")}
    assert not packages & {"moto", "duckdb", "pytest", "zetasql"}, "nothing of the rehearsal stage is in the image"


@pytest.mark.slow
def test_sigterm_as_pid_1_ends_with_0(built: Path, tmp_path: Path, stage: Stage) -> None:
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody make a PID namespace")
    fill(stage, {"p/x": b"x"})
    stage.ledger.change({"sts.operations_in_progress_max": 0})
    environment = {"PATH": f"{built}:{os.environ['PATH']}", "TMPDIR": str(tmp_path), **stage.environment}
    (tmp_path / "prefixes.txt").write_text("p/\n")
    program = [str(built / "sts-manager"), "prepare-tables", "--job-prefix-source-file", "prefixes.txt"]
    subprocess.run(program, cwd=tmp_path, env=environment, check=True, capture_output=True)
    words = [*unshare, str(built / "sts-manager"), "run", *BUCKETS, *QUICK, "--health-file", "beat"]
    with subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as daemon:
        assert daemon.stderr is not None
        lines = iter(daemon.stderr.readline, "")
        taken = next(line for line in lines if "lease_taken" in line)
        assert taken
        child = int(Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()[0])
        os.kill(child, signal.SIGTERM)
        ended = next((line for line in lines if '"ended"' in line), "")
        assert daemon.wait(timeout=30) == 0
    assert json.loads(ended)["because"] == "stopped"
    health = subprocess.run(
        [str(built / "sts-manager"), "health", "--health-file", "beat"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (health.returncode, health.stdout.startswith("healthy: heard")) == (0, True)
