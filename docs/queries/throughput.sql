-- Objects and bytes copied in each hour of the last seven days.
SELECT
  hour,
  COUNT(DISTINCT prefix) AS prefixes,
  SUM(objects) AS objects,
  SUM(bytes) AS bytes,
  ROUND(SUM(bytes) / 3600.0 / 1048576.0, 2) AS mib_per_second
FROM (
  SELECT
    prefix,
    timestamp,
    FORMAT_TIMESTAMP('%Y-%m-%d %H:00', timestamp) AS hour,
    objects_copied - COALESCE(LAG(objects_copied) OVER (PARTITION BY prefix, attempt ORDER BY generation), 0) AS objects,
    bytes_copied - COALESCE(LAG(bytes_copied) OVER (PARTITION BY prefix, attempt ORDER BY generation), 0) AS bytes
  FROM `data_migration.sts_job_history`
  -- A day more than is shown, so that the first hour has something to be compared with.
  WHERE timestamp >= TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 8 DAY)
) AS steps
WHERE timestamp >= TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 7 DAY)
GROUP BY hour
ORDER BY hour DESC
