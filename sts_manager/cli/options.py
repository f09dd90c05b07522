"""What all commands share: settings as flags, errors as one message and an exit code, the store, the way they report."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from sts_manager import admin, app, logs
from sts_manager.domain.errors import BadInput, Fatal, LeaseLost, Permanent, Retryable
from sts_manager.ports import JobStore
from sts_manager.settings import Settings, disagreements, flag_of, load_settings

EXIT_ERRORS, EXIT_USAGE, EXIT_CANNOT_GO_ON = 1, 2, 3
LINES = "\n\t"
"""What may stay as it is in a text of several lines."""
EXIT_UNFINISHED = 4
"""Told to stop before what was asked for was done: whoever runs the command must not take it for done."""
err = Console(stderr=True)


def option_of(name: str) -> Any:
    """A flag for one setting: its help is the setting's description, its default the setting's default."""
    field = Settings.model_fields[name]
    default = f" (default: {field.default})" if field.default not in ("", None, False) else ""
    return typer.Option(f"--{name.replace('_', '-')}", help=f"{field.description}{default}", show_default=False)


def switch_of(name: str) -> Any:
    dashed = name.replace("_", "-")
    return typer.Option(
        f"--{dashed}/--no-{dashed}" if not dashed.startswith("no-") else f"--{dashed}",
        help=Settings.model_fields[name].description,
        show_default=False,
    )


STORE_FLAGS = ("store", "job_table", "job_history_table", "dataset", "dataset_location", "project", "pool_ledger", "list_ledger")
"""What every command takes that opens the store."""

CONFIG = typer.Option("--config-path", help="JSON file with these flags (no leading dashes).")
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
AllInProject = Annotated[bool, typer.Option("--all-in-project", help="Also what other tools made in the project.")]


def command(*flags: str, tells_disagreements: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command with these settings as flags (and --config-path) beside its own parameters; it is given `settings`.

    tells_disagreements: it says where the file and the flags differ. Errors of ours end as one message and an exit code;
    anything else is a defect and keeps its traceback.
    """

    def decorate(own_code: Callable[..., None]) -> Callable[..., None]:
        def run(**given: Any) -> None:
            complaint = logs.configure()
            if complaint:
                err.print(f"warning: {complaint}", markup=False)
            try:
                chosen = {name: _joined(given.pop(name)) for name in flags}
                config = given.pop("config_path")
                settings = settings_of(config, **chosen)
                if tells_disagreements:
                    tell_disagreements(config, chosen)
                own_code(settings=settings, **given)
            except BadInput as error:
                fail(error, EXIT_USAGE)
            except (Fatal, Retryable, Permanent, LeaseLost) as error:
                fail(error, EXIT_CANNOT_GO_ON)

        own = [one for one in inspect.signature(own_code, eval_str=True).parameters.values() if one.name != "settings"]
        shared = {"config_path": Annotated[Path | None, CONFIG], **{name: flag_annotation(name) for name in flags}}
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            *(one.replace(kind=keyword) for one in own),
            *(inspect.Parameter(name, keyword, default=None, annotation=kind) for name, kind in shared.items()),
        ]
        # typer reads a command's flags off its signature.
        run.__name__, run.__doc__ = own_code.__name__, own_code.__doc__
        vars(run)["__signature__"] = inspect.Signature(parameters)
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return decorate


REPEATED = ("project", "include_storage_classes")
"""Settings whose flag may be repeated: values are joined by commas, as they are written in the environment and in files."""


def _joined(value: Any) -> Any:
    return ",".join(value) if isinstance(value, list) else value


def flag_annotation(name: str) -> Any:
    """The annotation of one setting's flag. None: not given. What typer cannot check, the settings check."""
    kind = Settings.model_fields[name].annotation
    if name in REPEATED:
        return Annotated[list[str] | None, option_of(name)]
    if kind is bool:
        return Annotated[bool | None, switch_of(name)]
    return Annotated[(kind if kind in (int, float) else str) | None, option_of(name)]


def fail(error: Exception, code: int) -> None:
    print(f"error: {logs.visible(logs.masked(str(error)), keep=LINES)}", file=sys.stderr)
    raise typer.Exit(code) from error


FILE_FIRST: ContextVar[bool] = ContextVar("file_first", default=False)
"""Whether the --config-path file wins over flags, as it did in the older tool."""


def settings_of(config: Path | None, **flags: object) -> Settings:
    """The settings of one call, warned about where a flag has no effect. Raises BadInput."""
    settings = load_settings(flags, os.environ, config, file_first=FILE_FIRST.get())
    if settings.bigquery is None:
        for key in ("dataset", "dataset_location"):
            if getattr(settings, key) != Settings.model_fields[key].default:
                err.print(f"warning: {flag_of(key)} has no effect without --store bigquery", markup=False)
    return settings


def tell_disagreements(config: Path | None, flags: Mapping[str, object]) -> None:
    """Say once where the file and the flags differ: which of them wins is not as in the older tool."""
    differing = [] if config is None else disagreements(flags, config)
    if differing:
        which = (
            "the file wins, as in the older tool"
            if FILE_FIRST.get()
            else "the flags win (in the older tool the file won; tools/sts_job_manager.py keeps to that)"
        )
        err.print(f"warning: {config} and the flags differ, and {which}: {'; '.join(differing)}", markup=False, soft_wrap=True)


@contextmanager
def opened_store(settings: Settings, *, create: bool = False, keep_older_errors: bool = False) -> Iterator[JobStore]:
    """The store, closed at the end. `create`: made or brought up to date first, told step by step."""
    tell = lambda step: print_lines([f"done: {step}"])  # noqa: E731 - a name for the reader
    store = app.store_of(settings, create=create, told=tell, keep_older_errors=keep_older_errors)
    try:
        yield store
    finally:
        store.close()


def report(done: Iterable[admin.Done], verb: str, *, dry_run: bool) -> int:
    """What became of each, a line each as it comes, and a sum. How many are left as they were."""
    number = left = 0
    for one in done:
        number, left = number + one.done, left + (not one.done)
        if one.done:
            print_lines([f"{'would be ' if dry_run else ''}{verb}  {one.name}"])
        else:
            print_lines([f"not {verb}  {one.name}: {one.why}"])
    print_lines([f"{number:,} {'would be ' if dry_run else ''}{verb}, {left:,} left as they are"])
    return left


def print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(logs.visible(line, keep=LINES))
