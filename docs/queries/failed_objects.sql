-- Objects that failed in the last attempt of their prefix, and why (prefixes in the worker pool).
SELECT
  f.prefix,
  f.key,
  f.error,
  f.verdict,
  f.size,
  f.details,
  j.status,
  j.attempt,
  f.seen_at
FROM `data_migration.sts_job_failure` AS f
LEFT JOIN `data_migration.sts_job` AS j ON j.prefix = f.prefix
ORDER BY f.prefix, f.key
LIMIT 1000
