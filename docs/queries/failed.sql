-- Prefixes that ended in error: the last error, how many objects failed, and one of them.
SELECT
  j.prefix,
  j.attempt,
  j.error_code,
  j.error_message,
  j.objects_failed,
  JSON_VALUE(h.operation_results, '$.errorBreakdowns[0].errorLogEntries[0].url') AS sample_object,
  j.last_updated
FROM `data_migration.sts_job` AS j
LEFT JOIN (
  SELECT prefix, MAX(timestamp) AS last_time
  FROM `data_migration.sts_job_history`
  WHERE operation_results IS NOT NULL
  GROUP BY prefix
) AS l ON l.prefix = j.prefix
LEFT JOIN `data_migration.sts_job_history` AS h
  ON h.prefix = l.prefix AND h.timestamp = l.last_time AND h.operation_results IS NOT NULL
WHERE j.status = 'error'
ORDER BY j.last_updated DESC, j.prefix
LIMIT 1000
