"""BigQuery on the stage: the REST API over DuckDB; GoogleSQL is translated by sqlglot."""
