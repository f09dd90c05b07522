"""`requirePartitionFilter`: a query over such a table must filter by its partition column.

The documented rule (https://cloud.google.com/bigquery/docs/querying-partitioned-tables): one predicate at least must name the
partition column and no other, and hold for every row that is read: `p = X AND f = Y` will do, `p = X OR f = Y` will not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sqlglot import exp

from tools.emulators.bigquery.rules import Refused

_SCOPES = (exp.Select, exp.Update, exp.Delete, exp.Merge)


def partition_column(resource: Mapping[str, Any]) -> str | None:
    """The column that queries over a table must filter by; None when they need not."""
    partitioning = resource.get("timePartitioning") or {}
    wanted = resource.get("requirePartitionFilter") or partitioning.get("requirePartitionFilter")
    return str(partitioning["field"]) if wanted and partitioning.get("field") else None


def check_partition_filter(table: exp.Table, column: str) -> None:
    """Raises Refused, in the service's words, unless the statement around a table filters it by its partition column.

    table: as the statement names it, unresolved. A filter outside a subquery is not looked for inside of it.
    """
    scope = table.find_ancestor(*_SCOPES)
    if scope is not None and any(_filters(one, column, table.alias_or_name) for one in _predicates(scope)):
        return
    written = ".".join(part.name for part in (table.args.get("catalog"), table.args.get("db"), table.this) if part is not None)
    raise Refused(
        "invalidQuery",
        f"Cannot query over table '{written}' without a filter over column(s) '{column}' that can be used for partition "
        "elimination",
    )


def _predicates(scope: exp.Expression) -> Iterator[Any]:
    """What must hold of every row that a statement reads, each condition by itself."""
    conditions = [scope.args.get("where"), scope.args.get("on")]
    conditions += [join.args.get("on") for join in scope.args.get("joins") or ()]
    conditions += [when.args.get("condition") for when in scope.find_all(exp.When) if isinstance(scope, exp.Merge)]
    for condition in conditions:
        if condition is not None:
            whole = condition.this if isinstance(condition, exp.Where) else condition
            yield from list(whole.flatten()) if isinstance(whole, exp.And) else [whole]


def _filters(predicate: Any, column: str, table: str) -> bool:
    """Whether a predicate names the partition column, and no other; what a subquery gives is not known beforehand."""
    named = list(predicate.find_all(exp.Column))
    ours = [one for one in named if one.name.lower() == column.lower() and one.table in ("", table)]
    return bool(ours) and len(ours) == len(named) and predicate.find(exp.Subquery, exp.Select) is None
