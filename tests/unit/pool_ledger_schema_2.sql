-- A ledger as the release before wrote it (schema 2): attempt 8 is over, attempt 9 is on its way.
CREATE TABLE IF NOT EXISTS job (
  name TEXT PRIMARY KEY, prefix TEXT NOT NULL, spec TEXT NOT NULL, queue TEXT NOT NULL, state TEXT NOT NULL,
  strays INTEGER NOT NULL DEFAULT 0, told INTEGER NOT NULL DEFAULT 0, ledgered INTEGER NOT NULL DEFAULT 0,
  began_at TEXT NOT NULL, ended_at TEXT, error_code TEXT NOT NULL DEFAULT '', error_message TEXT NOT NULL DEFAULT '',
  shards INTEGER NOT NULL DEFAULT 1, shards_open INTEGER NOT NULL DEFAULT 1,
  tasks INTEGER NOT NULL DEFAULT 0, tasks_open INTEGER NOT NULL DEFAULT 0,
  listed INTEGER NOT NULL DEFAULT 0, listed_bytes INTEGER NOT NULL DEFAULT 0,
  carried INTEGER NOT NULL DEFAULT 0, carried_bytes INTEGER NOT NULL DEFAULT 0,
  done INTEGER NOT NULL DEFAULT 0, done_bytes INTEGER NOT NULL DEFAULT 0, skipped INTEGER NOT NULL DEFAULT 0, skipped_bytes INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0, failed_bytes INTEGER NOT NULL DEFAULT 0, unmappable INTEGER NOT NULL DEFAULT 0, unmappable_bytes INTEGER NOT NULL DEFAULT 0, vanished INTEGER NOT NULL DEFAULT 0, vanished_bytes INTEGER NOT NULL DEFAULT 0,
  by_md5 INTEGER NOT NULL DEFAULT 0, by_crc32c INTEGER NOT NULL DEFAULT 0, by_size INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS job_by_prefix ON job (prefix, began_at);
CREATE INDEX IF NOT EXISTS job_by_state ON job (state, told);
CREATE INDEX IF NOT EXISTS job_with_strays ON job (ended_at) WHERE strays > 0;
CREATE INDEX IF NOT EXISTS job_ledgered ON job (state) WHERE ledgered > 0;
CREATE TABLE IF NOT EXISTS shard (job TEXT, shard TEXT, run TEXT, PRIMARY KEY (job, shard)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS early (id INTEGER PRIMARY KEY, job TEXT, shard TEXT, run TEXT, report TEXT, UNIQUE (job, shard, run));
CREATE TABLE IF NOT EXISTS task (job TEXT, shard TEXT, run TEXT, sequence INTEGER, counts TEXT,
  PRIMARY KEY (job, shard, run, sequence)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS failure (job TEXT, shard TEXT, run TEXT, prefix TEXT, key TEXT, size INTEGER, etag TEXT, verdict TEXT,
  error TEXT, details TEXT, at TEXT, PRIMARY KEY (job, shard, run, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS object (job TEXT, shard TEXT, run TEXT, key TEXT, size INTEGER, etag TEXT, generation INTEGER,
  crc32c TEXT, verified TEXT, verdict TEXT, PRIMARY KEY (job, shard, run, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS object_by_key ON object (job, key);
CREATE TABLE IF NOT EXISTS parked (task TEXT PRIMARY KEY, job TEXT, kind TEXT, body TEXT);
CREATE INDEX IF NOT EXISTS parked_by_job ON parked (job);
CREATE TABLE IF NOT EXISTS led (epoch INTEGER);
CREATE TABLE IF NOT EXISTS dead_letter (id INTEGER PRIMARY KEY, at TEXT, job TEXT, reason TEXT, body BLOB);
PRAGMA user_version = 2;
INSERT INTO job (name, prefix, spec, queue, state, told, began_at, ended_at, shards_open, tasks, listed, done, failed) VALUES ('transferJobs/stsm-m-x-a8', 'p/', '{"before": "", "job": "transferJobs/stsm-m-x-a8", "kms_key": "", "multipart_etags": true, "prefix": "p/", "replace": "RECORDED", "since": "", "sink_bucket": "sink", "sink_root": "", "source_bucket": "source", "source_root": "", "storage_class": "", "storage_classes": []}', 'q', 'over', 1, '2026-12-01T03:00:00.000+00:00', '2026-12-01T03:05:00.000+00:00', 0, 1, 3, 1, 2);
INSERT INTO job (name, prefix, spec, queue, state, told, began_at, ended_at, shards_open, tasks, tasks_open, listed, done, failed) VALUES ('transferJobs/stsm-m-x-a9', 'p/', '{"before": "", "job": "transferJobs/stsm-m-x-a9", "kms_key": "", "multipart_etags": true, "prefix": "p/", "replace": "RECORDED", "since": "", "sink_bucket": "sink", "sink_root": "", "source_bucket": "source", "source_root": "", "storage_class": "", "storage_classes": []}', 'q', 'running', 0, '2026-11-21T03:00:00.000+00:00', NULL, 0, 2, 1, 6, 2, 2);
INSERT INTO shard VALUES ('transferJobs/stsm-m-x-a9', 'root', 'r');
INSERT INTO task VALUES ('transferJobs/stsm-m-x-a9', 'root', 'r', 0, '[{"done": 2, "failed": 2}, {}, {}]');
INSERT INTO failure VALUES ('transferJobs/stsm-m-x-a9', 'root', 'r', 'p/', 'p/root-0-0', 1, 'e', 'failed', 'forbidden', '403', '2026-11-21T03:00:00.000+00:00');
INSERT INTO failure VALUES ('transferJobs/stsm-m-x-a9', 'root', 'r', 'p/', 'p/root-0-1', 1, 'e', 'failed', 'forbidden', '403', '2026-11-21T03:00:00.000+00:00');
INSERT INTO failure VALUES ('transferJobs/stsm-m-x-a9', 'root', 'dead', 'p/', 'p/root-0-0', 1, 'e', 'failed', 'forbidden', '403', '2026-11-21T03:00:00.000+00:00');
INSERT INTO failure VALUES ('transferJobs/stsm-m-x-a9', 'root', 'dead', 'p/', 'p/root-0-1', 1, 'e', 'failed', 'forbidden', '403', '2026-11-21T03:00:00.000+00:00');
INSERT INTO failure VALUES ('transferJobs/stsm-m-x-a9', 'root', 'dead', 'p/', 'p/root-0-2', 1, 'e', 'failed', 'forbidden', '403', '2026-11-21T03:00:00.000+00:00');
INSERT INTO led VALUES (4);
