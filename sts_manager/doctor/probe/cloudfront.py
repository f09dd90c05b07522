"""CloudFront: signatures of each kind, hard names, preconditions, HEAD and ranges."""

from __future__ import annotations

from collections.abc import Iterator

from cdn_worker.domain.signing import Digest
from sts_manager.doctor.probe.cdn_reader import CdnAnswer, read, signed
from sts_manager.doctor.probe.context import Context
from sts_manager.doctor.probe.observation import Observation, is_transient, judge, leave_out, note, unsettle
from sts_manager.doctor.probe.source import SourceObject, SourceView

SIGNATURE, NAMES, MATCH = "CDN: signature", "CDN: name", "CDN: If-Match"
HEAD, RANGE = "CDN: HEAD", "CDN: range"
KINDS = {"+": "a plus", "%": "a percent sign", "//": "an empty segment", " ": "a space"}
UNICODE = "a letter that is not ASCII"
ALL = (
    *(f"{SIGNATURE} {name}" for name in Digest),
    *(f"{NAMES} with {name}" for name in (*KINDS.values(), UNICODE)),
    MATCH,
    HEAD,
    RANGE,
)
WRONG = '"00000000000000000000000000000000"'
ONE_BYTE = {"Range": "bytes=0-0"}


def probe_cloudfront(context: Context, view: SourceView) -> Iterator[Observation]:
    settings = context.patient.settings
    plain = next(view.small(), None)
    if not settings.cdn_url or plain is None:
        why = "--cdn-url is not given" if not settings.cdn_url else "no small object of the source is at hand"
        yield from (leave_out(subject, why) for subject in ALL)
        return
    chosen = Digest(settings.cdn_digest)
    yield from _probe_signatures(context, plain, chosen)
    yield from _probe_names(context, view, chosen)
    yield judge_match(read(context, plain.key, chosen, headers={"If-Match": WRONG}))
    yield judge_head(read(context, plain.key, chosen, method="HEAD"), plain)
    yield judge_range(read(context, plain.key, chosen, headers=ONE_BYTE), plain)


def _probe_signatures(context: Context, plain: SourceObject, chosen: Digest) -> Iterator[Observation]:
    for digest in Digest:
        if signed(context):
            yield judge_signature(digest, read(context, plain.key, digest), plain, chosen=digest is chosen)
        else:
            yield leave_out(f"{SIGNATURE} {digest}", "URLs are not signed")


def _probe_names(context: Context, view: SourceView, chosen: Digest) -> Iterator[Observation]:
    for mark, kind in KINDS.items():
        example = next((candidate for candidate in view.small() if mark in candidate.key), None)
        yield from _probe_name(context, kind, example, chosen)
    yield from _probe_name(
        context, UNICODE, next((candidate for candidate in view.small() if not candidate.key.isascii()), None), chosen
    )


def _probe_name(context: Context, kind: str, example: SourceObject | None, chosen: Digest) -> Iterator[Observation]:
    if example is None:
        yield leave_out(f"{NAMES} with {kind}", "no such key among those listed; --probe-source-write lets the probe make one")
    else:
        yield judge_name(kind, read(context, example.key, chosen), example)


def _busy(subject: str, answer: CdnAnswer) -> Observation:
    return unsettle(subject, f"the CDN answered {answer.status} {answer.code}")


def judge_signature(digest: Digest, answer: CdnAnswer, example: SourceObject, *, chosen: bool) -> Observation:
    if is_transient(answer.status):
        return _busy(f"{SIGNATURE} {digest}", answer)
    taken = answer.status == 200 and answer.etag == example.etag
    observed = f"answered {answer.status}{f' {answer.code}' if answer.code else ''}"
    if not chosen:
        meaning = "" if taken else f"leave --cdn-digest as it is: {digest} does not open this distribution"
        return note(f"{SIGNATURE} {digest}", observed, meaning, assumed=f"a signature by {digest} opens the object")
    return judge(
        f"{SIGNATURE} {digest}",
        assumed=f"a signature by {digest} (--cdn-digest) opens the object, with S3's ETag",
        observed=observed,
        contradicts=not taken,
        meaning="nothing can be read through the CDN this way: trusted key group, key pair id, --cdn-digest",
    )


def judge_name(kind: str, answer: CdnAnswer, example: SourceObject) -> Observation:
    if is_transient(answer.status):
        return _busy(f"{NAMES} with {kind}", answer)
    same = answer.status == 200 and answer.etag == example.etag
    other = f", ETag {answer.etag or 'missing'}" if answer.status == 200 and not same else ""
    return judge(
        f"{NAMES} with {kind}",
        assumed="the object of that very key comes, with S3's ETag",
        observed=f"{example.key!r}: answered {answer.status}{f' {answer.code}' if answer.code else ''}{other}",
        contradicts=not same,
        meaning="such keys fail by routes cdn and sts-url-list: give their prefixes route sts-s3",
    )


def judge_match(answer: CdnAnswer) -> Observation:
    """Safe either way: each answer's ETag is compared with the listing's."""
    if is_transient(answer.status):
        return _busy(MATCH, answer)
    meaning = "" if answer.status == 412 else "the edge does not heed If-Match: what changed is found out after it was read"
    return note(MATCH, f"a wrong ETag: answered {answer.status}", meaning, assumed="412 for a wrong ETag, or the ETag tells")


def judge_head(answer: CdnAnswer, example: SourceObject) -> Observation:
    if is_transient(answer.status):
        return _busy(HEAD, answer)
    length = answer.headers.get("content-length", "")
    return judge(
        HEAD,
        assumed="HEAD is answered as GET is, with Content-Length",
        observed=f"answered {answer.status}, Content-Length {length or 'missing'}",
        contradicts=answer.status != 200 or length != str(example.size),
        meaning="the service cannot read URL lists through this CDN: allow HEAD in the behaviour",
    )


def judge_range(answer: CdnAnswer, example: SourceObject) -> Observation:
    if is_transient(answer.status):
        return _busy(RANGE, answer)
    span = answer.headers.get("content-range", "")
    return judge(
        RANGE,
        assumed="one byte of an object is answered 206 with Content-Range",
        observed=f"answered {answer.status}, {span or 'no Content-Range'}",
        contradicts=answer.status != 206 or span != f"bytes 0-0/{example.size}",
        meaning="large objects cannot be read in parts by routes cdn and sts-url-list",
    )
