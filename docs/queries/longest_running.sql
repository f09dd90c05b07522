-- What has been running longest, with its operation and how far it is.
SELECT
  prefix,
  operation_name,
  attempt,
  ROUND((UNIX_SECONDS(CURRENT_TIMESTAMP()) - UNIX_SECONDS(started_at)) / 3600.0, 2) AS hours,
  objects_copied,
  objects_found,
  bytes_copied,
  bytes_found,
  progress_at
FROM `data_migration.sts_job`
WHERE status = 'running'
ORDER BY started_at, prefix
LIMIT 100
