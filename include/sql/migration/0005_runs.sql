-- A run from its opening to its end: its lock, its state, its ledger. What the states mean is decided by the
-- hooks (plugins/hooks/run_lock.py, tracking.py); every function here is one transaction and may be repeated.

-- Kept to the end of the transaction: whoever takes the lock over waits until then. KEY SHARE goes with itself and
-- with signs of life, so batches written side by side do not wait for each other.
CREATE FUNCTION migration.hold_lock(p_run text) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  PERFORM FROM migration.run_lock l WHERE l.run_id = p_run FOR KEY SHARE;
  IF NOT FOUND THEN
    PERFORM migration.refuse('RUN_LOST', coalesce(
      (SELECT format('Run %s holds it now.', l.run_id) FROM migration.run_lock l), 'Nobody holds it now.'));
  END IF;
  -- From here on the journal notes what a real run changes.
  PERFORM set_config('migration.run', CASE WHEN r.dry_run THEN '' ELSE p_run END, true)
  FROM migration.runs r WHERE r.run_id = p_run;
END $$;

-- Who holds the lock; NULL: nobody. `silent` are the seconds since the last sign of life, or since an answer was due, by
-- the clock of the target.
CREATE FUNCTION migration_api.lock_holder() RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT jsonb_build_object('run_id', l.run_id, 'dag_id', r.dag_id, 'type', r.type, 'dry_run', r.dry_run,
    'started_by', r.started_by, 'since', l.since, 'heartbeat_at', l.heartbeat_at, 'awaits_until', l.awaits_until,
    'silent', extract(epoch FROM clock_timestamp() - greatest(l.heartbeat_at, l.awaits_until))::double precision,
    'host', l.host, 'process_space', l.process_space, 'pid', l.pid, 'process_started', l.process_started)
  FROM migration.run_lock l JOIN migration.runs r USING (run_id)
$$;

-- What one refreshed a moment ago needs no refreshing by the tasks beside it.
CREATE FUNCTION migration_api.beat(p_run text) RETURNS void
LANGUAGE sql SET search_path = '' SET statement_timeout = '10s' AS $$
  UPDATE migration.run_lock SET heartbeat_at = clock_timestamp()
  WHERE run_id = p_run AND heartbeat_at < clock_timestamp() - interval '5 s'
$$;

-- A sign of life at the start of a step, which may run in another process than the one before.
CREATE FUNCTION migration.confirm_lock(p_run text, p_process jsonb) RETURNS void
LANGUAGE sql SET search_path = '' AS $$
  UPDATE migration.run_lock l SET heartbeat_at = clock_timestamp(), awaits_until = NULL, host = p.host,
    process_space = p.space, pid = p.pid, process_started = p.started
  FROM jsonb_to_record(p_process) AS p (host text, space text, pid integer, started double precision)
  WHERE l.run_id = p_run AND (l.heartbeat_at < clock_timestamp() - interval '5 s' OR l.awaits_until IS NOT NULL
    OR (l.pid, l.process_started) IS DISTINCT FROM (p.pid, p.started))
$$;

-- Takes the lock; harmless for its holder. Returns who else holds it, or NULL.
CREATE FUNCTION migration.take_lock(p_run text, p_process jsonb, p_dead jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  holder jsonb;
BEGIN
  IF p_dead IS NOT NULL AND NOT migration.evict(p_run, p_dead) THEN
    RETURN migration_api.lock_holder() || '{"busy": true}';
  END IF;
  LOOP
    INSERT INTO migration.run_lock (run_id, host, process_space, pid, process_started)
    SELECT p_run, p.host, p.space, p.pid, p.started
    FROM jsonb_to_record(p_process) AS p (host text, space text, pid integer, started double precision)
    ON CONFLICT DO NOTHING;
    IF FOUND THEN
      RETURN NULL;
    END IF;
    holder := migration_api.lock_holder();
    IF holder ->> 'run_id' = p_run THEN
      PERFORM migration.confirm_lock(p_run, p_process);
      RETURN NULL;
    END IF;
    IF holder IS NOT NULL THEN  -- else it was given back in between
      RETURN holder;
    END IF;
  END LOOP;
END $$;

-- Takes the lock from a dead run, unless it gave a sign of life or another run was quicker. False: its last batch
-- still runs in the server.
CREATE FUNCTION migration.evict(p_run text, p_dead jsonb) RETURNS boolean
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  DELETE FROM migration.run_lock l
  WHERE l.run_id = p_dead ->> 'run_id' AND l.heartbeat_at = (p_dead ->> 'heartbeat_at')::timestamptz;
  IF FOUND THEN
    UPDATE migration.runs SET status = 'failed', ended_at = clock_timestamp(), counts = NULL
    WHERE run_id = p_dead ->> 'run_id' AND status = 'running';
    PERFORM migration.audit(p_run, 'lock taken over', jsonb_build_object('from', p_dead -> 'run_id',
      'why', p_dead -> 'why', 'last_sign_of_life', p_dead -> 'heartbeat_at'));
  END IF;
  RETURN true;
EXCEPTION WHEN lock_not_available THEN
  RETURN false;
END $$;

-- What was staged before another run loaded would bring older rows back; a dry run outdates only dry runs. A run that
-- was rolled back is over.
CREATE FUNCTION migration.refuse_superseded(p_run text) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  later text;
BEGIN
  PERFORM migration.refuse('RUN_ROLLED_BACK', '') FROM migration.runs r
  WHERE r.run_id = p_run AND r.status = 'rolled_back';
  SELECT o.run_id INTO later FROM migration.runs o, migration.runs mine WHERE mine.run_id = p_run
    AND o.run_id <> mine.run_id AND o.type <> 'validation' AND o.ended_at > mine.ended_at AND (mine.dry_run OR NOT o.dry_run)
    AND (o.status IN ('completed', 'rolled_back') OR EXISTS (SELECT FROM migration.batches b WHERE b.run_id = o.run_id
      AND b.phase = 'loading' AND b.recorded_at > mine.ended_at)) ORDER BY o.ended_at LIMIT 1;
  IF FOUND THEN
    PERFORM migration.refuse('RUN_SUPERSEDED', format('It was run %s.', later));
  END IF;
END $$;

-- Starts the run and takes the lock, or takes both up again after a clear. Returns who else holds the lock, or NULL.
CREATE FUNCTION migration_api.open_run(p_run text, p_values jsonb, p_process jsonb, p_dead jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  holder jsonb := migration.take_lock(p_run, p_process, p_dead);
BEGIN
  IF holder IS NOT NULL THEN
    RETURN holder;
  END IF;
  PERFORM migration.refuse_superseded(p_run);
  INSERT INTO migration.runs (run_id, dag_id, type, scope, dry_run, status, phase, parameters, mapping_version,
    rules_version, code_version, started_by, source_horizon, source_identity)
  SELECT p_run, v.dag_id, v.type, v.scope, v.dry_run, 'running', 'preparation', v.parameters, v.mapping_version,
    v.rules_version, v.code_version, v.started_by, v.source_horizon, v.source_identity
  FROM jsonb_populate_record(NULL::migration.runs, p_values) v
  ON CONFLICT (run_id) DO UPDATE SET status = 'running', ended_at = NULL, failed_steps = '{}',
    parameters = excluded.parameters;
  RETURN NULL;
END $$;

-- A failed run, whose tasks were cleared, goes on. Returns who else holds the lock, or NULL.
CREATE FUNCTION migration_api.resume_run(p_run text, p_process jsonb, p_dead jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  holder jsonb := migration.take_lock(p_run, p_process, p_dead);
BEGIN
  IF holder IS NULL THEN
    PERFORM migration.refuse_superseded(p_run);
    UPDATE migration.runs SET status = 'running', ended_at = NULL WHERE run_id = p_run;
  END IF;
  RETURN holder;
END $$;

CREATE FUNCTION migration_api.run_state(p_run text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT jsonb_build_object('status', r.status, 'failed_steps', r.failed_steps, 'mapping_version', r.mapping_version,
    'code_version', r.code_version, 'holds_lock', l.run_id IS NOT NULL)
  FROM migration.runs r LEFT JOIN migration.run_lock l USING (run_id) WHERE r.run_id = p_run
$$;

-- A step begins: a sign of life, and its own earlier failure is forgotten.
CREATE FUNCTION migration_api.begin_step(p_run text, p_phase text, p_step text, p_process jsonb) RETURNS void
LANGUAGE sql SET search_path = '' AS $$
  SELECT migration.confirm_lock(p_run, p_process);
  UPDATE migration.runs SET failed_steps = array_remove(failed_steps, p_step), phase = p_phase
  WHERE run_id = p_run AND (phase <> p_phase OR p_step = ANY (failed_steps))
$$;

CREATE FUNCTION migration_api.forget_failure(p_run text, p_step text) RETURNS void
LANGUAGE sql SET search_path = '' AS $$
  UPDATE migration.runs SET failed_steps = array_remove(failed_steps, p_step)
  WHERE run_id = p_run AND p_step = ANY (failed_steps)
$$;

CREATE FUNCTION migration_api.fail_step(p_run text, p_step text) RETURNS void
LANGUAGE sql SET search_path = '' AS $$
  UPDATE migration.runs SET failed_steps = failed_steps || p_step
  WHERE run_id = p_run AND NOT p_step = ANY (failed_steps)
$$;

-- The end of a run: its lock is given back. A complete run that wrote leaves its horizon for the next one; what a
-- failed run decided for its later steps stays, for they may be cleared. Returns what the audit is sealed with.
CREATE FUNCTION migration_api.close_run(p_run text, p_status text, p_counts jsonb, p_report text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  PERFORM migration.refuse('RUN_ROLLED_BACK', '') FROM migration.runs r
  WHERE r.run_id = p_run AND r.status = 'rolled_back';
  IF p_status = 'completed' AND (SELECT r.status FROM migration.runs r WHERE r.run_id = p_run) IS DISTINCT FROM 'completed' THEN
    PERFORM migration.hold_lock(p_run);
  END IF;
  DELETE FROM migration.run_lock WHERE run_id = p_run;
  UPDATE migration.runs SET status = p_status, ended_at = coalesce(ended_at, clock_timestamp()), counts = p_counts,
    report_uri = p_report WHERE run_id = p_run;
  IF p_status = 'completed' THEN
    -- Also the decisions of the failed runs that this one has superseded.
    DELETE FROM migration.planned_ids d USING migration.runs r, migration.runs mine WHERE mine.run_id = p_run
      AND r.run_id = d.run_id AND (r.run_id = mine.run_id OR r.dry_run OR NOT mine.dry_run);
    DELETE FROM migration.survivors d USING migration.runs r, migration.runs mine WHERE mine.run_id = p_run
      AND r.run_id = d.run_id AND (r.run_id = mine.run_id OR r.dry_run OR NOT mine.dry_run);
    DELETE FROM migration.calls WHERE answered_at < now() - interval '1 day';
    DELETE FROM migration.incoming WHERE recorded_at < now() - interval '1 day';
  END IF;
  INSERT INTO migration.watermarks (name, horizon, run_id)
  SELECT 'source', source_horizon, run_id FROM migration.runs
  WHERE run_id = p_run AND status = 'completed' AND NOT dry_run AND source_horizon IS NOT NULL
    AND parameters -> 'entities' = '[]' AND scope <> 'quarantine'
  ON CONFLICT (name) DO UPDATE SET horizon = excluded.horizon, run_id = excluded.run_id, recorded_at = now();
  RETURN migration_api.seal_audit();
END $$;

-- The ledger's row of a batch; a repeated batch replaces its own. Keys of p_row are columns of migration.batches.
CREATE FUNCTION migration.record_batch(p_run text, p_row jsonb) RETURNS void
LANGUAGE sql SET search_path = '' AS $$
  INSERT INTO migration.batches AS b (run_id, entity, phase, batch, key_range, attempt, extracted, inserted, updated,
    unchanged, merged, rejected, skipped, seconds, memory_mb, fingerprint, deleted)
  SELECT p_run, r.entity, r.phase, r.batch, r.key_range, coalesce(r.attempt, 1), coalesce(r.extracted, 0),
    coalesce(r.inserted, 0), coalesce(r.updated, 0), coalesce(r.unchanged, 0), coalesce(r.merged, 0),
    coalesce(r.rejected, 0), coalesce(r.skipped, 0), r.seconds, r.memory_mb, r.fingerprint, coalesce(r.deleted, 0)
  FROM jsonb_populate_record(NULL::migration.batches, p_row) r
  ON CONFLICT (run_id, entity, phase, batch) DO UPDATE SET attempt = b.attempt + 1, status = 'done',
    key_range = excluded.key_range, extracted = excluded.extracted, inserted = excluded.inserted,
    updated = excluded.updated, unchanged = excluded.unchanged, merged = excluded.merged,
    rejected = excluded.rejected, skipped = excluded.skipped, seconds = excluded.seconds,
    memory_mb = excluded.memory_mb, fingerprint = excluded.fingerprint, deleted = excluded.deleted,
    error_code = NULL, recorded_at = now()
$$;

CREATE FUNCTION migration_api.record_batch(p_run text, p_row jsonb) RETURNS void
LANGUAGE sql SET search_path = '' AS $$ SELECT migration.record_batch(p_run, p_row) $$;

CREATE FUNCTION migration_api.fail_batch(p_run text, p_entity text, p_phase text, p_batch text, p_code text) RETURNS void
LANGUAGE sql SET search_path = '' AS $$
  INSERT INTO migration.batches AS b (run_id, entity, phase, batch, status, error_code)
  VALUES (p_run, p_entity, p_phase, p_batch, 'failed', p_code) ON CONFLICT (run_id, entity, phase, batch) DO UPDATE
  SET status = 'failed', attempt = b.attempt + 1, error_code = excluded.error_code, recorded_at = now()
$$;

-- Names of the finished batches of a phase that begin with p_prefix.
CREATE FUNCTION migration_api.done_batches(p_run text, p_entity text, p_phase text, p_prefix text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT coalesce(jsonb_agg(b.batch ORDER BY b.batch), '[]') FROM migration.batches b WHERE b.run_id = p_run
    AND b.entity = p_entity AND b.phase = p_phase AND b.status = 'done' AND starts_with(b.batch, p_prefix)
$$;

-- Sums over the batches of a phase.
CREATE FUNCTION migration_api.fates(p_run text, p_entity text, p_phase text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT jsonb_build_object('extracted', coalesce(sum(b.extracted), 0), 'inserted', coalesce(sum(b.inserted), 0),
    'updated', coalesce(sum(b.updated), 0), 'unchanged', coalesce(sum(b.unchanged), 0),
    'merged', coalesce(sum(b.merged), 0), 'rejected', coalesce(sum(b.rejected), 0), 'skipped', coalesce(sum(b.skipped), 0))
  FROM migration.batches b WHERE b.run_id = p_run AND b.entity = p_entity AND b.phase = p_phase
$$;

-- Results of checks ({"checks": [...]}); a repeated check replaces its own.
CREATE FUNCTION migration_api.record_checks(p_run text, p_results jsonb) RETURNS void
LANGUAGE sql SET search_path = '' AS $$
  INSERT INTO migration.checks (run_id, name, entity, level, severity, expected, found, passed, sample_keys)
  SELECT p_run, c.name, c.entity, c.level, c.severity, c.expected, c.found, c.passed, c.sample_keys
  FROM jsonb_populate_recordset(NULL::migration.checks, p_results -> 'checks') c
  ON CONFLICT (run_id, name, entity) DO UPDATE SET level = excluded.level, severity = excluded.severity,
    expected = excluded.expected, found = excluded.found, passed = excluded.passed, sample_keys = excluded.sample_keys
$$;

-- What the tracking tables hold of a run, for its report.
CREATE FUNCTION migration_api.run_facts(p_run text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT jsonb_build_object(
    'run', (SELECT to_jsonb(r) FROM migration.runs r WHERE r.run_id = p_run),
    'batches', (SELECT coalesce(jsonb_agg(b ORDER BY b.phase, b.entity, b.batch), '[]') FROM migration.batches b
      WHERE b.run_id = p_run),
    'checks', (SELECT coalesce(jsonb_agg(c ORDER BY c.passed, c.entity, c.name), '[]') FROM migration.checks c
      WHERE c.run_id = p_run))
$$;

-- [entity, kind, code, rows]: what is in quarantine and what was noticed, now.
CREATE FUNCTION migration_api.finding_counts() RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT coalesce(jsonb_agg(jsonb_build_array(entity, kind, code, rows) ORDER BY entity, kind, code), '[]') FROM (
    SELECT q.entity, 'quarantine' AS kind, q.code, count(*) AS rows FROM migration.quarantine q
    WHERE q.status = 'open' GROUP BY q.entity, q.code
    UNION ALL SELECT f.entity, 'finding', f.code, count(*) FROM migration.findings f GROUP BY f.entity, f.code
    UNION ALL SELECT e.entity, 'embedding', e.code, count(*)
    FROM migration.embedding_quarantine e JOIN migration.id_map m USING (entity, legacy_id)
    WHERE e.resolved_run_id IS NULL AND m.state = 'live' GROUP BY e.entity, e.code) c
$$;

SELECT migration.secure();

INSERT INTO migration.schema_versions (name) VALUES ('migration/0005_runs.sql');
