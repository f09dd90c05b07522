"""The files of deploy/: each is parsed, and every flag of ours in them is one that the program has."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
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
        if (program, command) == ("cdn-worker", "run"):
            assert {"--allow-source", "--allow-destination"} <= set(flags), f"{path.name}: any bucket may be named"
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


PROBERS = ("35.191.0.0/16", "130.211.0.0/22")
"""Where the probes of health checks come from (Compute Engine, "Set up an application-based health check and autohealing")."""

GCLOUD = """#!{python}
import json, os, sys
with open(os.environ["GCLOUD_CALLS"], "a") as calls:
    print(json.dumps(sys.argv[1:]), file=calls)
if "describe" in sys.argv and os.environ["GCLOUD_HAS_ALL"] == "no":
    sys.exit("ERROR: (gcloud) Could not fetch resource")
"""
Ran = Callable[[str, bool], list[list[str]]]


@pytest.fixture
def gcloud_calls(tmp_path: Path) -> Ran:
    """Runs a shell text of deploy/gcloud with a gcloud that only writes down its arguments, and says that it has all or none."""

    def run(text: str, has_all: bool) -> list[list[str]]:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / "gcloud").write_text(GCLOUD.format(python=sys.executable))
        (folder / "gcloud").chmod(0o755)
        script, calls = tmp_path / "script.sh", tmp_path / "calls"
        script.write_text(text)
        calls.write_text("")
        env = {"PATH": f"{folder}:{os.environ['PATH']}", "PROJECT": "a-project", "GCLOUD_CALLS": str(calls)}
        env["GCLOUD_HAS_ALL"] = "yes" if has_all else "no"
        subprocess.run(["bash", str(script)], env=env, check=True, capture_output=True)
        return [json.loads(line) for line in calls.read_text().splitlines()]

    return run


def flag(call: list[str], name: str, default: str = "") -> str:
    return next((word.partition("=")[2] for word in call if word.startswith(f"--{name}=")), default)


def created(calls: list[list[str]], *what: str) -> dict[str, list[str]]:
    """The `create` calls of a kind of resource, by its name."""
    words = ["compute", *what]
    return {
        next(word for word in call[len(words) :] if not word.startswith("--")): call
        for call in calls
        if call[: len(words)] == words
    }


def admits(rule: list[str], template: list[str], port: str) -> bool:
    """Whether a firewall rule lets Google's probers reach a port of a template's machines."""
    ranges = [ipaddress.ip_network(one) for one in flag(rule, "source-ranges").split(",") if one]
    tags, targets = (set(filter(None, text.split(","))) for text in (flag(template, "tags"), flag(rule, "target-tags")))
    opened = (flag(rule, "rules") or flag(rule, "allow")).split(",")
    return (
        flag(rule, "direction", "INGRESS") == "INGRESS"
        and (flag(rule, "action") == "ALLOW" or bool(flag(rule, "allow")))
        and flag(rule, "network", "default") == flag(template, "network", "default")
        and bool({f"tcp:{port}", "tcp", "all"} & set(opened))
        and (not targets or bool(targets & tags))
        and all(any(ipaddress.ip_network(one).subnet_of(wide) for wide in ranges) for one in PROBERS)  # type: ignore[arg-type]
    )


def unreachable_groups(calls: list[list[str]]) -> list[str]:
    """The instance groups that heal by a health check whose probes reach none of their machines."""
    templates, checks = created(calls, "instance-templates", "create"), created(calls, "health-checks", "create", "http")
    rules = created(calls, "firewall-rules", "create").values()
    groups = created(calls, "instance-groups", "managed", "create")
    return [
        name
        for name, group in groups.items()
        if (check := flag(group, "health-check"))
        and not any(admits(rule, templates[flag(group, "template")], flag(checks[check], "port")) for rule in rules)
    ]


def test_the_probes_of_health_checks_reach_the_workers(gcloud_calls: Ran) -> None:
    text = (DEPLOY / "gcloud" / "workers.sh").read_text()
    calls = gcloud_calls(text, False)
    assert created(calls, "instance-groups", "managed", "create")["sts-pool-workers"]
    assert unreachable_groups(calls) == []
    without_rule = re.sub(r"exists firewall-rules(?:.|\n)+?(?=\n\n)", "", text)
    for spoilt in (
        without_rule,
        text.replace(",130.211.0.0/22", ""),
        text.replace("--rules=tcp:8080", "--rules=tcp:80"),
        text.replace("--direction=INGRESS", "--direction=EGRESS"),
        text.replace(' --tags="${NAME}-workers"', ""),
        text.replace('--network="${NETWORK}" --direction', "--network=another --direction"),
    ):
        assert spoilt != text
        assert unreachable_groups(gcloud_calls(spoilt, False)) == ["sts-pool-workers"]


def test_the_workers_script_may_be_repeated(gcloud_calls: Ran) -> None:
    calls = gcloud_calls((DEPLOY / "gcloud" / "workers.sh").read_text(), True)
    assert [call for call in calls if "create" in call] == []
    assert any("set-autoscaling" in call for call in calls), "what may be changed is set again"
