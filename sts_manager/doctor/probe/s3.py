"""S3: what HEAD tells of one object of each storage class, metadata that is not ASCII, and who pays for requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from botocore.exceptions import ClientError

from cdn_worker.domain.metadata import kept
from sts_manager.doctor.probe.context import Context
from sts_manager.doctor.probe.observation import Observation, judge, leave_out, note, unsettle
from sts_manager.doctor.probe.source import OWNER, TEAM, SourceObject, SourceView

CLASS, METADATA, PAYER = "S3 class", "S3 metadata that is not ASCII", "S3 requester pays"
ARCHIVED = ("GLACIER", "DEEP_ARCHIVE")


def probe_s3(context: Context, view: SourceView) -> Iterator[Observation]:
    client, bucket = context.clients.s3, context.patient.source.bucket
    for name, example in sorted(view.of_each_class().items()):
        head = client.head_object(Bucket=bucket, Key=example.key)["ResponseMetadata"]["HTTPHeaders"]
        yield judge_class(name, example, {key.lower(): value for key, value in head.items()})
    if view.described:
        head = client.head_object(Bucket=bucket, Key=view.described)["ResponseMetadata"]["HTTPHeaders"]
        yield judge_metadata({key.lower(): value for key, value in head.items()})
    elif context.choices.write_source:
        yield leave_out(METADATA, "no object with metadata could be written to the source")
    else:
        yield leave_out(METADATA, "--probe-source-write is not given: nothing is written to the source")
    try:
        payer = str(client.get_bucket_request_payment(Bucket=bucket).get("Payer", ""))
    except ClientError as error:
        yield unsettle(PAYER, str(error), "s3:GetBucketRequestPayment tells; nothing else needs it")
        return
    yield judge_payer(payer)


def judge_class(name: str, example: SourceObject, head: Mapping[str, str]) -> Observation:
    """head: headers in lower case. A listing's word of a restore is relied on; a tier of Intelligent-Tiering no listing tells."""
    restore, tier = head.get("x-amz-restore", ""), head.get("x-amz-archive-status", "")
    observed = f"{example.key!r}: x-amz-restore {restore or 'absent'}, x-amz-archive-status {tier or 'absent'}; "
    observed += f"the listing tells of a restore: {example.restore or 'nothing'}"
    subject = f"{CLASS} {name}"
    restored = 'ongoing-request="false"' in restore
    if restored and name in ARCHIVED:
        return judge(
            subject,
            assumed="a listing that is asked for RestoreStatus tells which archived objects are restored",
            observed=observed,
            contradicts=not example.restore,
            meaning="restored objects are taken for archived: they are not copied by routes cdn and copy",
        )
    if tier:
        meaning = "it is archived, and the listing does not show it: restore such objects before they travel"
        return note(subject, observed, meaning, assumed="objects of this class can be read, unless they are in an archive tier")
    if name in ARCHIVED:
        meaning = "not restored: no route copies it; see docs/copy.md"
        return note(subject, observed, meaning, assumed="objects of this class cannot be read before they are restored")
    return judge(
        subject,
        assumed="objects of this class can be read at once",
        observed=observed,
        contradicts=bool(restore),
        meaning="S3 tells of a restore where none should be needed: see what reading such an object gives",
    )


def judge_metadata(head: Mapping[str, str]) -> Observation:
    """Whether the workers keep the values that were written, read as they read headers (names in lower case)."""
    shown = head.get("x-amz-meta-owner", "")
    custom = kept(head, etag="").custom
    value, team = custom.get("owner", ""), custom.get("team", "")
    missing = head.get("x-amz-missing-meta", "")
    form = "as an encoded word (RFC 2047)" if shown.startswith("=?") else f"withheld ({missing})" if missing else "as it is"
    return judge(
        METADATA,
        assumed=f"the workers keep what was written: {OWNER!r} and {TEAM!r}",
        observed=f"S3 shows the first {form}; the workers would keep {value!r} and {team!r}",
        contradicts=(value, team) != (OWNER, TEAM),
        meaning="user metadata that is not ASCII arrives in another form by routes cdn, sts-url-list and copy",
        details={"x-amz-meta-owner": shown},
    )


def judge_payer(payer: str) -> Observation:
    if not payer:
        return unsettle(PAYER, "the answer names no payer")
    return judge(
        PAYER,
        assumed="the bucket's owner pays: no request says x-amz-request-payer",
        observed=f"payer: {payer or 'not told'}",
        contradicts=payer == "Requester",
        meaning="each read is refused with 403, as no request says who pays: switch requester pays off while you migrate",
    )
