"""Which objects a transfer left behind: a comparison of the listings is named after the transfer job, and told what is known."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from google.rpc import code_pb2

from cdn_worker.protocol.url_list_jobs import Hints
from sts_manager.domain.model import PrefixJob
from sts_manager.domain.names import JobName

MARK, MARK_BEHIND = "-x", "-l"
_MARKED = re.compile(rf"(?:{MARK}|{MARK_BEHIND}[0-9a-f]{{12}})$")
_ATTEMPT = re.compile(r"-a\d+$")


def comparison_of(transfer_job: str) -> str:
    return transfer_job + MARK


def left_behind_of(transfer_job: str, prefix: str) -> str:
    """What is looked for after a transfer succeeded, for each of the prefixes that share it."""
    return f"{transfer_job}{MARK_BEHIND}{hashlib.sha256(prefix.encode()).hexdigest()[:12]}"


def transfer_job_of(name: str) -> str:
    """The transfer job whose failures are known under a name of the ledger."""
    return _MARKED.sub("", name)


def earlier(name: JobName, attempt: int) -> str:
    """The transfer job of the attempt before `attempt`, whose job has this name."""
    return _ATTEMPT.sub(f"-a{attempt - 1}", name)


def is_first(name: str) -> bool:
    """Whether a job of the ledger is of a prefix's first attempt."""
    return transfer_job_of(name).endswith("-a1")


def hints_of(job: PrefixJob, results: str, bucket: str) -> Hints:
    """Causes as the service gave them: samples name at most five objects for each code, the commonest stands for all others."""
    by_key = samples_of(results, bucket, otherwise=job.error_code)
    told = "not at the sink after the transfer; the service gives reasons for a few objects only, and the commonest is this one"
    return Hints(otherwise=(job.error_code.lower(), told), by_key=by_key)


def samples_of(results: str, bucket: str, otherwise: str = "failed") -> dict[str, tuple[str, str]]:
    """(error in lower case, details) by key, of the objects of a bucket that the service named. otherwise: for want of a code."""
    stem = f"s3://{bucket}/"
    by_key: dict[str, tuple[str, str]] = {}
    for summary in _breakdowns(results):
        for entry in summary.get("errorLogEntries", ()):
            url = str(entry.get("url", ""))
            if url.startswith(stem):
                details = "; ".join(map(str, entry.get("errorDetails", ())))
                code = "archived" if "InvalidObjectState" in details else _word(str(summary.get("errorCode", otherwise)))
                by_key[url[len(stem) :]] = (code, details)
    return by_key


def blames_bucket(results: str, bucket: str) -> bool:
    """Whether an operation met an error of the bucket, not of an object: then objects may have failed that it does not count."""
    whole = (f"s3://{bucket}", f"s3://{bucket}/")
    return any(entry.get("url") in whole for summary in _breakdowns(results) for entry in summary.get("errorLogEntries", ()))


LEFT_WITHOUT_REASON = Hints(
    otherwise=(
        "not_at_destination",
        "the service said that all was transferred, and there is no object by its name at the destination",
    )
)


def _word(code: str) -> str:
    """A code of google.rpc by its name, as the service's JSON may have its number; in lower case."""
    named = code_pb2.Code.Name(int(code)) if code.isdigit() and int(code) in code_pb2.Code.values() else code
    return named.lower()


def _breakdowns(results: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(results).get("errorBreakdowns", [])
    except ValueError:
        return []
    return [one for one in found if isinstance(one, dict)]
