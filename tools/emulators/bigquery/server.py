"""The REST face, as the official client uses it, with counts, faults and permissions in front."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Mapping
from email.parser import BytesParser
from typing import Any

from tools.emulators.bigquery.catalog import Catalog, Dataset, Table
from tools.emulators.bigquery.engine import Engine, checked_rows
from tools.emulators.bigquery.jobs import Jobs, row_of
from tools.emulators.bigquery.rules import STATUS_OF, Refused, invalid, refusal
from tools.emulators.ledger import Ledger, Rule
from tools.emulators.web import Request, Response, pause_for

_PROJECT = re.compile(r"/projects/([^/]+)")
SOFT = {
    "UNAVAILABLE": ("backendError", "Service unavailable, retry"),
    "INTERNAL": ("internalError", "An internal error occurred and the request could not be completed"),
    "RATE_LIMIT": ("rateLimitExceeded", "Exceeded rate limits: too many requests; retry"),
    "QUOTA": ("quotaExceeded", "Quota exceeded: Your project exceeded quota for query usage per day"),
    "SERIALIZE": ("invalidQuery", "Could not serialize access to table due to concurrent update"),
    "DENIED": ("accessDenied", "Access Denied: injected by the stage"),
}


class BigQuery:
    """A handler of requests: each project has datasets and jobs of its own."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._projects: dict[str, Warehouse] = {}
        self._url = ""

    def at(self, url: str) -> None:
        """Be told where clients reach this server."""
        self._url = url

    def reset(self) -> None:
        with self._ledger.lock:
            self._projects.clear()

    def handle(self, request: Request) -> Response:
        named = _PROJECT.search(request.path)
        known = named is not None and self._ledger.knows_project(named[1])
        return self._warehouse(named[1] if named is not None and known else self._ledger.projects[0]).handle(request)

    def billed(self) -> list[dict[str, Any]]:
        """Every job of every project with what it cost."""
        with self._ledger.lock:
            known = list(self._projects.values())
        return [job for one in known for job in one.jobs.billed()]

    def _warehouse(self, project: str) -> Warehouse:
        with self._ledger.lock:
            if project not in self._projects:
                self._projects[project] = Warehouse(self._ledger, project, self._url)
            return self._projects[project]

    @property
    def catalog(self) -> Catalog:
        """Of the suite's first project, as are `engine` and `jobs`."""
        return self._warehouse(self._ledger.projects[0]).catalog

    @property
    def engine(self) -> Engine:
        return self._warehouse(self._ledger.projects[0]).engine

    @property
    def jobs(self) -> Jobs:
        return self._warehouse(self._ledger.projects[0]).jobs


class Warehouse:
    """One project's datasets and jobs, and the requests for them."""

    def __init__(self, ledger: Ledger, project: str, url: str) -> None:
        self._ledger, self._project = ledger, project
        self.catalog = Catalog(project)
        self.engine = Engine(self.catalog)
        self.engine.knows_project = ledger.knows_project
        self.jobs = Jobs(ledger, self.catalog, self.engine)
        self._uploads: dict[str, dict[str, Any]] = {}
        self._url = url
        name, dataset, table, job = "[^/]+", "(?P<dataset>[^/]+)", "(?P<table>[^/]+)", "(?P<job>[^/]+)"
        of = f"/bigquery/v2/projects/(?P<project>{name})"
        up = f"/(?:resumable/)?upload/bigquery/v2/projects/(?P<project>{name})/jobs"
        self._routes: list[tuple[str, re.Pattern[str], str, Callable[..., dict[str, Any] | Response]]] = [
            (method, re.compile(pattern), label, answer)
            for method, pattern, label, answer in (
                ("POST", f"{of}/datasets", "datasets.insert", self._create_dataset),
                ("GET", f"{of}/datasets", "datasets.list", self._list_datasets),
                ("GET", f"{of}/datasets/{dataset}", "datasets.get", self._get_dataset),
                ("DELETE", f"{of}/datasets/{dataset}", "datasets.delete", self._delete_dataset),
                ("POST", f"{of}/datasets/{dataset}/tables", "tables.insert", self._create_table),
                ("GET", f"{of}/datasets/{dataset}/tables", "tables.list", self._list_tables),
                ("GET", f"{of}/datasets/{dataset}/tables/{table}", "tables.get", self._get_table),
                (
                    "POST",
                    f"{of}/datasets/{dataset}/tables/{table}:testIamPermissions",
                    "tables.testIamPermissions",
                    self._granted,
                ),
                ("PATCH", f"{of}/datasets/{dataset}/tables/{table}", "tables.patch", self._patch_table),
                ("DELETE", f"{of}/datasets/{dataset}/tables/{table}", "tables.delete", self._delete_table),
                ("GET", f"{of}/datasets/{dataset}/tables/{table}/data", "tabledata.list", self._data),
                ("POST", f"{of}/datasets/{dataset}/tables/{table}/insertAll", "tabledata.insertAll", self._insert_all),
                ("POST", f"{of}/jobs", "jobs.insert", self._insert_job),
                ("GET", f"{of}/jobs/{job}", "jobs.get", self._get_job),
                ("GET", f"{of}/queries/{job}", "jobs.getQueryResults", self._results),
                ("POST", f"{of}/queries", "jobs.query", self._query),
                ("POST", up, "jobs.insert", self._upload),
                ("PUT", up, "jobs.insert", self._uploaded),
            )
        ]

    def handle(self, request: Request) -> Response:
        route = self._route(request)
        fault = None if route is None else self._ledger.count("bigquery", route[0])
        try:
            if route is None:
                raise Refused("notImplemented", f"the stage does not model {request.method} {request.path}")
            if fault is not None:
                pause_for(fault.delay_s)
                if not fault.applied:
                    raise _soft(fault)
            _, answer, found = route
            if found.pop("project") != self._project:
                raise Refused(
                    "accessDenied",
                    f"Access Denied: Project {request.segments()[3]}: User does not have bigquery.jobs.create permission in "
                    f"project {request.segments()[3]}.",
                )
            given = answer(request, **found)
            response = given if isinstance(given, Response) else Response(200, json.dumps(given).encode(), _headers(given))
        except Refused as refused:
            response = refusal(refused)
        response.hang_up = fault is not None and fault.applied
        return response

    def _route(self, request: Request) -> tuple[str, Callable[..., dict[str, Any] | Response], dict[str, str]] | None:
        for method, pattern, label, answer in self._routes:
            if method == request.method and (match := pattern.fullmatch(request.path)):
                return label, answer, match.groupdict()
        return None

    # Datasets

    def _create_dataset(self, request: Request) -> dict[str, Any]:
        self.jobs.allowed("bigquery.datasets.create", f"Project {self._project}")
        with self.jobs.lock:
            made = self.catalog.create_dataset(json.loads(request.body))
            self.engine.create_schema(made.resource["datasetReference"]["datasetId"])
            return made.resource

    def _list_datasets(self, _request: Request) -> dict[str, Any]:
        return {"datasets": [one.resource for one in self.catalog.datasets.values()]}

    def _get_dataset(self, _request: Request, dataset: str) -> dict[str, Any]:
        self.jobs.allowed("bigquery.datasets.get", f"Dataset {self._project}:{dataset}")
        return self.catalog.dataset(dataset).resource

    def _delete_dataset(self, request: Request, dataset: str) -> dict[str, Any]:
        self.jobs.allowed("bigquery.datasets.delete", f"Dataset {self._project}:{dataset}")
        with self.jobs.lock:
            self.catalog.delete_dataset(dataset, contents=request.query.get("deleteContents") == "true")
            self.engine.drop_schema(dataset)
        return {}

    # Tables

    def _create_table(self, request: Request, dataset: str) -> dict[str, Any]:
        self.jobs.allowed("bigquery.tables.create", f"Dataset {self._project}:{dataset}")
        with self.jobs.lock:
            made = self.catalog.create_table(dataset, json.loads(request.body))
            self.engine.create_table(dataset, made.resource["tableReference"]["tableId"], made.fields)
            return made.resource

    def _list_tables(self, _request: Request, dataset: str) -> dict[str, Any]:
        self.jobs.allowed("bigquery.tables.list", f"Dataset {self._project}:{dataset}")
        found: Dataset = self.catalog.dataset(dataset)
        return {"tables": [one.resource for one in found.tables.values()], "totalItems": len(found.tables)}

    def _get_table(self, _request: Request, dataset: str, table: str) -> dict[str, Any]:
        self.jobs.allowed("bigquery.tables.get", f"Table {self._project}:{dataset}.{table}")
        with self.jobs.lock:
            found = self.catalog.table(dataset, table)
            return found.resource | {"numRows": str(self.engine.rows(dataset, table))}

    def _granted(self, request: Request, dataset: str, table: str) -> dict[str, Any]:
        self.catalog.table(dataset, table)
        return {"permissions": [one for one in json.loads(request.body)["permissions"] if self._ledger.grants(one)]}

    def _patch_table(self, request: Request, dataset: str, table: str) -> dict[str, Any]:
        self.jobs.allowed("bigquery.tables.update", f"Table {self._project}:{dataset}.{table}")
        with self.jobs.lock:
            found: Table = self.catalog.table(dataset, table)
            new = self.catalog.patch_table(found, json.loads(request.body), request.headers.get("if-match"))
            self.engine.add_columns(dataset, table, new)
            return found.resource

    def _delete_table(self, _request: Request, dataset: str, table: str) -> dict[str, Any]:
        self.jobs.allowed("bigquery.tables.delete", f"Table {self._project}:{dataset}.{table}")
        with self.jobs.lock:
            self.catalog.table(dataset, table)
            del self.catalog.datasets[dataset].tables[table]
            self.engine.drop_table(dataset, table)
        return {}

    def _data(self, request: Request, dataset: str, table: str) -> dict[str, Any]:
        self.jobs.allowed("bigquery.tables.getData", f"Table {self._project}:{dataset}.{table}")
        with self.jobs.lock:
            found = self.catalog.table(dataset, table)
            (statement,) = self.engine.parsed(f"SELECT * FROM `{dataset}`.`{table}`", None, filtered=False)
            rows = self.engine.run(statement, []).rows
        start, size = int(request.query.get("pageToken") or request.query.get("startIndex") or 0), 10_000
        page = [row_of(found.fields, row, micros=_micros(request.query)) for row in rows[start : start + size]]
        more = {"pageToken": str(start + size)} if start + size < len(rows) else {}
        return {"totalRows": str(len(rows)), "rows": page, **more}

    def _insert_all(self, request: Request, dataset: str, table: str) -> dict[str, Any]:
        """Streamed rows are there at once, and cannot be changed until they have left the streaming buffer."""
        self.jobs.allowed("bigquery.tables.updateData", f"Table {self._project}:{dataset}.{table}")
        body = json.loads(request.body)
        with self.jobs.lock:
            found = self.catalog.table(dataset, table)
            new = [one for one in body.get("rows", []) if not one.get("insertId") or one["insertId"] not in found.insert_ids]
            good, bad = checked_rows(found.resource["id"], found.fields, [one["json"] for one in new])
            if bad:
                # One bad row refuses the whole request, unless skipInvalidRows is set (not modelled).
                told = [{"index": index, "errors": [{"reason": "invalid", "message": why}]} for index, why in bad]
                return {"kind": "bigquery#tableDataInsertAllResponse", "insertErrors": told}
            self.engine.append(dataset, table, found.fields, good, truncate=False)
            found.insert_ids.update(one["insertId"] for one in new if one.get("insertId"))
            found.version += 1
            found.streamed_until = time.monotonic() + float(self._ledger.setting("bigquery.streaming_buffer_seconds"))
        return {"kind": "bigquery#tableDataInsertAllResponse"}

    # Jobs

    def _insert_job(self, request: Request) -> dict[str, Any]:
        body = json.loads(request.body)
        return self.jobs.resource(self.jobs.insert(body.get("jobReference", {}), body["configuration"]))

    def _get_job(self, request: Request, job: str) -> dict[str, Any]:
        return self.jobs.resource(self.jobs.job(job, request.query.get("location")))

    def _results(self, request: Request, job: str) -> dict[str, Any]:
        found = self.jobs.job(job, request.query.get("location"))
        return self.jobs.results(found, request.query, micros=_micros(request.query))

    def _query(self, request: Request) -> dict[str, Any]:
        body = json.loads(request.body)
        kept = ("query", "queryParameters", "parameterMode", "defaultDataset", "useLegacySql")
        configuration = {"query": {key: body[key] for key in kept if key in body}}
        reference = {"jobId": f"query_{body['requestId']}" if body.get("requestId") else None, "location": body.get("location")}
        known = self.jobs.jobs.get(str(reference["jobId"]))  # a repeated request id answers with the first one's result
        job = known or self.jobs.insert(reference, configuration)
        micros = str((body.get("formatOptions") or {}).get("useInt64Timestamp")).lower() == "true"
        page = {"maxResults": str(body["maxResults"])} if body.get("maxResults") else {}
        return {"kind": "bigquery#queryResponse", **self.jobs.results(job, page, micros=micros)}

    def _upload(self, request: Request) -> dict[str, Any] | Response:
        if request.query.get("uploadType") == "resumable":
            name = uuid.uuid4().hex
            self._uploads[name] = {"body": json.loads(request.body), "bytes": b""}
            location = f"{self._url}{request.path}?uploadType=resumable&upload_id={name}"
            return Response(200, b"", {"Location": location})
        kind = request.headers.get("content-type", "")
        message = BytesParser().parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + request.body)
        parts = [part.get_payload(decode=True) for part in message.walk() if not part.is_multipart()]
        if len(parts) != 2 or not all(isinstance(part, bytes) for part in parts):
            raise invalid("a multipart upload has two parts: the job and its rows")
        return self._loaded(json.loads(parts[0]), bytes(parts[1]))  # type: ignore[arg-type]

    def _uploaded(self, request: Request) -> dict[str, Any] | Response:
        """A chunk of a resumable upload: the job runs when the last one is in."""
        upload = self._uploads.get(request.query.get("upload_id", ""))
        if upload is None:
            raise Refused("notFound", "Not found: upload session")
        range_ = request.headers.get("content-range", "")
        upload["bytes"] += request.body
        match = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", range_)
        if match is None:
            raise invalid(f"Content-Range is missing or wrong: {range_!r}")
        if match[3] == "*" or len(upload["bytes"]) < int(match[3]):
            return Response(308, b"", {"Range": f"bytes=0-{len(upload['bytes']) - 1}"})
        return self._loaded(upload["body"], upload["bytes"])

    def _loaded(self, body: Mapping[str, Any], rows: bytes) -> dict[str, Any]:
        return self.jobs.resource(self.jobs.insert(body.get("jobReference", {}), body["configuration"], rows))


def _micros(query: Mapping[str, str]) -> bool:
    return query.get("formatOptions.useInt64Timestamp", "").lower() == "true"


def _headers(given: Mapping[str, Any]) -> dict[str, str]:
    return {"Content-Type": "application/json", **({"ETag": str(given["etag"])} if "etag" in given else {})}


def _soft(fault: Rule) -> Refused:
    reason, message = SOFT.get(fault.error, (fault.error, fault.message))
    if reason not in STATUS_OF:
        reason, message = SOFT["UNAVAILABLE"]
    return Refused(reason, message)
