"""The commands. Exit codes: 0 done, 1 some prefixes ended in error, 2 bad usage or settings, 3 cannot go on."""

from __future__ import annotations

import getpass
import logging
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.progress import Progress

from sts_manager import admin, logs
from sts_manager import app as wiring
from sts_manager.cli import views
from sts_manager.cli.options import (
    EXIT_ERRORS,
    EXIT_UNFINISHED,
    STORE_FLAGS,
    AllInProject,
    DryRun,
    command,
    err,
    opened_store,
    print_lines,
    report,
)
from sts_manager.cli.prefix_file import ROUTES, PrefixFile, read_prefixes
from sts_manager.cli.probe_options import ProbeOptions
from sts_manager.daemon.loop import Ending, Stop
from sts_manager.daemon.pass_result import PassResult
from sts_manager.doctor.finding import Level
from sts_manager.domain.errors import BadInput, Fatal
from sts_manager.domain.location import Scheme
from sts_manager.domain.model import EMPTY, Hold, JobStatus, Route, StartRefused, SteeringFailed
from sts_manager.domain.names import Prefix
from sts_manager.domain.routing import AUTO
from sts_manager.ports import JobStore
from sts_manager.settings import Settings, seconds_of, shown
from sts_manager.stores import queries

log = logging.getLogger(__name__)

GROUPS_MAX = 100

WATCH_S, WATCH_BILLED_S = 2.0, 30.0

app = typer.Typer(
    name="sts-manager",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Moves prefixes of objects from AWS S3 to Google Cloud Storage. "
    "Settings come from flags, STS_MANAGER_… variables, the --config-path file, then defaults.",
)
# Tables are as wide as they need to be where nobody's terminal limits them.
out = Console(width=None if sys.stdout.isatty() else 200)


@app.command()
@command(*Settings.model_fields, tells_disagreements=True)
def run(
    *,
    settings: Settings,
    until_done: Annotated[
        bool,
        typer.Option(
            "--until-done",
            help="End when every prefix has ended: exit 0, or 1 if any ended in error; 4 if it is stopped before. "
            "One that is followed has ended: its bulk is "
            "done, and the service goes on without the daemon; 1 as well if what failed of it is not at the destination.",
        ),
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="One pass, then end.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan of one pass; write and start nothing.")] = False,
) -> None:
    """Run the daemon: start, watch, resume and retry transfers until told to stop (SIGTERM)."""
    if settings.stackdriver_project and not settings.publish_heartbeat:
        err.print("warning: --stackdriver-project has no effect without --publish-heartbeat", markup=False)
    log.info("settings", extra={"fields": {**shown(settings), "project": wiring.project_told(settings)}})
    stop = Stop(late_exit=EXIT_UNFINISHED if until_done else 0)
    with opened_store(settings) as opened, stop.on_signals(), closing(wiring.OwnRoutes(settings)) as own:
        if dry_run:
            choice = wiring.chosen(settings)
            print_lines([f"route    {choice.route.value}: {choice.why}; a row's own route wins"])
            result = wiring.reconciler_of(settings, opened, None, stop, own).run_pass(dispatch=True, dry_run=True)
            print_lines([*views.plan_lines(result.plan), *([result.degraded] if result.degraded else [])])
            return
        if wiring.chosen(settings).route is Route.CDN:
            own.pool.open()
        if once:
            _run_once(settings, opened, stop, own)
        else:
            _run_daemon(settings, opened, stop, own, until_done=until_done)


def _run_once(settings: Settings, opened: JobStore, stop: Stop, own: wiring.OwnRoutes) -> None:
    _, reconciler, lease = wiring.daemon_of(settings, opened, stop, own)
    holder = lease.acquire()
    if holder is not None:
        raise Fatal(f"{holder.who} runs on this store since {holder.since:%Y-%m-%d %H:%M:%SZ}; stop it first, or leave it to it")
    try:
        own.catch_up()
        result = reconciler.run_pass(dispatch=True)
        reconciler.settle_outcomes()
    finally:
        lease.release()
    print_lines(views.plan_lines(result.plan))
    refused = [one for one in result.outcomes if isinstance(one, (StartRefused, SteeringFailed))]
    for one in refused:
        print(f"refused  {one.prefix}: {one.code}: {logs.masked(one.message)}", file=sys.stderr)
    if result.degraded or refused:
        raise Fatal(result.degraded or f"{len(refused):,} of {result.acted:,} steps were refused; nothing is lost, run again")


def _run_daemon(settings: Settings, opened: JobStore, stop: Stop, own: wiring.OwnRoutes, *, until_done: bool) -> None:
    daemon, _, _ = wiring.daemon_of(settings, opened, stop, own, until_done=until_done, watch=_progress)
    ending = daemon.run()
    log.info("ended", extra={"fields": {"because": ending.value}})
    followed = [job for job in opened.live() if job.route is Route.STS_FOLLOW] if until_done else []
    if followed:
        told = "the transfer service goes on with that; a daemon without --until-done also brings once more what fails"
        print(f"{len(followed):,} prefixes are followed: {told}", file=sys.stderr)
    if ending is Ending.ERRORS:
        what = "ended in error, or are followed and lack something" if followed else "ended in error"
        print(f"some prefixes {what}; `sts-manager status` says which and why", file=sys.stderr)
        raise typer.Exit(EXIT_ERRORS)
    if ending is Ending.STOPPED and until_done:
        counts = opened.counts()
        unended = (JobStatus.WAITING, JobStatus.RUNNING, JobStatus.PAUSED)
        left = ", ".join(f"{counts[one]:,} {one.value}" for one in unended if counts[one])
        told = left or "every prefix has ended, and what the service passed over was still looked for"
        print(f"stopped before the end: {told}. Run the same command again: nothing is lost", file=sys.stderr)
        raise typer.Exit(EXIT_UNFINISHED)
    shortfalls = list(_find_shortfalls(settings, opened, own)) if ending is Ending.DONE else []
    if shortfalls:
        print("\n".join(shortfalls), file=sys.stderr)
        raise typer.Exit(EXIT_ERRORS)
    if ending is Ending.BLOCKED:
        breaker = opened.control().breaker
        assert breaker is not None
        raise Fatal(f"nothing can start: {breaker.code}: {breaker.message}. Mend it and run again: nothing is lost")


def _find_shortfalls(settings: Settings, opened: JobStore, own: wiring.OwnRoutes) -> Iterator[str]:
    """Every prefix is done: why that is not all that was asked for (invariants 16 and 17)."""
    number, why = own.lists.uncompared()
    if number:
        told = f": {why}" if why else ", as nothing more was listed for long (the lister's lines in the log say why)"
        yield (
            f"{number:,} prefix(es) are done and could not be compared{told}. What the service passed over of them is not known; "
            "`rerun` them, or give --no-compare"
        )
    left = () if settings.allow_left_behind else opened.left_behind(1)
    if left:
        yield (
            f"objects of prefixes that are done are not at the destination; {left[0].prefix!r} has most. `sts-manager failures` "
            "names them, and says what to do. Where they are to stay behind, give --allow-left-behind"
        )
    empty = next((one for one in opened.error_groups(GROUPS_MAX) if one.code == EMPTY), None)
    if empty is not None and not settings.allow_empty:
        yield (
            f"{empty.prefixes:,} prefix(es) are done and matched no object, {empty.example!r} among them: {empty.message} "
            "`sts-manager query empty` names them. Where that is as it should be, give --allow-empty"
        )


def _progress(result: PassResult) -> None:
    """On a terminal, a line after each pass that says how far the whole is; the log has the rest."""
    if out.is_terminal:
        counts = result.counts
        done, total, running = counts[JobStatus.DONE], sum(counts.values()), counts[JobStatus.RUNNING]
        moved = "" if result.progress is None else f", {views.human_bytes(result.progress.bytes_copied)} copied"
        out.print(f"{done:,} of {total:,} prefixes done, {running:,} running{moved}", markup=False)


@app.command("prepare-tables")
@command(*STORE_FLAGS, "no_retry_on_job_error")
def prepare_tables(
    *,
    settings: Settings,
    job_prefix_source_file: Annotated[
        Path | None,
        typer.Option(
            help="JSON array of prefixes, or of objects with prefix, route, source, destination; or one prefix a line. "
            "Without it only the tables are made."
        ),
    ] = None,
    keep_older_errors: Annotated[
        bool,
        typer.Option(
            "--keep-older-errors",
            help="Of a dataset that the older tool made: leave what ended in error. By default it is tried again, as that tool "
            "did; --no-retry-on-job-error leaves it, too.",
        ),
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Create the tables when missing, bring an older schema up to date, and load prefixes as `waiting`. Safe to repeat."""
    read = read_prefixes(job_prefix_source_file) if job_prefix_source_file is not None else PrefixFile([], {})
    prefixes = read.prefixes
    if dry_run:
        print_lines(f"would {step}" for step in wiring.preparation_of(settings, keep_older_errors=keep_older_errors))
        fit = f"{len(prefixes):,} prefixes are fit to load into {settings.store_shown}; " if job_prefix_source_file else ""
        out.print(f"{fit}nothing was written", markup=False)
        return
    with (
        opened_store(settings, create=True, keep_older_errors=keep_older_errors) as opened,
        Progress(console=err, transient=True, disable=not err.is_terminal) as bar,
    ):
        task = bar.add_task("loading prefixes", total=len(prefixes))
        loaded = admin.prepare(opened, prefixes, datetime.now(UTC), lambda number: bar.advance(task, number), read.chosen)
    out.print(f"{settings.store_shown}: {loaded.added:,} prefixes added, {loaded.present:,} were there already", markup=False)


@app.command("pause-all-jobs")
@command(*STORE_FLAGS)
def pause_all_jobs(
    *,
    settings: Settings,
    hold: Annotated[bool, typer.Option("--hold", help="Also start and resume nothing until resume-all-jobs.")] = False,
    reason: Annotated[str, typer.Option(help="Why, for whoever looks at `status` (with --hold).")] = "",
    dry_run: DryRun = False,
    all_in_project: AllInProject = False,
) -> None:
    """Pause all running operations. Without --hold a running daemon resumes them in its next job cycle."""
    now = datetime.now(UTC)
    wish = Hold(by=f"{getpass.getuser()}@{socket.gethostname()}", at=now, reason=reason) if hold else None
    with opened_store(settings) as opened, wiring.transfer_project(settings) as project:
        done = admin.pause_all(opened, project, now, hold=wish, dry_run=dry_run, all_in_project=all_in_project)
    if hold and not dry_run:
        print_lines(["held: nothing starts or resumes until `sts-manager resume-all-jobs`"])
    report(done, "paused", dry_run=dry_run)


@app.command("resume-all-jobs")
@command(*STORE_FLAGS)
def resume_all_jobs(
    *,
    settings: Settings,
    dry_run: DryRun = False,
    all_in_project: AllInProject = False,
) -> None:
    """Lift the hold, and resume every paused operation."""
    with opened_store(settings) as opened, wiring.transfer_project(settings) as project:
        done = admin.resume_all(opened, project, datetime.now(UTC), dry_run=dry_run, all_in_project=all_in_project)
    report(done, "resumed", dry_run=dry_run)


@app.command("remove-successful-one-time-jobs")
@command(*STORE_FLAGS)
def remove_successful_one_time_jobs(
    *,
    settings: Settings,
    dry_run: DryRun = False,
    all_in_project: AllInProject = False,
) -> None:
    """Delete transfer jobs that ran once and succeeded wholly. Never-run, recurring and still needed ones are kept."""
    with opened_store(settings) as opened, wiring.transfer_project(settings) as project:
        done = list(admin.remove_successful_one_time_jobs(opened, project, dry_run=dry_run, all_in_project=all_in_project))
    report(done, "removed", dry_run=dry_run)


@app.command()
@command(*STORE_FLAGS)
def status(
    *,
    settings: Settings,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Keep showing it until Ctrl-C: every 2 s, from BigQuery every 30 s, as each look is billed."
        ),
    ] = False,
) -> None:
    """Is it running, how far is it, what failed and what to do about it."""
    with opened_store(settings) as opened:
        if as_json:
            print(views.as_json(views.gather(opened, datetime.now(UTC))))
        elif watch:
            with Live(console=out, auto_refresh=False) as live:
                while True:
                    live.update(views.screen(views.gather(opened, datetime.now(UTC))), refresh=True)
                    time.sleep(WATCH_BILLED_S if settings.bigquery is not None else WATCH_S)
        else:
            out.print(views.screen(views.gather(opened, datetime.now(UTC))))


@app.command()
@command(*STORE_FLAGS)
def history(
    *,
    settings: Settings,
    prefix: Annotated[str, typer.Argument(help="The prefix, exactly as in the job table.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with each operation in full.")] = False,
) -> None:
    """Everything that happened to one prefix, oldest first."""
    with opened_store(settings) as opened:
        if opened.job(Prefix(prefix)) is None:
            raise BadInput(
                f"there is no prefix {prefix!r} in {settings.store_shown}; is it spelt as in the file, with its last '/'?"
            )
        rows = opened.history(Prefix(prefix))
        if as_json:
            print(views.history_json(rows))
        else:
            out.print(views.history_table(prefix, rows))


@app.command()
@command(*STORE_FLAGS)
def failures(
    *,
    settings: Settings,
    prefix: Annotated[str | None, typer.Argument(help="Of this prefix only.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many objects.")] = 1000,
    as_csv: Annotated[bool, typer.Option("--csv", help="As comma-separated values.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Which objects failed and why, by whichever route: those of each prefix's last attempt, and what to do about them."""
    with opened_store(settings) as opened:
        if prefix is not None and opened.job(Prefix(prefix)) is None:
            raise BadInput(f"there is no prefix {prefix!r} in {settings.store_shown}; is it spelt as in the file?")
        found = opened.failures(None if prefix is None else Prefix(prefix), limit)
    answer = views.failures_answer(found)
    if as_json:
        print(views.answer_json(answer))
    elif as_csv:
        print_lines(views.answer_csv(answer))
    elif not found:
        print_lines(["no failed object is known"])
    else:
        out.print(
            views.answer_table(answer, f"{len(found):,} failed objects{' (and perhaps more)' if len(found) == limit else ''}")
        )
        print_lines(views.advice_lines(found))


@app.command()
@command(*STORE_FLAGS)
def query(
    *,
    settings: Settings,
    name: Annotated[str | None, typer.Argument(help="Which query; without it they are listed.")] = None,
    prefix: Annotated[str | None, typer.Option(help="The prefix, for a query about one.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="As comma-separated values.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the SQL, and run nothing.")] = False,
) -> None:
    """Run one of the queries of docs/queries: what failed, how fast, how long, what it cost."""
    if name is None:
        print_lines(f"{one:<16} {queries.says(text)}" for one, text in queries.texts().items())
        return
    text = queries.text_of(name)
    if show:
        print_lines([text.rstrip()])
        return
    wanted = queries.wants(text)
    if (prefix is not None) != ("prefix" in wanted):
        raise BadInput(f"query {name} {'needs' if 'prefix' in wanted else 'takes no'} --prefix")
    with opened_store(settings) as opened:
        answer = wiring.asked(opened).ask(text, {} if prefix is None else {"prefix": prefix})
    if as_json:
        print(views.answer_json(answer))
    elif as_csv:
        print_lines(views.answer_csv(answer))
    else:
        out.print(views.answer_table(answer, queries.says(text)))


@app.command()
@command(*STORE_FLAGS)
def retry(
    *,
    settings: Settings,
    prefixes: Annotated[list[str] | None, typer.Argument(help="Prefixes to start again.")] = None,
    errors: Annotated[bool, typer.Option("--errors", help="All prefixes that ended in error.")] = False,
    code: Annotated[str | None, typer.Option(help="With --errors: only those with this error code.")] = None,
) -> None:
    """Let prefixes that ended in error start again, with a fresh count of attempts."""
    if bool(prefixes) == errors:
        raise BadInput("name prefixes to retry, or give --errors for all that ended in error")
    if code and not errors:
        raise BadInput("--code goes with --errors")
    now = datetime.now(UTC)
    with opened_store(settings) as opened:
        done: Iterable[admin.Done] = (
            admin.retry_errors(opened, now, code=code)
            if errors
            else admin.retry(opened, [Prefix(prefix) for prefix in prefixes or ()], now)
        )
        left = report(done, "set to retry", dry_run=False)
    if left:
        raise typer.Exit(EXIT_ERRORS)


@app.command()
@command(*STORE_FLAGS)
def route(
    *,
    settings: Settings,
    prefixes: Annotated[list[str], typer.Argument(help="Prefixes, then the route: auto, sts-s3, sts-gcs, sts-url-list or cdn.")],
) -> None:
    """Give prefixes a route of their own (PREFIX… ROUTE), from their next start on; `auto` gives them the daemon's again."""
    *wanted, named = prefixes
    if not wanted or named not in (AUTO, *ROUTES):
        raise BadInput(f"route PREFIX… ROUTE: {named!r} is no route; there are {AUTO}, {', '.join(ROUTES)}")
    chosen = None if named == AUTO else Route(named)
    with opened_store(settings) as opened:
        done = admin.set_route(opened, [Prefix(prefix) for prefix in wanted], chosen, datetime.now(UTC))
    report(done, f"set to {named}", dry_run=False)
    if any(not one.done for one in done):
        raise typer.Exit(EXIT_ERRORS)


@app.command()
@command(*STORE_FLAGS)
def rerun(
    *,
    settings: Settings,
    prefixes: Annotated[list[str] | None, typer.Argument(help="Prefixes that are done, to go once more.")] = None,
    every_prefix: Annotated[bool, typer.Option("--all", help="All prefixes that are done.")] = False,
    every: Annotated[str, typer.Option(help="Do it again and again, with this pause: 90s, 10m, 6h, 1d.")] = "",
) -> None:
    """Let done prefixes go again (a delta pass): only what is new or has changed at the source is transferred by the daemon."""
    if bool(prefixes) == every_prefix:
        raise BadInput("name prefixes to run again, or give --all for all that are done")
    pause = seconds_of(every) if every else 0.0
    wanted = [Prefix(prefix) for prefix in prefixes or ()]
    stop = Stop()
    with opened_store(settings) as opened, stop.on_signals():
        while True:
            now = datetime.now(UTC)
            done: Iterable[admin.Done] = admin.rerun_all(opened, now) if every_prefix else admin.rerun(opened, wanted, now)
            left = report((one for one in done if one.done or not every), "set to run again", dry_run=False)
            if not every:
                break
            if stop.wait(pause):
                return
    if left:
        raise typer.Exit(EXIT_ERRORS)


@app.command()
@command(*STORE_FLAGS, "event_queue")
def follow(
    *,
    settings: Settings,
    prefixes: Annotated[list[str] | None, typer.Argument(help="Prefixes that are done, to follow from now on.")] = None,
    every_prefix: Annotated[bool, typer.Option("--all", help="All prefixes that are done.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Follow no more: delete the transfer job.")] = False,
) -> None:
    """After the bulk: copy what changes at the source, as S3 tells it (`run --event-queue`), until `follow --stop`.

    With --event-queue, also refused while any other transfer job listens to that queue.
    """
    if (bool(prefixes) + every_prefix + stop) != 1:
        raise BadInput("name prefixes to follow, or give --all for all that are done, or --stop")
    now = datetime.now(UTC)
    with opened_store(settings) as opened, wiring.transfer_project(settings) as project:
        if stop:
            done = admin.stop_following(opened, project, now)
        else:
            wanted = None if every_prefix else [Prefix(prefix) for prefix in prefixes or ()]
            done = admin.follow(opened, project, wanted, now, queue=settings.event_queue)
    report(done, "stopped" if stop else "set to follow", dry_run=False)
    if any(not one.done for one in done):
        raise typer.Exit(EXIT_ERRORS)


@app.command()
@command(*STORE_FLAGS)
def cancel(
    *,
    settings: Settings,
    prefixes: Annotated[list[str], typer.Argument(help="Prefixes whose transfer is to end.")],
) -> None:
    """End the transfers of prefixes, by whichever route; of followed ones `follow --stop` does.

    They end in `error` (CANCELLED) and start again only by `retry`.
    """
    with opened_store(settings) as opened, wiring.transfer_project(settings) as project:
        done = admin.cancel(opened, [Prefix(prefix) for prefix in prefixes], project.cancel)
    report(done, "cancelled", dry_run=False)
    if any(not one.done for one in done):
        raise typer.Exit(EXIT_ERRORS)


@app.command()
@command(*Settings.model_fields)
def doctor(
    *,
    settings: Settings,
    prefix: Annotated[list[str] | None, typer.Option(help="Also look through this prefix's listing. May be repeated.")] = None,
    scan_max: Annotated[int, typer.Option(min=1, help="Objects of a prefix that are listed, at most.")] = 100_000,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe",
            help="Settle by experiment how the real services behave, instead of only looking: after a question it writes a few "
            "small objects, runs a few small transfers, and removes all of it (docs/probe.md). Exit 1 if anything contradicts "
            "what this program relies on.",
        ),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="With --probe: agree beforehand to what it makes, deletes and costs.")
    ] = False,
    probe_report: Annotated[
        Path | None, typer.Option(help="With --probe: the report, JSON without secrets. [default: sts-manager-probe-ID.json]")
    ] = None,
    probe_source_write: Annotated[
        bool, typer.Option("--probe-source-write", help="With --probe: also write six small objects to the S3 source.")
    ] = False,
    probe_kms_key: Annotated[str, typer.Option(help="With --probe: encrypt one object with it: projects/…/cryptoKeys/K.")] = "",
) -> None:
    """Find trouble before it costs money: give it the flags of `run`. Nothing is changed; exit 1 if anything would fail."""
    given = [yes, probe_report is not None, probe_source_write, bool(probe_kms_key)]
    if probe:
        if prefix:
            raise BadInput("--prefix looks through a listing, and --probe makes experiments: give one of the two")
        _probe(settings, ProbeOptions(yes, probe_report, probe_source_write, probe_kms_key, as_json))
        return
    if any(given):
        flags = ("--yes", "--probe-report", "--probe-source-write", "--probe-kms-key")
        raise BadInput(f"{flags[given.index(True)]} goes with --probe")
    from sts_manager.doctor.run import examine  # noqa: PLC0415 - half a second, which no other command needs

    patient = wiring.patient_of(settings, frozenset({wiring.route_of(settings).value}), wiring.answers_of(settings))
    if prefix and patient.source.scheme is not Scheme.S3:
        raise BadInput(f"--prefix is for an S3 source, and --source-bucket is {patient.source}")
    found = []
    for one in examine(patient, wiring.means_of(settings), prefix or (), scan_max):
        found.append(one)
        if not as_json:
            out.print(views.finding_line(one))
    if as_json:
        print(views.findings_json(found))
    else:
        out.print(views.findings_sum(found), markup=False)
    if any(one.level is Level.FAIL for one in found):
        raise typer.Exit(EXIT_ERRORS)


def _probe(settings: Settings, options: ProbeOptions) -> None:
    from sts_manager.cli.probe import probe  # noqa: PLC0415 - half a second, which no other command needs

    if not probe(settings, options, out):
        raise typer.Exit(EXIT_ERRORS)


@app.command("create-alerts")
@command("project", "stackdriver_project", "job_interval", "metrics_interval", "sleep_timeout")
def create_alerts(
    *,
    settings: Settings,
    notification_channel: Annotated[
        list[str] | None,
        typer.Option(help="Who is told: projects/PROJECT/notificationChannels/NUMBER. May be repeated. Without it, none is set."),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Create or update the alert policies over the daemon's heartbeat (run it with --publish-heartbeat). Safe to repeat."""
    would = "would be " if dry_run else ""
    policies = wiring.alert_policies(settings).apply(wiring.alerts_of(settings), notification_channel or (), dry_run=dry_run)
    for did in policies:
        print_lines([f"{'' if did.what == 'unchanged' else would}{did.what:<10} {did.alert.key:<16} {did.alert.title}"])


@app.command()
@command("health_file", "sleep_timeout")
def health(
    *,
    settings: Settings,
) -> None:
    """Whether the daemon on this machine lives, by its --health-file: exit 0 if so, else 1. For a container's health check."""
    if not settings.health_file:
        raise BadInput("--health-file: name the file that the daemon was given")
    age, most = wiring.silent_for(settings)
    if age is None or age > most:
        told = "does not exist" if age is None else f"was touched {age:,.0f} s ago, and {most:,.0f} s are too many"
        print(f"unhealthy: {settings.health_file} {told}", file=sys.stderr)
        raise typer.Exit(EXIT_ERRORS)
    print_lines([f"healthy: heard {age:,.0f} s ago"])


def main() -> None:
    """The entry point of `sts-manager`."""
    app()


if __name__ == "__main__":
    main()
