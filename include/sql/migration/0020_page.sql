-- What the pages in Airflow's web interface show (plugins/ui): each function answers one request, at a price that many
-- viewers beside a run do not matter. Counts, codes and legacy ids; values of rows only where it says so, and then it is
-- kept who looked.

-- What is in quarantine is counted and leafed through by it.
CREATE INDEX quarantine_page ON migration.quarantine (code, entity, legacy_id) WHERE status = 'open';
CREATE INDEX runs_started ON migration.runs (started_at);

-- The ledger of a run by phase and entity; begin and end are of the batches that are done.
CREATE FUNCTION migration.ledger(p_run text) RETURNS TABLE (phase text, entity text, batches bigint, failed bigint,
  codes text[], "rows" bigint, inserted bigint, updated bigint, unchanged bigint, merged bigint, rejected bigint,
  skipped bigint, deleted bigint, begun timestamptz, ended timestamptz)
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT b.phase, b.entity, count(*) FILTER (WHERE b.status = 'done'), count(*) FILTER (WHERE b.status = 'failed'),
    coalesce(array_agg(DISTINCT b.error_code) FILTER (WHERE b.error_code IS NOT NULL), '{}'), sum(b.extracted),
    sum(b.inserted), sum(b.updated), sum(b.unchanged), sum(b.merged), sum(b.rejected), sum(b.skipped), sum(b.deleted),
    min(b.recorded_at - make_interval(secs => coalesce(b.seconds, 0))) FILTER (WHERE b.status = 'done'),
    max(b.recorded_at) FILTER (WHERE b.status = 'done')
  FROM migration.batches b WHERE b.run_id = p_run GROUP BY b.phase, b.entity
$$;

-- The last complete run before a run that was of its kind: what it can be compared with. NULL: none.
CREATE FUNCTION migration.comparable_run(p_run text) RETURNS text
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT o.run_id FROM migration.runs r JOIN migration.runs o ON o.type = r.type AND o.scope = r.scope
    AND o.run_id <> r.run_id AND o.started_at < r.started_at AND o.status = 'completed'
  WHERE r.run_id = p_run ORDER BY o.started_at DESC LIMIT 1
$$;

-- All that changes while a run goes on, asked for every few seconds. NULL: the target knows of no such run of the DAG.
CREATE FUNCTION migration_api.page_run(p_dag text, p_run text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' SET statement_timeout = '10s' AS $$
  SELECT jsonb_build_object(
    'now', clock_timestamp(),
    'run', to_jsonb(r) - '{parameters,counts,report_uri,source_identity,source_horizon}'::text[]
      || jsonb_build_object('ai_budget', r.parameters -> 'ai_budget', 'has_report', coalesce(r.report_uri, '') <> '',
        'silent_seconds', (SELECT extract(epoch FROM clock_timestamp() - l.heartbeat_at)::double precision
          FROM migration.run_lock l WHERE l.run_id = r.run_id)),
    'plans', (SELECT coalesce(jsonb_agg(jsonb_build_object('entity', p.entity, 'source_rows', p.source_rows,
        'selected_rows', p.selected_rows, 'gone_rows', p.gone_rows) ORDER BY p.entity), '[]')
      FROM migration.plans p WHERE p.run_id = r.run_id),
    'ledger', (SELECT coalesce(jsonb_agg(to_jsonb(l) ORDER BY l.phase, l.entity), '[]')
      FROM migration.ledger(r.run_id) l),
    'before', (SELECT coalesce(jsonb_agg(to_jsonb(l) ORDER BY l.phase, l.entity), '[]')
      FROM migration.ledger(migration.comparable_run(r.run_id)) l),
    'checks', (SELECT coalesce(jsonb_agg(to_jsonb(c) ORDER BY c.level), '[]') FROM (
      SELECT c.level, count(*) AS checks, count(*) FILTER (WHERE c.passed) AS passed,
        count(*) FILTER (WHERE NOT c.passed AND c.severity = 'fail') AS failed,
        count(*) FILTER (WHERE NOT c.passed AND c.severity = 'warn') AS warned
      FROM migration.checks c WHERE c.run_id = r.run_id GROUP BY c.level) c),
    'notes', (SELECT coalesce(jsonb_agg(jsonb_build_object('code', n.code, 'facts', n.facts) ORDER BY n.id), '[]')
      FROM migration.run_notes n WHERE n.run_id = r.run_id),
    'embeddings', migration_api.embedding_facts(r.run_id))
  FROM migration.runs r WHERE r.run_id = p_run AND r.dag_id = p_dag
$$;

-- The checks of a run, those that did not pass first.
CREATE FUNCTION migration_api.page_checks(p_dag text, p_run text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' SET statement_timeout = '10s' AS $$
  SELECT coalesce(jsonb_agg(to_jsonb(c) - 'run_id' ORDER BY c.passed, c.severity, c.level, c.name, c.entity), '[]')
  FROM migration.checks c JOIN migration.runs r USING (run_id) WHERE c.run_id = p_run AND r.dag_id = p_dag
$$;

-- The target as it is now: who migrates, what waits for people, and the last p_runs runs, the latest first.
CREATE FUNCTION migration_api.page_state(p_runs integer) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' SET statement_timeout = '10s' AS $$
  SELECT jsonb_build_object(
    'now', clock_timestamp(),
    'lock', migration_api.lock_holder() - '{host,process_space,pid,process_started}'::text[],
    -- Up to when the target is known to follow the source.
    'follows', (SELECT r.started_at FROM migration.watermarks w JOIN migration.runs r USING (run_id)
      WHERE w.name = 'source'),
    'quarantine', (SELECT coalesce(jsonb_agg(jsonb_build_object('entity', q.entity, 'code', q.code, 'rows', q.rows,
        'reason', k.reason, 'how_to_fix', k.how_to_fix) ORDER BY q.rows DESC, q.entity, q.code), '[]')
      FROM (SELECT q.entity, q.code, count(*) AS rows FROM migration.quarantine q WHERE q.status = 'open'
        GROUP BY q.code, q.entity) q LEFT JOIN migration.finding_kinds k USING (code)),
    'pairs', (SELECT coalesce(jsonb_agg(to_jsonb(p) ORDER BY p.entity), '[]') FROM (
      SELECT d.entity, count(*) FILTER (WHERE d.status = 'pending') AS pending,
        count(*) FILTER (WHERE d.asked_again_at IS NOT NULL) AS asked_again
      FROM migration.duplicate_pairs d GROUP BY d.entity) p),
    'runs', (SELECT coalesce(jsonb_agg(to_jsonb(h) ORDER BY h.started_at DESC), '[]') FROM (
      SELECT r.run_id, r.dag_id, r.type, r.scope, r.dry_run, r.status, r.phase, r.started_at, r.ended_at, s.*,
        -- What the target followed until then: how old its data was when this run brought it forward.
        (SELECT max(b.started_at) FROM migration.runs b WHERE b.status = 'completed' AND NOT b.dry_run
          AND b.type <> 'validation' AND b.scope <> 'quarantine' AND b.started_at < r.started_at) AS followed
      FROM (SELECT * FROM migration.runs ORDER BY started_at DESC LIMIT p_runs) r
      CROSS JOIN LATERAL (SELECT coalesce(sum(b.extracted), 0) AS "rows", coalesce(sum(b.rejected), 0) AS rejected,
          coalesce(sum(b.inserted + b.updated + b.deleted), 0) AS written
        FROM migration.batches b WHERE b.run_id = r.run_id AND b.phase = 'loading') s) h))
$$;

-- A page of what is in quarantine, without values; p_after is the last row of the page before (code, entity, legacy_id).
-- p_entity, p_code NULL: any.
CREATE FUNCTION migration_api.page_quarantine(p_entity text, p_code text, p_after jsonb, p_most integer) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' SET statement_timeout = '10s' AS $$
  SELECT coalesce(jsonb_agg(to_jsonb(q)), '[]') FROM (
    SELECT q.id::text AS id, q.entity, q.legacy_id, q.code, q."column", q.run_id, q.recorded_at,
      q.payload IS NOT NULL AS has_values
    FROM migration.quarantine q
    WHERE q.status = 'open' AND (p_entity IS NULL OR q.entity = p_entity) AND (p_code IS NULL OR q.code = p_code)
      AND (p_after IS NULL
        OR (q.code, q.entity, q.legacy_id) > (p_after ->> 'code', p_after ->> 'entity', p_after ->> 'legacy_id'))
    ORDER BY q.code, q.entity, q.legacy_id LIMIT least(p_most, 200)) q
$$;

-- The values of a row in quarantine, which are health data; p_by is kept as who looked. NULL: it is not there any more.
CREATE FUNCTION migration_api.page_quarantined_values(p_id text, p_by text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET statement_timeout = '10s' AS $$
DECLARE
  aside migration.quarantine;
BEGIN
  IF trim(coalesce(p_by, '')) = '' THEN
    PERFORM migration.refuse('PARAM_INVALID', 'Who reads values of rows must say who that is.');
  END IF;
  SELECT * INTO aside FROM migration.quarantine q WHERE q.id = p_id::bigint AND q.status = 'open';
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  PERFORM migration.audit(NULL, 'quarantined values read', jsonb_build_object(
    'entity', aside.entity, 'legacy_id', aside.legacy_id, 'by', p_by));
  RETURN coalesce(aside.payload, '{}');
END $$;

SELECT migration.secure();

INSERT INTO migration.schema_versions (name) VALUES ('migration/0020_page.sql');
