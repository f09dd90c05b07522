"""Values between three worlds: BigQuery's JSON, Python, and DuckDB's types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from tools.emulators.bigquery.rules import invalid

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ALIASES = {"INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN"}
DUCK = {
    "STRING": "VARCHAR",
    "INTEGER": "BIGINT",
    "FLOAT": "DOUBLE",
    "BOOLEAN": "BOOLEAN",
    "TIMESTAMP": "TIMESTAMP",
    "DATE": "DATE",
}
FIXED_BYTES = {"INTEGER": 8, "FLOAT": 8, "BOOLEAN": 1, "TIMESTAMP": 8, "DATE": 8}
OF_DUCK = {
    "varchar": "STRING",
    "bigint": "INTEGER",
    "integer": "INTEGER",
    "smallint": "INTEGER",
    "tinyint": "INTEGER",
    "hugeint": "INTEGER",
    "ubigint": "INTEGER",
    "double": "FLOAT",
    "float": "FLOAT",
    "decimal": "FLOAT",
    "boolean": "BOOLEAN",
    "timestamp": "TIMESTAMP",
    "date": "DATE",
    "json": "STRING",
    '"null"': "INTEGER",
    "sqlnull": "INTEGER",
}


@dataclass(frozen=True)
class Parameter:
    """A query parameter: its value as Python, and the DuckDB type it is cast to."""

    name: str
    value: Any
    duck: str


def type_name(text: str) -> str:
    name = ALIASES.get(text.upper(), text.upper())
    if name not in DUCK:
        raise invalid(f"Unsupported field type: {text} (the stage models {', '.join(sorted(DUCK))})")
    return name


def parameters(given: Sequence[Mapping[str, Any]], mode: str) -> list[Parameter]:
    """The query's parameters. Only named ones: positional ones are not modelled."""
    if given and mode.upper() != "NAMED":
        raise invalid("the stage models named query parameters only")
    return [
        Parameter(one["name"], _decoded(one["parameterType"], one.get("parameterValue", {})), _duck_type(one["parameterType"]))
        for one in given
    ]


def _duck_type(kind: Mapping[str, Any]) -> str:
    match kind["type"].upper():
        case "ARRAY":
            return f"{_duck_type(kind['arrayType'])}[]"
        case "STRUCT":
            fields = ", ".join(f'"{field["name"]}" {_duck_type(field["type"])}' for field in kind["structTypes"])
            return f"STRUCT({fields})"
        case other:
            return DUCK[type_name(other)]


def _decoded(kind: Mapping[str, Any], value: Mapping[str, Any]) -> Any:
    match kind["type"].upper():
        case "ARRAY":
            return [_decoded(kind["arrayType"], one) for one in value.get("arrayValues", [])]
        case "STRUCT":
            given = value.get("structValues", {})
            return {field["name"]: _decoded(field["type"], given.get(field["name"], {})) for field in kind["structTypes"]}
        case other:
            return scalar(type_name(other), value.get("value"))


def scalar(kind: str, text: Any) -> Any:
    """A value of a parameter, a loaded or a streamed row, as Python; DuckDB gets times without a zone, in UTC."""
    if text is None:
        return None
    try:
        match kind:
            case "INTEGER":
                return int(text)
            case "FLOAT":
                return float(text)
            case "BOOLEAN":
                return {"true": True, "false": False}[str(text).lower()]
            case "TIMESTAMP":
                return _time(text)
            case "DATE":
                return date.fromisoformat(text)
        if not isinstance(text, str):
            raise ValueError("it is no text")
    except (ValueError, KeyError, TypeError) as error:
        raise invalid(f"Could not convert value to {kind.lower()}: {text!r}") from error
    return text


def _time(text: Any) -> datetime:
    if isinstance(text, (int, float)):
        return (EPOCH + timedelta(seconds=text)).replace(tzinfo=None)
    found = datetime.fromisoformat(str(text).replace(" UTC", "+00:00"))
    return found.replace(tzinfo=None) if found.tzinfo is None else found.astimezone(UTC).replace(tzinfo=None)


def field_of(name: str, kind: Any) -> dict[str, Any]:
    """A column of a result as a field of a schema; `kind` is DuckDB's own type."""
    if kind.id == "list":
        return field_of(name, kind.children[0][1]) | {"mode": "REPEATED"}
    if kind.id == "struct":
        return {"name": name, "type": "RECORD", "mode": "NULLABLE", "fields": [field_of(*child) for child in kind.children]}
    known = OF_DUCK.get(kind.id, OF_DUCK.get(str(kind).lower().split("(")[0]))
    if known is None:
        raise invalid(f"the stage has no BigQuery type for {kind}")
    return {"name": name, "type": known, "mode": "NULLABLE"}


def cell(field: Mapping[str, Any], value: Any, *, micros: bool) -> dict[str, Any]:
    """One value as the service sends it: everything is text, arrays and records are nested."""
    if field["mode"] == "REPEATED":
        one = {**field, "mode": "NULLABLE"}
        return {"v": [cell(one, item, micros=micros) for item in value or ()]}
    if value is None:
        return {"v": None}
    if field["type"] == "RECORD":
        return {"v": {"f": [cell(child, value[child["name"]], micros=micros) for child in field["fields"]]}}
    return {"v": _text(value, micros=micros)}


def _text(value: Any, *, micros: bool) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case datetime():
            number = (value.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
            return str(number) if micros else repr(number / 1e6)
        case Decimal():
            return repr(float(value))
    return str(value)
