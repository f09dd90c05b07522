-- Prefixes that needed more than one attempt, most attempts first.
SELECT
  prefix,
  status,
  attempt,
  forgiven,
  error_code,
  error_message,
  not_before
FROM `data_migration.sts_job`
WHERE attempt > 1
ORDER BY attempt DESC, prefix
LIMIT 1000
