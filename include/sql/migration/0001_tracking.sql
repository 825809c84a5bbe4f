-- Tracking: what ran, what became of every row, what differs. Not exposed to anon or authenticated.
CREATE SCHEMA IF NOT EXISTS migration;
REVOKE ALL ON SCHEMA migration FROM PUBLIC;

-- Every file registers itself, however it is deployed; the migration adds the hash it found.
CREATE TABLE migration.schema_versions (
  name text PRIMARY KEY,
  hash text,
  deployed_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE migration.runs (
  run_id text PRIMARY KEY,
  dag_id text,
  type text NOT NULL CHECK (type IN ('full', 'incremental', 'validation')),
  -- Which source rows it takes up.
  scope text NOT NULL CHECK (scope IN ('everything', 'changes', 'quarantine')),
  dry_run boolean NOT NULL,
  status text NOT NULL CHECK (status IN ('running', 'completed', 'failed', 'rolled_back')),
  phase text,
  started_at timestamptz NOT NULL DEFAULT now(),
  ended_at timestamptz,
  started_by text,
  parameters jsonb NOT NULL,
  mapping_version text NOT NULL,
  rules_version text NOT NULL,
  code_version text NOT NULL,
  source_horizon bigint,
  source_identity jsonb,
  failed_steps text[] NOT NULL DEFAULT '{}',
  counts jsonb,
  report_uri text,
  -- Whether it can still be rolled back (migration.journal).
  journal_kept boolean NOT NULL DEFAULT true,
  rolled_back_at timestamptz,
  rolled_back_by text,
  rollback_reason text,
  CHECK ((status = 'rolled_back') = (rolled_back_at IS NOT NULL))
);

-- The run that may write: one row at most. Process and its space where the whole run lives in one process.
CREATE TABLE migration.run_lock (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  run_id text NOT NULL UNIQUE REFERENCES migration.runs DEFERRABLE INITIALLY DEFERRED,
  since timestamptz NOT NULL DEFAULT clock_timestamp(),
  heartbeat_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  -- So long the run may wait in silence for a person's answer.
  awaits_until timestamptz,
  host text NOT NULL,
  process_space text,
  pid integer,
  process_started double precision
);

CREATE TABLE migration.batches (
  run_id text NOT NULL REFERENCES migration.runs,
  entity text NOT NULL,
  phase text NOT NULL,
  batch text NOT NULL,
  key_range text,
  status text NOT NULL DEFAULT 'done' CHECK (status IN ('done', 'failed')),
  attempt integer NOT NULL DEFAULT 1,
  extracted bigint NOT NULL DEFAULT 0,
  inserted bigint NOT NULL DEFAULT 0,
  updated bigint NOT NULL DEFAULT 0,
  unchanged bigint NOT NULL DEFAULT 0,
  merged bigint NOT NULL DEFAULT 0,
  rejected bigint NOT NULL DEFAULT 0,
  skipped bigint NOT NULL DEFAULT 0,
  -- Rows gone from the source; they are no source rows, so no fate counts them.
  deleted bigint NOT NULL DEFAULT 0,
  seconds double precision,
  memory_mb double precision,
  fingerprint text,
  error_code text,
  recorded_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (run_id, entity, phase, batch),
  CONSTRAINT every_row_has_one_fate CHECK (
    phase <> 'loading' OR status <> 'done'
    OR extracted = inserted + updated + unchanged + merged + rejected + skipped)
);

-- Legacy ids are compared byte by byte everywhere: pages of rows are then read straight from an index.
CREATE TABLE migration.id_map (
  entity text NOT NULL,
  legacy_id text COLLATE "C" NOT NULL,
  target_id uuid NOT NULL,
  survivor_id uuid,
  -- Of the row as the source has it (migration.content_digest); NULL: to be written again.
  content_hash uuid,
  -- Of the source row that was loaded (include/core/source_query.py), and what it was transformed by.
  source_version uuid,
  mapping_version text,
  rules_version text,
  state text NOT NULL CHECK (state IN ('live', 'merged', 'deleted', 'quarantined')),
  first_run text NOT NULL,
  last_run text NOT NULL,
  -- When the business row was written last.
  written_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (entity, legacy_id),
  CHECK ((state = 'merged') = (survivor_id IS NOT NULL))
);
CREATE INDEX id_map_merged ON migration.id_map (entity) INCLUDE (target_id, survivor_id) WHERE state = 'merged';

-- References that are stored otherwise than the source has them: led to a survivor, or cleared.
CREATE TABLE migration.redirects (
  entity text NOT NULL,
  legacy_id text COLLATE "C" NOT NULL,
  "column" text NOT NULL,
  original_id uuid NOT NULL,
  -- What was written instead; anything else in its place was written by somebody else.
  stored_id uuid,
  PRIMARY KEY (entity, legacy_id, "column")
);

CREATE TABLE migration.finding_kinds (
  code text PRIMARY KEY,
  reason text NOT NULL,
  how_to_fix text NOT NULL
);

CREATE TABLE migration.quarantine (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  entity text NOT NULL,
  legacy_id text COLLATE "C" NOT NULL,
  code text NOT NULL REFERENCES migration.finding_kinds,
  "column" text NOT NULL,
  reason text NOT NULL,
  how_to_fix text NOT NULL,
  payload jsonb,
  status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 're-driven', 'waived')),
  run_id text NOT NULL,
  resolved_run_id text,
  recorded_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX quarantine_open ON migration.quarantine (entity, legacy_id) WHERE status = 'open';
CREATE INDEX quarantine_code ON migration.quarantine (code);

CREATE TABLE migration.findings (
  entity text NOT NULL,
  legacy_id text COLLATE "C" NOT NULL,
  code text NOT NULL REFERENCES migration.finding_kinds,
  "column" text NOT NULL,
  run_id text NOT NULL,
  PRIMARY KEY (entity, legacy_id, code, "column")
);
CREATE INDEX findings_code ON migration.findings (code);

-- Rows whose text the embedding provider refuses, and the hash of that text, which is not sent again.
CREATE TABLE migration.embedding_quarantine (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  entity text NOT NULL,
  legacy_id text COLLATE "C" NOT NULL,
  hash text NOT NULL,
  model text NOT NULL,
  code text NOT NULL,
  run_id text NOT NULL,
  -- In which it got a vector; NULL: open.
  resolved_run_id text,
  recorded_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX embedding_quarantine_open ON migration.embedding_quarantine (entity, legacy_id)
  WHERE resolved_run_id IS NULL;
CREATE INDEX embedding_quarantine_hash ON migration.embedding_quarantine (hash) WHERE resolved_run_id IS NULL;

CREATE TABLE migration.watermarks (
  name text PRIMARY KEY,
  horizon bigint,
  -- Of vectors: a digest of all that decides what is embedded, and how.
  recipe text,
  run_id text NOT NULL,
  recorded_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE migration.duplicate_pairs (
  entity text NOT NULL,
  left_legacy_id text COLLATE "C" NOT NULL,
  right_legacy_id text COLLATE "C" NOT NULL,
  -- NULL: never compared, but decided.
  score double precision CHECK (score BETWEEN 0 AND 1),
  explanation jsonb NOT NULL,
  status text NOT NULL CHECK (status IN ('auto_merged', 'pending', 'confirmed', 'rejected', 'stale')),
  -- That found it as it is; NULL: none did.
  run_id text,
  decided_by text,
  decided_at timestamptz,
  decision_reason text,
  -- Of what was compared when it was decided, and since when a change of it has been waiting for a second look.
  left_hash text,
  right_hash text,
  asked_again_at timestamptz,
  -- When a person decided last, or took a decision back.
  reviewed_at timestamptz,
  PRIMARY KEY (entity, left_legacy_id, right_legacy_id),
  CHECK ((status IN ('confirmed', 'rejected')) = (decided_at IS NOT NULL)),
  CHECK (asked_again_at IS NULL OR decided_at IS NOT NULL)
);

-- What the matcher learnt of an entity's rows; without values of theirs.
CREATE TABLE migration.match_models (
  entity text PRIMARY KEY,
  model jsonb NOT NULL,
  run_id text NOT NULL,
  recorded_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE migration.merges (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  run_id text NOT NULL,
  entity text NOT NULL,
  survivor_id uuid NOT NULL,
  merged_id uuid NOT NULL,
  -- The rows as they were before this merge: the merged one when it was merged, the survivor when it was first changed
  -- (migration.settle), without what other merges gave it; NULL: the merge left it as it was. Of children
  -- that were led to the survivor, migration.redirects keeps what they referred to.
  before_image jsonb,
  survivor_before jsonb,
  merged_at timestamptz NOT NULL DEFAULT now(),
  undone_at timestamptz
);
CREATE UNIQUE INDEX merges_in_force ON migration.merges (merged_id) WHERE undone_at IS NULL;

CREATE TABLE migration.checks (
  run_id text NOT NULL REFERENCES migration.runs,
  name text NOT NULL,
  entity text NOT NULL,
  level integer NOT NULL,
  severity text NOT NULL CHECK (severity IN ('fail', 'warn')),
  expected text NOT NULL,
  found text NOT NULL,
  passed boolean NOT NULL,
  sample_keys text[] NOT NULL DEFAULT '{}',
  PRIMARY KEY (run_id, name, entity)
);

-- What must be known to read the report of a run (include/core/notes.py): facts, never values of rows.
CREATE TABLE migration.run_notes (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  run_id text NOT NULL REFERENCES migration.runs,
  code text NOT NULL,
  subject text NOT NULL DEFAULT '',
  facts jsonb NOT NULL,
  UNIQUE (run_id, code, subject)
);

-- What each entity's rows were planned to be in a run; made once, so that a repeated step finds the same.
CREATE TABLE migration.plans (
  run_id text NOT NULL REFERENCES migration.runs,
  entity text NOT NULL,
  source_rows bigint NOT NULL,
  selected_rows bigint NOT NULL,
  gone_rows bigint NOT NULL,
  partitions jsonb NOT NULL,
  recorded_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (run_id, entity)
);

-- What deduplication decided in a run under way: every merged row and its survivor. Emptied with the run.
CREATE TABLE migration.survivors (
  run_id text NOT NULL,
  entity text NOT NULL,
  id uuid NOT NULL,
  survivor_id uuid NOT NULL,
  PRIMARY KEY (run_id, entity, id)
);

-- Target ids that a dry run would have created or deleted, so that children fare as they would. Emptied with the run.
CREATE UNLOGGED TABLE migration.planned_ids (
  run_id text NOT NULL,
  id uuid NOT NULL,
  deleted boolean NOT NULL DEFAULT false,
  PRIMARY KEY (run_id, id)
);

-- What the functions need to know of an entity; written on deployment from the entity files.
CREATE TABLE migration.entities (
  entity text PRIMARY KEY,
  -- The first one is the legacy key.
  columns text[] NOT NULL,
  -- {name, entity, required}
  refs jsonb NOT NULL,
  -- {name, type}
  enums jsonb NOT NULL,
  -- {name, sql, severity}; the query gives the legacy ids that break the rule.
  checks jsonb NOT NULL,
  -- Its documents and where their vectors are: table, owner, content_type, documents and documents_with_free_text
  -- (queries that begin with id).
  vectors jsonb,
  -- {column: fill or survivor}: what a survivor holds there; empty where rows are never merged.
  merge_rules jsonb NOT NULL
);

DO $$
DECLARE
  name text;
BEGIN
  FOR name IN SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'migration'::regnamespace AND c.relkind = 'r' LOOP
    EXECUTE format('ALTER TABLE migration.%I ENABLE ROW LEVEL SECURITY', name);
  END LOOP;
END $$;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA migration FROM PUBLIC;

INSERT INTO migration.schema_versions (name) VALUES ('migration/0001_tracking.sql');
