-- Error codes, most prefixes first, each with one prefix to look at.
SELECT
  error_code,
  status,
  COUNT(*) AS prefixes,
  SUM(objects_failed) AS objects_failed,
  MIN(prefix) AS example,
  MAX(last_updated) AS last_seen
FROM `data_migration.sts_job`
WHERE error_code != '' AND (status != 'done' OR error_code = 'EMPTY')
GROUP BY error_code, status
ORDER BY prefixes DESC, error_code
