-- What the copied bytes and objects have cost so far, at list prices: an estimate, every attempt counted. Put your own prices in.
SELECT
  bytes,
  objects,
  ROUND(bytes / 1e15 * usd_per_pb_egress, 2) AS usd_egress,
  ROUND(objects / 1e6 * usd_per_million_gets, 2) AS usd_s3_gets,
  ROUND(objects / 1e6 * usd_per_million_writes, 2) AS usd_gcs_writes,
  prices_of
FROM (
  SELECT COALESCE(SUM(bytes), 0) AS bytes, COALESCE(SUM(objects), 0) AS objects
  FROM (
    SELECT prefix, attempt, MAX(bytes_copied) AS bytes, MAX(objects_copied) AS objects
    FROM `data_migration.sts_job_history`
    GROUP BY prefix, attempt
  ) AS attempts
) AS moved
CROSS JOIN (
  SELECT
    53900.0 AS usd_per_pb_egress, -- S3 to the internet; CloudFront 39200.0, managed private network 27900.0
    0.40 AS usd_per_million_gets,
    5.0 AS usd_per_million_writes,
    '2026-11' AS prices_of
) AS prices
