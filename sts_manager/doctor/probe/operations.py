"""Running the probe's transfer jobs, and watching their operations to the end: calls only, no judgement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from google.cloud import storage_transfer_v1 as sts
from google.protobuf.json_format import MessageToDict

from sts_manager.doctor.probe.context import TRANSFER_POLL_S, TRANSFER_WAIT_S, Context
from sts_manager.doctor.probe.creates import CreateFacts, classify
from sts_manager.domain.errors import NotFound, StsManagerError
from sts_manager.domain.model import OperationSnapshot
from sts_manager.domain.names import JobName, OperationName
from sts_manager.routes.sts.spec import differences

SECRET = "aws_s3_data_source.aws_access_key"  # noqa: S105 - the name of a field that is left out


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStart:
    """A job that was created and run. refused: why it was not; malformed: what the service gave for an operation's name."""

    job: sts.TransferJob
    returned: sts.TransferJob | None = None
    operation: OperationName | None = None
    refused: CreateFacts | None = None
    malformed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationTrace:
    """An operation, as it was seen. states: each new one, in the service's words; snapshot: the last; None: never listed."""

    states: tuple[str, ...] = ()
    snapshot: OperationSnapshot | None = None

    @property
    def ended(self) -> bool:
        return self.snapshot is not None and not self.snapshot.active


def begin(context: Context, job: sts.TransferJob) -> JobStart:
    """Create a job, read it back, run it."""
    transfers, name = context.clients.transfers, JobName(job.name)
    try:
        transfers.create(job)
        returned = transfers.get(name)
        try:
            return JobStart(job=job, returned=returned, operation=transfers.run(name))
        except ValueError as error:  # of `OperationName`
            return JobStart(job=job, returned=returned, malformed=str(error))
    except StsManagerError as error:
        return JobStart(job=job, refused=classify(error))


def run_again(context: Context, job: str) -> CreateFacts | OperationName:
    """A second run of a job, right after the first: the refusal, or the operation that it made all the same."""
    try:
        return context.clients.transfers.run(JobName(job))
    except StsManagerError as error:
        return classify(error)


def watch(context: Context, names: Sequence[OperationName]) -> dict[OperationName, OperationTrace]:
    """Poll operations until all have ended, or for TRANSFER_WAIT_S at most."""
    seen = dict.fromkeys(names, OperationTrace())
    for _ in context.wait(TRANSFER_WAIT_S, TRANSFER_POLL_S):
        for _, snapshot in context.clients.transfers.operations(operationNames=[str(name) for name in names]):
            known = seen.get(snapshot.name, OperationTrace())
            new = () if known.states[-1:] == (snapshot.raw_state,) else (snapshot.raw_state,)
            seen[snapshot.name] = replace(known, states=(*known.states, *new), snapshot=snapshot)
        if all(operation.ended for operation in seen.values()):
            break
    return seen


def delete(context: Context, job: str) -> str:
    """Delete a job, and ask for it: its status then, or NOT_FOUND."""
    transfers = context.clients.transfers
    transfers.delete(job)
    try:
        return str(sts.TransferJob.Status(transfers.get(JobName(job)).status).name)
    except NotFound:
        return "NOT_FOUND"


def create_again(context: Context, job: sts.TransferJob) -> CreateFacts:
    """Create a job of a deleted one's name: the refusal; or none, and then it is deleted once more."""
    transfers = context.clients.transfers
    try:
        transfers.create(job)
    except StsManagerError as error:
        return classify(error)
    transfers.delete(job.name)
    return CreateFacts(code="")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecFacts:
    """Fields that differ between the spec that was sent and the one that came back: path → (sent, returned), None for absent.

    relied_on   those that keep the daemon from taking its own job over after a crash
    """

    differing: Mapping[str, tuple[Any, Any]]
    relied_on: tuple[str, ...]


def compare_specs(sent: sts.TransferSpec, returned: sts.TransferSpec) -> SpecFacts:
    ours, theirs = (
        dict(_fields(MessageToDict(sts.TransferSpec.pb(spec), preserving_proto_field_name=True))) for spec in (sent, returned)
    )
    paths = [path for path in sorted({*ours, *theirs}) if not path.startswith(SECRET) and ours.get(path) != theirs.get(path)]
    return SpecFacts(
        differing={path: (ours.get(path), theirs.get(path)) for path in paths},
        relied_on=tuple(sorted(differences(sent, returned))),
    )


def _fields(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and (value or not path):
        for name, inner in value.items():
            yield from _fields(inner, f"{path}.{name}" if path else name)
    else:
        yield path, value
