"""What travels by a URL list and what does not, and how far what landed by it is proved to be what was listed."""

from __future__ import annotations

from collections.abc import Sequence

from cdn_worker.domain.integrity import Stored, Verified, etag_of
from cdn_worker.domain.url_list import Naming, landing, landing_fault
from cdn_worker.domain.verdict import KeyVerdict, Verdict
from cdn_worker.object_copy.commands import Task
from cdn_worker.protocol.url_list_jobs import Row


def misnamed(rows: Sequence[Row], names: Sequence[str]) -> str:
    """What to tell when the service called the canaries something else."""
    # A name with the query in it holds the signature: it must not stand in a message.
    shown = ", ".join(name.partition("?")[0] + ("?…" if "?" in name else "") for name in names) or "nothing"
    urls = ", ".join(row.url.removesuffix("?") for row in rows)
    expected = ", ".join(landing(row.url, Naming.DECODED) for row in rows)
    return (
        f"the transfer service called the objects of {urls}: {shown}; expected was {expected}: objects cannot be given their "
        "own names then. Nothing else was transferred; send the prefix by route cdn or sts-s3"
    )


def unfit(task: Task, url: str, stage: str) -> tuple[str, str] | None:
    """Why an object cannot travel by a list, as (error, details); None when it can."""
    fault = landing_fault(stage, url)
    if fault is not None:
        return "name", fault
    segments = task.key.split("/")
    if ("." in segments or ".." in segments) and etag_of(task.etag).md5 is None:
        told = (
            "a '.' or '..' in its path may lead a client to another object, and without an MD5 in the list nobody would notice; "
            "give the prefix another route"
        )
        return "name", told
    return None


def proved(stored: Stored, row: Row) -> Verified | None:
    """How far what landed is proved to be the listed object."""
    md5 = etag_of(row.etag).md5
    if stored.size != row.size:
        return None
    if md5 is not None and stored.md5 is not None:
        return Verified.MD5 if md5 == stored.md5 else None
    return Verified.SIZE


def failed(of: Task | Row, error: str, details: str, verdict: Verdict = Verdict.FAILED) -> KeyVerdict:
    """The verdict of an object that comes to nothing here."""
    return KeyVerdict(key=of.key, size=of.size, etag=of.etag, verdict=verdict, error=error, details=details, tries=0)
