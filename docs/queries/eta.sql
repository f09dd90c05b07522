-- How much is left, and how long it takes at the pace of the last day (of the time since the first start, if that is shorter).
SELECT
  prefixes,
  ended,
  in_error,
  left_over,
  done_lately,
  ROUND(hours_watched, 2) AS hours_watched,
  ROUND(left_over * hours_watched / NULLIF(done_lately, 0), 1) AS hours_left
FROM (
  SELECT
    COUNT(*) AS prefixes,
    SUM(CASE WHEN status IN ('done', 'error') THEN 1 ELSE 0 END) AS ended,
    SUM(CASE WHEN status = 'error' THEN 1 ELSE 0 END) AS in_error,
    SUM(CASE WHEN status IN ('waiting', 'running', 'paused') THEN 1 ELSE 0 END) AS left_over,
    SUM(
      CASE WHEN status = 'done' AND ended_at >= TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 1 DAY) THEN 1 ELSE 0 END
    ) AS done_lately,
    CASE
      WHEN MIN(started_at) >= TIMESTAMP_SUB(CURRENT_TIMESTAMP(), INTERVAL 1 DAY)
        THEN (UNIX_SECONDS(CURRENT_TIMESTAMP()) - UNIX_SECONDS(MIN(started_at))) / 3600.0
      ELSE 24.0
    END AS hours_watched
  FROM `data_migration.sts_job`
) AS sums
