"""`python -m tools.emulators up`: the rehearsal stage as a process."""

from __future__ import annotations

import os
import shlex
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from tools.emulators.ledger import check_projects
from tools.emulators.stage import PROJECT, SERVICES, Stage

app = typer.Typer(
    add_completion=False,
    help="The rehearsal stage on loopback: S3, Cloud Storage, Transfer Service, BigQuery, Monitoring, CloudFront, Pub/Sub.",
)


@app.callback()
def _root() -> None:
    pass


@app.command()
def up(
    env_file: Annotated[Path, typer.Option(help="Where to write the environment variables, once all servers are ready.")],
    only: Annotated[str, typer.Option(help="Comma-separated services to start.")] = ",".join(SERVICES),
    project: Annotated[
        list[str] | None, typer.Option(help="A project's name; may be repeated. The first one is for whatever names none.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Keep object bytes in files of this folder instead of in memory.")] = None,
) -> None:
    """Start the servers, write the variables that the official clients need, print `ready`, run until SIGTERM."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    if data is not None:
        data.mkdir(parents=True, exist_ok=True)
    try:
        projects = check_projects(project or [PROJECT])
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--project") from error
    try:
        stage = Stage(tuple(filter(None, only.split(","))), data, projects)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--only") from error
    text = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in stage.environment.items())
    partial = env_file.with_name(f"{env_file.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(env_file)  # whoever waits for the file never reads half of it
    typer.echo("ready")
    stopping.wait()
    stage.stop()
    env_file.unlink(missing_ok=True)


if __name__ == "__main__":
    app()
