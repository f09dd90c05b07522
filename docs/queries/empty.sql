-- Prefixes that are done and matched no object: is each written as the keys are?
SELECT
  prefix,
  route,
  ended_at,
  error_message
FROM `data_migration.sts_job`
WHERE status = 'done' AND error_code = 'EMPTY'
ORDER BY prefix
