"""The files of deploy/: each is parsed, and every flag of ours in them is one that the program has."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from cdn_worker.cli import app as worker
from cdn_worker.queues.pubsub import address_of
from sts_manager.cli import app as manager

DEPLOY = Path(__file__).parents[2] / "deploy"
YAML = sorted(DEPLOY.rglob("*.yaml"))
SHELL = sorted(DEPLOY.rglob("*.sh"))
OURS = {"cdn-worker": worker, "sts-manager": manager}


def flags_of(program: str, command: str) -> set[str]:
    group: Any = typer.main.get_command(OURS[program])
    return {flag for parameter in group.commands[command].params for flag in (*parameter.opts, *parameter.secondary_opts)}


def documents(path: Path) -> list[Any]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one is not None]


def texts(value: Any) -> Iterator[str]:
    """Every text inside a document; a list of plain words as one line."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and all(isinstance(one, str) for one in value):
        yield " ".join(value)
        yield from value
    elif isinstance(value, (dict, list)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from texts(one)


def calls(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """(program, command, flags) of each call of a program of ours in a shell's text."""
    joined = text.replace("\\\n", " ")
    for found in re.finditer(r"\b(cdn-worker|sts-manager) (run|prepare-queue|prepare-tables)\b([^\n]*)", joined):
        flags = [word.partition("=")[0] for word in shlex.split(found[3], comments=True) if word.startswith("--")]
        yield found[1], found[2], flags


def container_calls(document: Any) -> Iterator[tuple[str, str, list[str]]]:
    """The same of containers whose command and arguments are lists."""
    if isinstance(document, dict):
        command, arguments = document.get("command"), document.get("args")
        if isinstance(command, list) and isinstance(arguments, list):
            yield command[0], arguments[0], [one.partition("=")[0] for one in arguments[1:]]
        for one in document.values():
            yield from container_calls(one)
    elif isinstance(document, list):
        for one in document:
            yield from container_calls(one)


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_yaml_files_are_read_and_their_flags_are_known(path: Path) -> None:
    found = documents(path)
    assert found
    made = list(container_calls(found)) + [call for text in texts(found) for call in calls(text)]
    if path.name == "cloud-init.yaml":
        (text,) = (one for one in texts(found) if "--entrypoint=cdn-worker" in one)
        arguments = text.replace("\\\n", " ").split(" run --queue", 1)[1].split("\n")[0]
        made.append(
            ("cdn-worker", "run", ["--queue", *(word.partition("=")[0] for word in arguments.split() if word.startswith("--"))])
        )
    assert made, f"{path.name} starts nothing of ours"
    for program, command, flags in made:
        assert set(flags) <= flags_of(program, command), f"{path.name}: {program} {command}"


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shell_files_are_read_and_their_flags_are_known(path: Path) -> None:
    checked = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    text = path.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text
    for program, command, flags in calls(text):
        assert set(flags) <= flags_of(program, command), f"{path.name}: {program} {command}"


def test_every_queue_in_them_is_an_address() -> None:
    found = [
        one
        for path in (*YAML, *SHELL)
        for one in re.findall(r"pubsub://[^\s\"']+", path.read_text().replace("$$GOOGLE_CLOUD_PROJECT", "project"))
        if "$" not in one
    ]
    assert found
    for one in found:
        assert address_of(one.replace("PROJECT", "project").replace("CONTROL_BUCKET", "control")).bucket == "control"


def test_the_kubernetes_objects_belong_together() -> None:
    by_kind = {one["kind"]: one for one in documents(DEPLOY / "kubernetes" / "workers.yaml")}
    deployment, scaled = by_kind["Deployment"], by_kind["ScaledObject"]
    pod = deployment["spec"]["template"]
    assert deployment["apiVersion"] == "apps/v1"
    assert deployment["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert "replicas" not in deployment["spec"], "KEDA's number would be fought over at each apply"
    assert scaled["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert scaled["spec"]["triggers"][0]["authenticationRef"]["name"] == by_kind["TriggerAuthentication"]["metadata"]["name"]
    assert pod["spec"]["serviceAccountName"] == by_kind["ServiceAccount"]["metadata"]["name"]
    container = pod["spec"]["containers"][0]
    ports = {one["name"] for one in container["ports"]}
    assert {container[one]["httpGet"]["port"] for one in ("livenessProbe", "readinessProbe")} <= ports
    mounts = {one["name"] for one in container["volumeMounts"]}
    assert mounts == {one["name"] for one in pod["spec"]["volumes"]}
    assert pod["spec"]["terminationGracePeriodSeconds"] >= 25


def test_the_worker_pool_names_what_cloud_run_wants() -> None:
    (pool,) = documents(DEPLOY / "cloud-run" / "worker-pool.yaml")
    assert (pool["apiVersion"], pool["kind"]) == ("run.googleapis.com/v1", "WorkerPool")
    assert pool["metadata"]["annotations"]["run.googleapis.com/manualInstanceCount"].isdigit()
    (container,) = pool["spec"]["template"]["spec"]["containers"]
    assert container["image"].partition("@")[2].startswith("sha256:")


def test_the_rehearsal_starts_in_order() -> None:
    (compose,) = documents(DEPLOY / "compose" / "compose.yaml")
    services = compose["services"]
    assert set(services) == {"stage", "prepare", "daemon", "worker"}
    for name, service in services.items():
        for other, wanted in service.get("depends_on", {}).items():
            assert other in services, name
            assert wanted["condition"] in ("service_healthy", "service_completed_successfully")
        for volume in service["volumes"]:
            assert volume.partition(":")[0] in compose["volumes"]
    assert "healthcheck" in services["stage"]
