-- Running prefixes whose counters have stood still for five minutes or more, longest first.
SELECT
  prefix,
  operation_name,
  ROUND((UNIX_SECONDS(CURRENT_TIMESTAMP()) - UNIX_SECONDS(progress_at)) / 60.0, 1) AS minutes_still,
  objects_copied,
  objects_found,
  bytes_copied
FROM `data_migration.sts_job`
WHERE status = 'running'
  AND (UNIX_SECONDS(CURRENT_TIMESTAMP()) - UNIX_SECONDS(progress_at)) >= 300
ORDER BY progress_at, prefix
LIMIT 1000
