"""Which objects a transfer left behind: a comparison of the listings is named after the transfer job, and told what is known."""

from __future__ import annotations

import json
import re
from typing import Any

from google.rpc import code_pb2

from cdn_worker.lists.jobs import Hints
from sts_manager.domain.model import PrefixJob
from sts_manager.domain.naming import JobName

MARK = "-x"
_ATTEMPT = re.compile(r"-a\d+$")


def comparison_of(transfer_job: str) -> str:
    return transfer_job + MARK


def transfer_job_of(name: str) -> str:
    """The transfer job whose failures are known under a name of the ledger."""
    return name.removesuffix(MARK)


def earlier(name: JobName, attempt: int) -> str:
    """The transfer job of the attempt before `attempt`, whose job has this name."""
    return _ATTEMPT.sub(f"-a{attempt - 1}", name)


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
                code = _word(str(summary.get("errorCode", otherwise)))
                by_key[url[len(stem) :]] = (code, "; ".join(map(str, entry.get("errorDetails", ()))))
    return by_key


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
