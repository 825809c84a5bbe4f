-- What reports and notifications need: the estimate made before a run read anything, and what was told of it already.

-- Written once: an estimate that is changed afterwards proves nothing.
CREATE TABLE migration.run_estimates (
  run_id text PRIMARY KEY REFERENCES migration.runs,
  estimate jsonb NOT NULL,
  recorded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- A run may be told of that was never opened.
CREATE TABLE migration.notifications (
  run_id text NOT NULL,
  event text NOT NULL CHECK (event IN ('started', 'approval', 'succeeded', 'failed', 'review')),
  about text NOT NULL,
  claimed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (run_id, event, about)
);
CREATE INDEX notifications_latest ON migration.notifications (event, claimed_at);
ALTER TABLE migration.run_estimates ENABLE ROW LEVEL SECURITY;
ALTER TABLE migration.notifications ENABLE ROW LEVEL SECURITY;

-- What an estimate is made from: {planned: {entity: rows}, last}. last is the complete run most like this one (same
-- scope, same kind) that took up rows: {run_id, seconds, taken, phases: {phase: {rows, seconds}}}; NULL: there is none.
CREATE FUNCTION migration_api.estimate_facts(p_run text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  WITH mine AS (SELECT r.* FROM migration.runs r WHERE r.run_id = p_run),
  last AS MATERIALIZED (
    SELECT r.run_id, r.started_at, r.ended_at FROM migration.runs r, mine
    WHERE r.status = 'completed' AND r.type <> 'validation' AND r.run_id <> p_run
      AND EXISTS (SELECT FROM migration.batches b WHERE b.run_id = r.run_id AND b.phase = 'loading' AND b.extracted > 0)
    ORDER BY r.scope = mine.scope DESC, r.dry_run = mine.dry_run DESC, r.ended_at DESC LIMIT 1
  ),
  phases AS (
    SELECT CASE b.phase WHEN 'references' THEN 'loading' ELSE b.phase END AS phase, sum(b.extracted) AS rows,
      extract(epoch FROM max(b.recorded_at) - min(b.recorded_at - make_interval(secs => coalesce(b.seconds, 0)))) AS seconds
    FROM migration.batches b JOIN last USING (run_id) WHERE b.status = 'done' GROUP BY 1
  )
  SELECT jsonb_build_object(
    'planned', (SELECT coalesce(jsonb_object_agg(p.entity, p.selected_rows), '{}') FROM migration.plans p
      WHERE p.run_id = p_run),
    'last', (SELECT jsonb_build_object('run_id', l.run_id, 'seconds', extract(epoch FROM l.ended_at - l.started_at),
        'taken', (SELECT sum(b.extracted) FROM migration.batches b
          WHERE b.run_id = l.run_id AND b.phase = 'loading' AND b.status = 'done'),
        'phases', (SELECT jsonb_object_agg(f.phase, jsonb_build_object('rows', f.rows, 'seconds', f.seconds)) FROM phases f))
      FROM last l))
$$;

-- Keeps a run's estimate; the first one stays.
CREATE FUNCTION migration_api.record_estimate(p_run text, p_estimate jsonb) RETURNS void
LANGUAGE sql SET search_path = '' AS $$
  SELECT migration.hold_lock(p_run);
  INSERT INTO migration.run_estimates (run_id, estimate) VALUES (p_run, p_estimate) ON CONFLICT DO NOTHING;
$$;

-- What a report holds beside a run's ledger: its estimate (NULL: never made) and the version of this server.
CREATE FUNCTION migration_api.report_facts(p_run text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT jsonb_build_object('server', current_setting('server_version'),
    'estimate', (SELECT e.estimate || jsonb_build_object('recorded_at', e.recorded_at) FROM migration.run_estimates e
      WHERE e.run_id = p_run))
$$;

-- Whether an event is to be told: the same one is told once a run; how many pairs wait for a review, once until the
-- number changes, whichever run finds it.
CREATE FUNCTION migration_api.claim_notification(p_run text, p_event text, p_about text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  IF p_event = 'review' AND p_about = (SELECT n.about FROM migration.notifications n
      WHERE n.event = 'review' ORDER BY n.claimed_at DESC LIMIT 1) THEN
    RETURN 'false';
  END IF;
  INSERT INTO migration.notifications AS n (run_id, event, about) VALUES (p_run, p_event, p_about) ON CONFLICT DO NOTHING;
  RETURN to_jsonb(FOUND);
END $$;

SELECT migration.secure();

INSERT INTO migration.schema_versions (name) VALUES ('migration/0022_report.sql');
