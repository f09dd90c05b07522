"""The BigQuery client behind our errors: retries by what the message says, writes that may be repeated after a lost answer."""

from __future__ import annotations

import random
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import IO, Any, TypeVar

import requests
from google.api_core import exceptions
from google.api_core.client_options import ClientOptions
from google.auth import exceptions as auth
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

from sts_manager.domain.errors import StoreUnavailable
from sts_manager.stores.bigquery.statements import Columns, Names

_HOW = bigquery.WriteDisposition
T = TypeVar("T")
Row = Mapping[str, Any]

CALL_S = 30.0
"""Deadline of one HTTP call."""
QUERY_S = 120.0
"""How long a job is waited for."""
LOAD_S = 1800.0
READING = "read the job table"
ONCE: Any = None
"""Switches a client's own retries off: they would repeat for ten minutes, and the daemon would look dead meanwhile."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 8.0
ROLES = {
    "bigquery.jobs.create": "roles/bigquery.jobUser",
    "bigquery.datasets.create": "roles/bigquery.user",
}
DEFAULT_ROLE = "roles/bigquery.dataEditor"
_PERMISSION = re.compile(r"\bbigquery\.[a-zA-Z]+\.[a-zA-Z]+\b")
_AGAIN = ("could not serialize access", "aborted due to concurrent update", "too many dml statements outstanding")
_RATE = ("rateLimitExceeded", "jobRateLimitExceeded", "backendError", "internalError", "jobBackendError", "jobInternalError")
"""Reasons that pass, under whichever status they come (BigQuery, error messages)."""


class Fault(Enum):
    """What an error of the service means for the caller."""

    AGAIN = "again"  # it passes by itself
    UNANSWERED = "unanswered"  # it may have been applied: the same job id tells
    QUOTA = "quota"
    DENIED = "denied"
    MISSING = "missing"
    STREAMING = "streaming"
    CREDENTIALS = "credentials"
    BROKEN = "broken"


class Gone(StoreUnavailable):
    """A dataset or a table is not there."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="NOT_FOUND")


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a write: the job that did it, the rows of its last SELECT, how many rows a single statement changed."""

    job: str
    rows: Sequence[Row]
    affected: int


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter. `kind`: a GoogleSQL scalar type, or columns for an ARRAY of STRUCT."""

    kind: str | Columns
    value: Any
    many: bool = False


Parameters = Mapping[str, Parameter]
VENDOR = (exceptions.GoogleAPIError, auth.GoogleAuthError, requests.exceptions.RequestException, ConnectionError, TimeoutError)
"""All that the client raises."""


class Warehouse:
    """One dataset's connection.

    patience_s   how long a call that fails in passing is repeated before StoreUnavailable is raised
    """

    def __init__(
        self,
        client: bigquery.Client,
        names: Names,
        *,
        patience_s: float = 15.0,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client, self.names = client, names
        self._patience_s, self._sleep, self._monotonic = patience_s, sleep, monotonic
        self._token, self._writes = secrets.token_hex(6), 0

    def read(self, text: str, parameters: Parameters | None = None) -> Iterator[Row]:
        """The rows of a query, page by page. Raises StoreUnavailable, Gone."""
        rows = self.again(READING, lambda: self._asked(text, parameters or {}))
        with self.translated(READING):
            for row in rows:
                yield dict(row)

    def table(self, text: str, parameters: Parameters) -> tuple[list[str], list[tuple[Any, ...]]]:
        """A query's columns and rows, all at once."""

        def ask() -> tuple[list[str], list[tuple[Any, ...]]]:
            found = self._asked(text, parameters)
            return [field.name for field in found.schema], [row.values() for row in found]

        return self.again(READING, ask)

    def granted(self, permissions: Sequence[str]) -> list[str]:
        """Of permissions, those that the caller has on the job table."""
        table = self.names.full(self.names.job)
        answer = self.again(READING, lambda: self.client.test_iam_permissions(table, list(permissions), timeout=CALL_S))
        return list(answer.get("permissions", ()))

    def write(self, text: str, parameters: Parameters) -> Written:
        """Run a statement or a script that changes rows, once.

        `@write_id` in the text stands for the job's id: so nothing that a failed job did write is taken for another's work.
        """

        def send(name: str) -> Any:
            config = _config({**parameters, "write_id": Parameter("STRING", name)} if "@write_id" in text else parameters)
            return self.client.query(text, job_config=config, job_id=name, retry=ONCE, job_retry=ONCE, timeout=CALL_S)

        def done(job: Any) -> Written:
            rows = [dict(row) for row in self._answer(job)]
            return Written(job.job_id, rows, job.num_dml_affected_rows or 0)

        return self._once("write the job table", send, done)

    def load(self, table: str, columns: Columns, rows: IO[bytes], *, append_as: str = "") -> None:
        """Fill a table anew with newline-delimited JSON, in one load job. append_as: add to it, once, under this job's name."""
        config = bigquery.LoadJobConfig(
            source_format=bigquery.SourceFormat.NEWLINE_DELIMITED_JSON,
            write_disposition=_HOW.WRITE_APPEND if append_as else _HOW.WRITE_TRUNCATE,
            schema=[bigquery.SchemaField(name, kind) for name, kind in columns.items()],
        )

        def send(name: str) -> Any:
            rows.seek(0)
            full = self.names.full(table)
            return self.client.load_table_from_file(rows, full, job_config=config, job_id=name, num_retries=0, timeout=None)

        self._once("load rows", send, lambda job: job.result(timeout=LOAD_S), append_as)

    def _once(self, doing: str, send: Callable[[str], Any], done: Callable[[Any], T], name: str = "") -> T:
        """A job that must not run twice: its id is fixed before it is first sent.

        A lost answer is asked for under the same id; a job that was refused in passing (a conflict) gets a new one.
        """
        name = name or self._name()

        def attempt() -> T:
            nonlocal name
            try:
                job = send(name)
            except exceptions.Conflict:
                job = self.client.get_job(name, location=self.names.location, retry=ONCE, timeout=CALL_S)
            try:
                return done(job)
            except VENDOR:
                if job.error_result:
                    name = self._name()
                raise

        return self.again(doing, attempt)

    def again(self, doing: str, call: Callable[[], T]) -> T:
        """`call`, repeated with growing, jittered waits while its fault is one that passes."""
        wait, waited, began = FIRST_WAIT_S, 0.0, self._monotonic()
        while True:
            try:
                return call()
            except VENDOR as error:
                fault = fault_of(error)
                # The calls' own time counts too: one that hangs until its deadline is not repeated for hours.
                spent = max(waited, self._monotonic() - began)
                if fault not in (Fault.AGAIN, Fault.UNANSWERED) or spent >= self._patience_s:
                    raise self.as_ours(doing, error) from error
                pause = wait * (0.5 + random.random() / 2)  # nosec B311
                self._sleep(pause)
                wait, waited = min(2 * wait, LONGEST_WAIT_S), waited + pause

    @contextmanager
    def translated(self, doing: str) -> Iterator[None]:
        """The vendor's errors as ours, without another try."""
        try:
            yield
        except VENDOR as error:
            raise self.as_ours(doing, error) from error

    def close(self) -> None:
        close: Callable[[], None] = self.client.close
        close()

    def as_ours(self, doing: str, error: Exception) -> Exception:
        """An error that says what was refused, and what to do about it."""
        said, shown = message_of(error), self.names.shown
        match fault_of(error):
            case Fault.DENIED:
                return StoreUnavailable(f"{shown}: {said}. {self.grant(said)}", code="PERMISSION_DENIED")
            case Fault.MISSING:
                return Gone(f"{shown}: {said}; `sts-manager prepare-tables` makes what is missing")
            case Fault.QUOTA:
                return StoreUnavailable(
                    f"{shown}: {said}. Raise the quota (console: IAM & Admin > Quotas, BigQuery API) or wait until it is "
                    "renewed; nothing is lost",
                    code="QUOTA_EXCEEDED",
                )
            case Fault.STREAMING:
                return StoreUnavailable(
                    f"{shown}: {said}. Somebody streamed rows in (the older tool?): stop it, wait until they have left the "
                    "buffer (up to 90 minutes after the last one), and repeat; a daemon that runs goes on by itself",
                    code="STREAMING_BUFFER",
                )
            case Fault.CREDENTIALS:
                return StoreUnavailable(
                    f"{shown}: the credentials do not work: {said}; `gcloud auth application-default login`, or run where a "
                    "service account is attached",
                    code="UNAUTHENTICATED",
                )
            case Fault.AGAIN | Fault.UNANSWERED:
                return StoreUnavailable(f"{shown}: cannot {doing}: {said}", code="STORE_UNREACHABLE")
        return StoreUnavailable(f"{shown}: cannot {doing}: {said}", code="STORE_REFUSED")

    def grant(self, said: str) -> str:
        """The command that grants what a refusal names."""
        found = _PERMISSION.search(said)
        permission = found[0] if found is not None else "bigquery.tables.getData"
        role = ROLES.get(permission, DEFAULT_ROLE)
        return (
            f"The permission {permission} is missing: gcloud projects add-iam-policy-binding {self.names.project} "
            f"--member=serviceAccount:ACCOUNT --role={role}"
        )

    def _asked(self, text: str, parameters: Parameters) -> Any:
        job = self.client.query(text, job_config=_config(parameters), retry=ONCE, job_retry=ONCE, timeout=CALL_S)
        return self._answer(job)

    def _answer(self, job: Any) -> Any:
        # Asking for an answer again does no harm: the client may repeat it by itself.
        return job.result(retry=bigquery.DEFAULT_RETRY.with_timeout(self._patience_s), timeout=QUERY_S, job_retry=ONCE)

    def _name(self) -> str:
        self._writes += 1
        return f"sts_manager_{self._token}_{self._writes}"


def connect(names: Names, emulator: str | None, *, patience_s: float = 15.0) -> Warehouse:
    """A connection to BigQuery, or to an emulator's URL. Raises StoreUnavailable without credentials."""
    try:
        client = bigquery.Client(
            project=names.project,
            location=names.location,
            credentials=AnonymousCredentials() if emulator else None,  # type: ignore[no-untyped-call]
            client_options=ClientOptions(api_endpoint=emulator) if emulator else None,
        )
    except auth.GoogleAuthError as error:
        raise StoreUnavailable(
            f"{names.shown}: no credentials were found: {error}; `gcloud auth application-default login`, or run where a service "
            "account is attached",
            code="UNAUTHENTICATED",
        ) from error
    return Warehouse(client, names, patience_s=patience_s)


def fault_of(error: Exception) -> Fault:
    """Class an error by its type, reason and words (conflicts arrive as HTTP 400: tests/wire/bigquery)."""
    said = message_of(error).lower()
    reasons = {one.get("reason", "") for one in getattr(error, "errors", None) or () if isinstance(one, Mapping)}
    if any(words in said for words in _AGAIN) or reasons & set(_RATE):
        return Fault.AGAIN
    if "streaming buffer" in said:
        return Fault.STREAMING
    if isinstance(error, exceptions.Forbidden):
        return Fault.QUOTA if "quotaExceeded" in reasons or "quota exceeded" in said else Fault.DENIED
    if isinstance(error, exceptions.NotFound):
        return Fault.MISSING
    if isinstance(error, (exceptions.ServerError, exceptions.TooManyRequests)):
        return Fault.AGAIN
    if isinstance(error, (auth.RefreshError, auth.DefaultCredentialsError, exceptions.Unauthorized)):
        return Fault.CREDENTIALS
    if isinstance(error, exceptions.GoogleAPICallError):
        return Fault.BROKEN
    return Fault.UNANSWERED


def message_of(error: Exception) -> str:
    """The service's own words: without the URL and the job id that the client wraps around them."""
    errors = getattr(error, "errors", None) or ()
    for one in errors:
        if isinstance(one, Mapping) and one.get("message"):
            return str(one["message"]).rstrip(".")
    text = getattr(error, "message", None) or str(error) or type(error).__name__
    return str(text).split("\n", 1)[0].rstrip(".")


def _config(parameters: Parameters) -> bigquery.QueryJobConfig:
    made = [_parameter(name, one) for name, one in parameters.items()]
    return bigquery.QueryJobConfig(query_parameters=made, use_query_cache=False)


def _parameter(name: str, one: Parameter) -> Any:
    if isinstance(one.kind, str):
        if one.many:
            return bigquery.ArrayQueryParameter(name, one.kind, list(one.value))
        return bigquery.ScalarQueryParameter(name, one.kind, one.value)
    columns = one.kind
    scalar: Any = bigquery.ScalarQueryParameterType
    record: Any = bigquery.StructQueryParameterType
    kinds = [scalar(kind, name=column) for column, kind in columns.items()]
    return bigquery.ArrayQueryParameter(name, record(*kinds), _structs(columns, one.value))


def _structs(columns: Columns, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    return [
        bigquery.StructQueryParameter(
            None, *(bigquery.ScalarQueryParameter(column, kind, row[column]) for column, kind in columns.items())
        )
        for row in rows
    ]
