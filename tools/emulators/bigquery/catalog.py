"""Datasets and tables as resources: what they say of themselves, and how they may change."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tools.emulators.bigquery.rules import COLUMN, DATASET, TABLE, Refused, invalid, no_dataset, no_table
from tools.emulators.bigquery.values import type_name

LOCATIONS = ("US", "EU", "us-central1", "us-east1", "us-east4", "europe-west1", "europe-west3", "asia-northeast1")


@dataclass
class Table:
    """A table's resource, and what the stage knows of its rows.

    mutations       how often UPDATE, DELETE or MERGE changed it: two that overlap conflict
    version         how often anything changed it: sizes are kept until then
    streamed_until  (stage seconds) when the last streamed row leaves the streaming buffer
    """

    resource: dict[str, Any]
    mutations: int = 0
    version: int = 0
    streamed_until: float = 0.0
    outstanding: int = 0
    insert_ids: set[str] = field(default_factory=set)

    @property
    def fields(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.resource.get("schema", {}).get("fields", [])
        return found


@dataclass
class Dataset:
    resource: dict[str, Any]
    tables: dict[str, Table] = field(default_factory=dict)


class Catalog:
    """All datasets of the one project. It is the caller who holds the lock."""

    def __init__(self, project: str) -> None:
        self.project = project
        self.datasets: dict[str, Dataset] = {}

    def create_dataset(self, body: Mapping[str, Any]) -> Dataset:
        name = body.get("datasetReference", {}).get("datasetId", "")
        if not DATASET.fullmatch(name):
            raise invalid(
                f'Invalid dataset ID "{name}". Dataset IDs must be alphanumeric (plus underscores) and must be at most 1024 '
                "characters long."
            )
        if name in self.datasets:
            raise Refused("duplicate", f"Already Exists: Dataset {self.project}:{name}")
        location = body.get("location", "US")
        if location.lower() not in (known.lower() for known in LOCATIONS):
            raise invalid(f'Invalid value: Location "{location}" is not supported')
        made = {**body, "kind": "bigquery#dataset", "id": f"{self.project}:{name}", "location": location}
        made["datasetReference"] = {"projectId": self.project, "datasetId": name}
        self.datasets[name] = Dataset(_stamped(made))
        return self.datasets[name]

    def dataset(self, name: str) -> Dataset:
        if name not in self.datasets:
            raise no_dataset(self.project, name)
        return self.datasets[name]

    def delete_dataset(self, name: str, *, contents: bool) -> list[str]:
        """Removes it; returns its tables, which the engine removes."""
        tables = list(self.dataset(name).tables)
        if tables and not contents:
            raise Refused("invalid", f"Dataset {self.project}:{name} is still in use")
        del self.datasets[name]
        return tables

    def create_table(self, dataset: str, body: Mapping[str, Any]) -> Table:
        home = self.dataset(dataset)
        name = body.get("tableReference", {}).get("tableId", "")
        if not TABLE.fullmatch(name):
            raise invalid(f'Invalid table ID "{name}".')
        if name in home.tables:
            raise Refused("duplicate", f"Already Exists: Table {self.project}:{dataset}.{name}")
        made = {**body, "kind": "bigquery#table", "id": f"{self.project}:{dataset}.{name}", "type": "TABLE"}
        made["tableReference"] = {"projectId": self.project, "datasetId": dataset, "tableId": name}
        made["location"] = home.resource["location"]
        made["schema"] = {"fields": checked_fields(body.get("schema", {}).get("fields", []))}
        _check_layout(made)
        home.tables[name] = Table(_stamped(made))
        return home.tables[name]

    def table(self, dataset: str, name: str) -> Table:
        if name not in self.dataset(dataset).tables:
            raise no_table(self.project, dataset, name)
        return self.datasets[dataset].tables[name]

    def patch_table(self, table: Table, body: Mapping[str, Any], if_match: str | None) -> list[dict[str, Any]]:
        """Change a table's resource; returns the columns that are new."""
        if if_match not in (None, "*", table.resource["etag"]):
            raise Refused("conditionNotMet", "Precondition check failed.")
        after = {**table.resource, **body}
        new: list[dict[str, Any]] = []
        if "schema" in body:
            fields = checked_fields(body["schema"].get("fields", []))
            new = added_fields(table.resource["id"], table.fields, fields)
            after["schema"] = {"fields": fields}
        if "timePartitioning" in body and body["timePartitioning"] != table.resource.get("timePartitioning"):
            raise invalid(f"Cannot change partitioning of table {table.resource['id']}.")
        _check_layout(after)
        table.resource = _stamped(after)
        return new


def checked_fields(fields: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    seen: set[str] = set()
    out = []
    for one in fields:
        name = one.get("name", "")
        if not COLUMN.fullmatch(name):
            raise invalid(
                f'Invalid field name "{name}". Fields must contain only letters, numbers, and underscores, start with a letter '
                "or underscore, and be at most 300 characters long."
            )
        if name.lower() in seen:
            raise invalid(f"Duplicate field name: {name}")
        seen.add(name.lower())
        mode = one.get("mode", "NULLABLE")
        if mode not in ("NULLABLE", "REQUIRED"):
            raise invalid(f"the stage models no {mode} column ({name})")
        out.append({**one, "name": name, "type": type_name(one.get("type", "")), "mode": mode})
    return out


def added_fields(table: str, before: Sequence[Mapping[str, Any]], after: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A schema may only grow by nullable columns, and required ones may become nullable."""
    known = {one["name"]: one for one in after}
    for old in before:
        new = known.get(old["name"])
        if new is None:
            raise invalid(f"Provided Schema does not match Table {table}. Field {old['name']} is missing in new schema")
        if new["type"] != old["type"]:
            raise invalid(
                f"Provided Schema does not match Table {table}. Field {old['name']} has changed type from {old['type']} "
                f"to {new['type']}"
            )
        if new["mode"] == "REQUIRED" and old["mode"] != "REQUIRED":
            raise invalid(
                f"Provided Schema does not match Table {table}. Field {old['name']} has changed mode from NULLABLE to REQUIRED"
            )
    names = {one["name"] for one in before}
    grown = [one for one in after if one["name"] not in names]
    for one in grown:
        if one["mode"] == "REQUIRED":
            raise invalid(
                f"Provided Schema does not match Table {table}. Cannot add required fields to an existing schema. "
                f"(field: {one['name']})"
            )
    return grown


def _check_layout(resource: Mapping[str, Any]) -> None:
    kinds = {one["name"]: one["type"] for one in resource["schema"]["fields"]}
    partition = resource.get("timePartitioning")
    if partition and kinds.get(partition.get("field", "")) not in ("TIMESTAMP", "DATE"):
        raise invalid(f"The field specified for partitioning must be a TIMESTAMP or DATE column: {partition.get('field')}")
    clustering = (resource.get("clustering") or {}).get("fields", [])
    if len(clustering) > 4:
        raise invalid("Too many clustering fields: at most 4")
    for name in clustering:
        if name not in kinds:
            raise invalid(f"The field specified for clustering cannot be found in the schema. Invalid field: {name}.")


def _stamped(resource: dict[str, Any]) -> dict[str, Any]:
    now = str(int(time.time() * 1000))
    resource.setdefault("creationTime", now)
    resource["lastModifiedTime"] = now
    resource.pop("etag", None)
    resource["etag"] = hashlib.sha256(f"{time.monotonic_ns()}{json.dumps(resource, sort_keys=True)}".encode()).hexdigest()[:22]
    return resource
