"""`doctor --probe`: from settings to a probe, its consent, its report, and what of it is kept for the daemon."""

from __future__ import annotations

import os
import re
import secrets
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import requests
import typer
from rich.console import Console

from cdn_worker.domain.errors import CdnWorkerError
from sts_manager import app
from sts_manager.cli import probe_view
from sts_manager.cli.probe_options import ProbeOptions
from sts_manager.doctor import google
from sts_manager.doctor.probe.cdn_reader import check_signing
from sts_manager.doctor.probe.cleaning import FAULTS
from sts_manager.doctor.probe.consent import check_source, describe_plan, examine_bucket, settle_rights
from sts_manager.doctor.probe.context import Choices, Clients, Context
from sts_manager.doctor.probe.interrupts import Interrupts
from sts_manager.doctor.probe.observation import Report, hide
from sts_manager.doctor.probe.record import ProbeRecord, RecordFile, make_id, write_private
from sts_manager.doctor.probe.run import run_probe
from sts_manager.doctor.probe.storage import SERVICE, CloudStorage
from sts_manager.doctor.projects import Unanswered, ask_permissions
from sts_manager.domain.errors import BadInput, Fatal, StsManagerError
from sts_manager.domain.location import Scheme
from sts_manager.domain.service_answers import ServiceAnswers
from sts_manager.metrics.cloud_monitoring import AlertPolicies, CloudMonitoring, Origin
from sts_manager.ports import MetricsSink
from sts_manager.routes.pool.copy_spec import beside_store
from sts_manager.routes.sts.spec import TransferSettings
from sts_manager.routes.sts.transfer_log import session_at
from sts_manager.settings import Settings

_KMS_KEY = re.compile(r"projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+")


def probe(settings: Settings, options: ProbeOptions, out: Console, ask: Callable[[str], bool] | None = None) -> bool:
    """Probe, tell, report. Whether all is as assumed.

    ask   puts the question on a terminal; None asks where there is one. Raises BadInput without consent, Fatal where the
    destination cannot be written to, or when it was interrupted.
    """
    err = Console(stderr=True, width=None if sys.stderr.isatty() else 200)
    if not options.yes and ask is None:
        ask = _ask_on_terminal()
    if options.write_source and settings.source.scheme is not Scheme.S3:
        raise BadInput(f"--probe-source-write is for an S3 source, and --source-bucket is {settings.source}")
    if options.kms_key and not _KMS_KEY.fullmatch(options.kms_key):
        right = "projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY"
        raise BadInput(f"--probe-kms-key {options.kms_key!r} is no name of a Cloud KMS key: it is written {right}")
    with ExitStack() as opened:
        try:
            context = make_context(settings, options, opened)
            check_signing(context)
            check_source(context)
            fitness = examine_bucket(context)
            context = settle_rights(context, fitness)
        except CdnWorkerError as error:
            raise BadInput(f"{error}. Nothing was written") from error
        except FAULTS as error:
            if isinstance(error, StsManagerError):
                raise
            raise Fatal(f"the probe cannot begin: {type(error).__name__}: {hide(str(error))}. Nothing was written") from error
        path = options.report or Path(f"sts-manager-probe-{context.record.id}.json")
        _check_writable(path)
        for line in describe_plan(context, fitness):
            err.print(line, markup=False, highlight=False)
        if not options.yes and (ask is None or not ask("Go on?")):
            raise BadInput("no consent was given: nothing was done")
        file = RecordFile(beside_store(settings, "probes").with_suffix(".jsonl"))
        interrupts = Interrupts()
        context = replace(context, sleep=interrupts.sleep)
        with interrupts.taken():
            try:
                report = run_probe(
                    context, file, fitness, lambda event: err.print(probe_view.progress_line(event)), interrupts.heard
                )
            except KeyboardInterrupt as error:
                remedy = "what it made is removed, but for what was named above; `doctor --probe` removes the rest"
                raise Fatal(f"interrupted: {remedy}") from error
            except FAULTS as error:
                if isinstance(error, StsManagerError):
                    raise
                raise Fatal(f"the probe ended: {type(error).__name__}: {hide(str(error))}") from error
        _tell(report, path, options, out)
        keep_answers(settings, report, lambda line: err.print(line, markup=False))
        return not report.failed


def _ask_on_terminal() -> Callable[[str], bool]:
    if not sys.stdin.isatty():
        raise BadInput("doctor --probe writes, runs transfers and deletes: give --yes to agree, as there is no terminal to ask")
    return lambda question: typer.confirm(question, err=True)


def _check_writable(path: Path) -> None:
    """Before the first call that changes something: a report that cannot be written is known too late else."""
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise BadInput(f"--probe-report {path} cannot be written: it is a folder, or its folder is not there or not writable")


def _tell(report: Report, path: Path, options: ProbeOptions, out: Console) -> None:
    text = report.text()
    try:
        write_private(path, text)
    except OSError as error:
        print(f"warning: --probe-report {path} could not be written: {error.strerror}", file=sys.stderr)
    if options.as_json:
        print(text, end="")
        return
    out.print(probe_view.table(report))
    for line in probe_view.left_out(report):
        out.print(line, markup=False, highlight=False)
    out.print(f"{probe_view.summary(report)}; report: {path}", markup=False)


def keep_answers(settings: Settings, report: Report, tell: Callable[[str], None]) -> None:
    """Store what the daemon heeds. A store that is not there is told, and is no reason to fail."""
    answers = ServiceAnswers(
        probe=report.probe,
        at=datetime.now(UTC),
        project=report.project,
        destination=report.destination,
        answers=report.answers,
    )
    try:
        with closing(app.store_of(settings)) as store:
            known = store.control().answers
            store.set_answers(answers if known is None else known.renew(answers))
    except StsManagerError as error:
        tell(f"what was observed is not kept for the daemon, as the job table cannot be opened: {error}")


# The clients


def make_context(settings: Settings, options: ProbeOptions, opened: ExitStack) -> Context:
    """A probe that has not begun. Raises BadInput, Fatal."""
    now = datetime.now(UTC)
    patient = app.patient_of(settings, frozenset({app.route_of(settings).value}))
    clients = make_clients(settings, opened)
    transfer, fault = _transfer_settings(settings)
    dataset = ""
    if clients.warehouse is not None:
        names = clients.warehouse.names
        dataset = f"{names.project}.{names.dataset}"
    record = ProbeRecord(
        id=make_id(now, secrets.token_hex(3)),
        began_at=now.isoformat(),
        project=patient.project,
        destination=f"gs://{patient.sink.bucket}",
        source=str(patient.source) if options.write_source and clients.s3 is not None else "",
        dataset=dataset,
        monitoring=app.monitoring_project(settings) if clients.metrics is not None else "",
    )
    choices = Choices(write_source=bool(record.source), kms_key=options.kms_key)
    return Context(
        record=record, patient=patient, clients=clients, transfer_settings=transfer, transfer_fault=fault, choices=choices
    )


def _transfer_settings(settings: Settings) -> tuple[TransferSettings | None, str]:
    try:
        return app.transfer_settings(settings), ""
    except BadInput as error:
        return None, str(error)


def make_clients(settings: Settings, opened: ExitStack) -> Clients:
    """How the services are reached with these settings. Raises BadInput, Fatal."""
    base, session = session_at(google.STORAGE_EMULATOR, SERVICE)
    opened.enter_context(session)
    web = opened.enter_context(requests.Session())
    warehouse = None
    if settings.bigquery is not None:
        warehouse = opened.enter_context(closing(app.warehouse_of(settings)))
    return Clients(
        storage=CloudStorage(session, base),
        transfers=app.clients_of(settings)[app.project_of(settings)],
        web=web,
        s3=_s3_client(settings, opened),
        metrics=partial(_metrics, settings) if settings.publish_heartbeat else None,
        location=app.series_location(settings),
        policies=_policies,
        warehouse=warehouse,
        granted=granted_in_project,
    )


def _s3_client(settings: Settings, opened: ExitStack) -> Any:
    session = boto3.Session()
    if settings.source.scheme is not Scheme.S3 or session.get_credentials() is None:
        return None
    return opened.enter_context(closing(session.client("s3")))


def _metrics(settings: Settings, location: str, task: str) -> MetricsSink:
    origin = Origin(project=app.monitoring_project(settings), location=location, namespace="sts-manager-probe", task_id=task)
    return CloudMonitoring(origin, os.environ.get(app.MONITORING_EMULATOR))


def _policies(project: str) -> AlertPolicies:
    return AlertPolicies(project, os.environ.get(app.MONITORING_EMULATOR))


def granted_in_project(project: str, permissions: tuple[str, ...]) -> list[str] | None:
    """Of permissions, those that the caller has in a project; None where Cloud Resource Manager does not tell."""
    try:
        return sorted(ask_permissions(project, permissions))
    except Unanswered:
        return None
