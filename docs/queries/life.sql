-- One prefix's life, oldest first: every change, with what its operation had done by then.
SELECT
  timestamp,
  status,
  attempt,
  operation_name,
  objects_copied,
  objects_failed,
  bytes_copied,
  error_code,
  error_message
FROM `data_migration.sts_job_history`
WHERE prefix = @prefix
ORDER BY timestamp, generation
