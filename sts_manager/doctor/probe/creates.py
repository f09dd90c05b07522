"""What the Storage Transfer Service says to a job whose buckets or whose role are not there. None of these jobs is ever run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from google.cloud import storage_transfer_v1 as sts

from sts_manager.doctor.probe.context import Context
from sts_manager.doctor.probe.observation import Observation, hide, judge, leave_out, note, unsettle
from sts_manager.domain.errors import Denied, Permanent, Retryable, StsManagerError, Throttled
from sts_manager.domain.location import Place, Scheme
from sts_manager.domain.model import Route, StartJob
from sts_manager.domain.names import JobName, Prefix
from sts_manager.routes.sts.spec import S3Access, TransferSettings, transfer_job

NO_DESTINATION, NO_SOURCE, NO_ROLE = "create: no such destination", "create: no such S3 source", "create: wrong role"
ACCOUNT = "000000000000"


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateFacts:
    """code: of the refusal, empty where the job was created; handled: how the daemon takes it; message: the service's words."""

    code: str
    handled: str = ""
    message: str = ""


def order(context: Context, role: str, prefix: str) -> StartJob:
    """What the daemon would ask for, under a name of this probe."""
    route = Route.STS_S3 if context.from_s3 else Route.STS_GCS
    return StartJob(prefix=Prefix(prefix), attempt=1, job_name=context.record.job(role), route=route, project=context.project)


def probe_creates(context: Context) -> Iterator[Observation]:
    settings = context.transfer_settings
    if settings is None:
        for subject in (NO_DESTINATION, NO_SOURCE, NO_ROLE):
            yield leave_out(subject, context.transfer_fault)
        return
    nowhere = f"sts-manager-probe-{context.record.id.partition('-')[2]}-{context.record.id[:8]}"
    missing = replace(settings, sink=Place(Scheme.GCS, nowhere))
    yield judge_create(NO_DESTINATION, _create(context, "no-destination", missing))
    if not context.from_s3:
        yield leave_out(NO_SOURCE, f"the source is {settings.source}")
        yield leave_out(NO_ROLE, f"the source is {settings.source}")
        return
    missing = replace(settings, source=Place(Scheme.S3, nowhere))
    yield judge_create(NO_SOURCE, _create(context, "no-source", missing))
    access = settings.s3_access
    if access is None or not access.role_arn:
        yield leave_out(NO_ROLE, "S3 is not opened by a role (--s3-role-arn)")
        return
    parts = access.role_arn.split(":")
    wrong = ":".join([*parts[:4], parts[4] or ACCOUNT, f"role/{nowhere}"])
    yield judge_create(NO_ROLE, _create(context, "no-role", replace(settings, s3_access=S3Access(role_arn=wrong))))


def _create(context: Context, role: str, settings: TransferSettings) -> CreateFacts:
    job: sts.TransferJob = transfer_job(order(context, role, "nothing/"), settings)
    transfers = context.clients.transfers
    try:
        transfers.create(job)
    except StsManagerError as error:
        return classify(error)
    transfers.delete(JobName(job.name))
    return CreateFacts(code="")


def classify(error: StsManagerError) -> CreateFacts:
    """A refusal, and what the daemon makes of it."""
    code = str(getattr(error, "code", type(error).__name__))
    handled = {
        Denied: "nothing more is started until it is mended",
        Throttled: "it waits, and asks again",
        Retryable: "it asks again and again, as if the answer were lost",
        Permanent: "each prefix ends in error by itself",
    }
    taken_as = next((says for kind, says in handled.items() if isinstance(error, kind)), "it stops")
    return CreateFacts(code=code, handled=taken_as, message=hide(str(error), 300))


def judge_create(subject: str, facts: CreateFacts) -> Observation:
    """The daemon relies on a refusal that it takes for what it is: then its breaker opens, and no attempt is used up."""
    assumed = "create refuses it with a code that stops all starts (the breaker opens)"
    details = {"code": facts.code, "message": facts.message}
    answers = {subject.replace("create: ", "create_code ").replace(" ", "_"): facts.code or "CREATED"}
    if not facts.code:
        return note(
            subject,
            "the job was created: buckets are looked at only when it runs",
            "prefixes fail one by one instead of waiting for the missing bucket; `run` says so in `status`",
            assumed=assumed,
            answers=answers,
        )
    if facts.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED", "LEASE_OLD"):
        return unsettle(subject, f"{facts.code}: {facts.message}")
    stops = facts.handled.startswith("nothing more is started")
    return judge(
        subject,
        assumed=assumed,
        observed=f"{facts.code} ({facts.message}); the daemon: {facts.handled}",
        contradicts=not stops,
        meaning="a first set-up with a bucket or right missing looks as if it went on for ever: watch `history`, mend, `retry`",
        answers=answers,
        details=details,
    )
