"""Cloud Storage as the program's own workers use it: a PUT, a session, attributes, moves, deletes, and the listing."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import google_crc32c

from cdn_worker.domain.http import headers_of
from cdn_worker.domain.integrity import goog_hash, goog_hashes
from cdn_worker.domain.metadata import SOURCE_ETAG
from sts_manager.doctor.probe.context import Context
from sts_manager.doctor.probe.observation import Observation, is_transient, judge, leave_out, note, unsettle
from sts_manager.doctor.probe.storage import Answer

BODY = b"a probe of sts-manager\n"
CRC32C = google_crc32c.value(BODY).to_bytes(4)
ETAG = "0123456789abcdef0123456789abcdef-2"
"""As one of an object that was uploaded in parts: no MD5, so it proves nothing but itself."""
KEY_HEADER = "x-goog-encryption-kms-key-name"
FIELDS = "items(name,size,generation,crc32c,md5Hash,kmsKeyName,metadata),nextPageToken"
PUT, AGAIN, SESSION = "PUT answer", "PUT that must not overwrite", "session answer"
METADATA, PATCH, MOVE, DELETE = "custom metadata name", "patch", "move", "delete"
LISTING, LISTING_KEY = "hashes in a listing", "hashes in a listing, KMS key"
NO_SUCH_METHOD = (405, 501)
"""What a service says of a method that it does not have: then objects are rewritten instead of moved."""


def put_headers(key: str = "") -> dict[str, str]:
    """As the workers send them. key: of Cloud KMS."""
    headers = {
        "x-goog-if-generation-match": "0",
        "x-goog-hash": goog_hash(crc32c=CRC32C),
        "content-type": "text/plain",
        f"x-goog-meta-{SOURCE_ETAG}": ETAG,
    }
    return headers | ({KEY_HEADER: key} if key else {})


def probe_uploads(context: Context, bucket_key: str) -> Iterator[Observation]:
    """bucket_key: the bucket's default KMS key, where it has one."""
    storage, bucket = context.clients.storage, context.bucket
    name, session_name = context.name("put"), context.name("session")
    answer = storage.put(bucket, name, BODY, put_headers())
    yield judge_put(answer)
    yield judge_again(storage.put(bucket, name, BODY, put_headers()))
    begun = storage.begin(bucket, session_name, {"metadata": {SOURCE_ETAG: ETAG}}, len(BODY))
    if begun.status == 200:
        yield judge_session(storage.send(begun.value("location"), BODY))
    else:
        yield unsettle(SESSION, begun.refusal())
    yield judge_metadata(storage.get(bucket, name))
    yield from _probe_listing(context, bucket_key)
    yield from _probe_changes(context, session_name)


def _probe_changes(context: Context, name: str) -> Iterator[Observation]:
    storage, bucket = context.clients.storage, context.bucket
    stored = storage.get(bucket, name)
    if stored.status != 200:
        yield from (unsettle(subject, f"the session's object: {stored.refusal()}") for subject in (PATCH, MOVE, DELETE))
        return
    generation = int(stored.json()["generation"])
    yield judge_change(PATCH, storage.patch(bucket, name, {"metadata": {SOURCE_ETAG: "changed"}}, generation))
    moved = storage.move(bucket, name, context.name("moved"), generation)
    yield judge_move(moved)
    if moved.status == 200:
        name, generation = context.name("moved"), int(moved.json().get("generation", generation))
    yield judge_change(DELETE, storage.delete(bucket, name, generation))


def _probe_listing(context: Context, bucket_key: str) -> Iterator[Observation]:
    storage, bucket = context.clients.storage, context.bucket
    key = context.choices.kms_key
    wanted = [context.name("put")]
    if key:
        answer = storage.put(bucket, context.name("key"), BODY, put_headers(key))
        if answer.status == 200:
            wanted.append(context.name("key"))
        else:
            yield unsettle(LISTING_KEY, f"a PUT with {key}: {answer.refusal()}", "may Cloud Storage's agent use the key?")
    items = {
        item["name"]: item
        for page in storage.list_pages(bucket, context.record.path, fields=FIELDS)
        for item in page.get("items", ())
    }
    for name in wanted:
        if name not in items:
            yield unsettle(LISTING, f"{name} was stored, and is not in the listing")
            continue
        with_key = name.endswith("/key") or bool(bucket_key)
        yield judge_listing(items[name], with_key=with_key, whole=storage.get(bucket, name).json())
    if not key and not bucket_key:
        yield leave_out(LISTING_KEY, "the bucket has no default KMS key, and --probe-kms-key is not given")
    elif bucket_key and not key:
        yield leave_out(LISTING, f"every object of the bucket is encrypted with {bucket_key}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PutFacts:
    """What a PUT's answer says, read as the workers read it. lines: of x-goog-hash, as they came; hashes: what is read there."""

    lines: int
    hashes: Mapping[str, bytes]
    generation: str
    length: str


def read_put(answer: Answer) -> PutFacts:
    raw = [f"{name}: {value}\r\n".encode("latin-1", "replace") for name, value in answer.lines]
    headers = headers_of([f"HTTP/1.1 {answer.status}\r\n".encode(), *raw])
    try:
        hashes = goog_hashes(headers.get("x-goog-hash", ""))
    except ValueError:
        hashes = {}
    return PutFacts(
        lines=len(answer.values("x-goog-hash")),
        hashes=hashes,
        generation=headers.get("x-goog-generation", ""),
        length=headers.get("x-goog-stored-content-length", ""),
    )


def judge_put(answer: Answer) -> Observation:
    if answer.status != 200:
        return unsettle(PUT, answer.refusal())
    facts = read_put(answer)
    hashes = ", ".join(facts.hashes) or "none"
    observed = f"{facts.lines} {'line' if facts.lines == 1 else 'lines'} of x-goog-hash, read as: {hashes}; "
    observed += f"generation {'given' if facts.generation else 'missing'}, "
    observed += f"stored length {facts.length or 'missing'}"
    whole = facts.hashes.get("crc32c") == CRC32C and bool(facts.generation) and facts.length == str(len(BODY))
    return judge(
        PUT,
        assumed="the headers of a PUT's answer tell generation, length and crc32c of what was stored",
        observed=observed,
        contradicts=not whole,
        meaning="the workers do not understand what was stored: each small object is sent again; do not use route cdn",
        details=answer.describe(),
    )


def judge_again(answer: Answer) -> Observation:
    if is_transient(answer.status):
        return unsettle(AGAIN, answer.refusal())
    return judge(
        AGAIN,
        assumed="a PUT with x-goog-if-generation-match: 0 is refused with 412 where an object is",
        observed=f"answered {answer.status}",
        contradicts=answer.status != 412,
        meaning="a repeated write may overwrite what somebody else put there: do not use route cdn",
        details=answer.describe(),
    )


def judge_session(answer: Answer) -> Observation:
    """The last answer of a session: its body is decided by Content-Type; a generation in the headers is harmless then."""
    if answer.status not in (200, 201):
        return unsettle(SESSION, answer.refusal())
    body, kind = answer.json(), answer.value("content-type")
    fields = [name for name in ("generation", "size", "crc32c") if name in body]
    with_header = bool(answer.value("x-goog-generation"))
    whole = len(fields) == 3 and "json" in kind and body.get("crc32c") == base64.b64encode(CRC32C).decode()
    observed = f"{kind or 'no content type'}, {', '.join(fields) or 'no fields'}; "
    observed += f"x-goog-generation is {'also' if with_header else 'not'} in the headers"
    return judge(
        SESSION,
        assumed="a session ends with the object's resource as JSON: generation, size, crc32c",
        observed=observed,
        contradicts=not whole,
        meaning="objects over 8 MiB cannot be confirmed by route cdn",
        answers={"session_generation_header": "yes" if with_header else "no"},
        details=answer.describe(),
    )


def judge_metadata(answer: Answer) -> Observation:
    if answer.status != 200:
        return unsettle(METADATA, answer.refusal())
    metadata = answer.json().get("metadata", {})
    names = ", ".join(sorted(metadata)) or "none"
    return judge(
        METADATA,
        assumed=f"x-goog-meta-{SOURCE_ETAG} of a PUT is the custom metadata {SOURCE_ETAG}",
        observed=f"custom metadata read back: {names}",
        contradicts=metadata.get(SOURCE_ETAG) != ETAG,
        meaning="no later run recognises a multipart object that was copied: it is copied again each time",
        details={"metadata": metadata},
    )


def judge_change(subject: str, answer: Answer) -> Observation:
    right = {PATCH: "storage.objects.update", DELETE: "storage.objects.delete"}[subject]
    if is_transient(answer.status):
        return unsettle(subject, answer.refusal())
    if answer.status == 403:
        return unsettle(subject, f"{right} is missing: {answer.refusal()}", f"grant roles/storage.objectUser ({right})")
    return judge(
        subject,
        assumed=f"{subject} of one generation is done",
        observed=f"answered {answer.status}",
        contradicts=answer.status not in (200, 204),
        meaning="objects that were stored wrong cannot be removed" if subject == DELETE else "route sts-url-list loses metadata",
        details=answer.describe(),
    )


def judge_move(answer: Answer) -> Observation:
    if answer.status in NO_SUCH_METHOD:
        return note(
            MOVE,
            f"answered {answer.status}: the service has no objects.move here",
            "route sts-url-list rewrites objects instead: twice the operations",
            assumed="objects.move renames an object under preconditions",
        )
    if is_transient(answer.status):
        return unsettle(MOVE, answer.refusal())
    if answer.status == 403:
        rights = "storage.objects.create, get, delete (storage.objects.move; on a hierarchical namespace storage.folders.create)"
        return unsettle(MOVE, answer.refusal(), f"grant {rights}")
    return judge(
        MOVE,
        assumed="objects.move renames an object under preconditions",
        observed=f"answered {answer.status}",
        contradicts=answer.status != 200,
        meaning="route sts-url-list cannot give objects their own names: use route cdn or sts-s3",
        details=answer.describe(),
    )


def judge_listing(item: Mapping[str, Any], *, with_key: bool, whole: Mapping[str, Any]) -> Observation:
    """item: as the listing has it; whole: as a request for the object alone tells it."""
    key = item.get("kmsKeyName") or whole.get("kmsKeyName", "")
    hashes = [name for name in ("crc32c", "md5Hash") if item.get(name)]
    etag = item.get("metadata", {}).get(SOURCE_ETAG)
    recognised = "size" in item and "generation" in item and etag == ETAG
    observed = f"{', '.join(hashes) or 'no hashes'} in the listing, {'a' if key else 'no'} KMS key, "
    observed += f"size, generation and {SOURCE_ETAG} {'there' if recognised else 'NOT all there'}"
    details = {"listed": dict(item), "alone": dict(whole)}
    if with_key and not key:
        return unsettle(LISTING_KEY, "the object was to be encrypted with a key, and has none")
    if key:
        return judge(
            LISTING_KEY,
            assumed=f"of objects under a KMS key a listing tells size, generation and {SOURCE_ETAG}; hashes may be missing",
            observed=observed,
            contradicts=not recognised,
            meaning="objects under this key are not recognised: every later run copies them again",
            answers={"listing_hashes_with_key": "yes" if "crc32c" in hashes else "no"},
            details=details,
        )
    return judge(
        LISTING,
        assumed=f"a listing tells size, generation, crc32c and {SOURCE_ETAG}",
        observed=observed,
        contradicts=not recognised or "crc32c" not in hashes,
        meaning="listings cannot be compared: a resumed run may copy everything again",
        details=details,
    )
