-- The audit trail: every change of state, in the order in which it was made. It takes rows and gives none back, its
-- rows are sealed in a chain of hashes, and the ledger is compared with it. No values of rows of a business table:
-- legacy ids, codes and counts.
CREATE TABLE migration.audit_log (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  actor text NOT NULL DEFAULT current_user,
  run_id text,
  event text NOT NULL,
  details jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_log_run ON migration.audit_log (run_id);

-- A link of the chain: the SHA-256 of the hash before it and of the entry. Entries are sealed afterwards, those of
-- transactions that commit late behind later ones: chained as they are written, every transaction would wait for the
-- one before it.
CREATE TABLE migration.audit_seals (
  number bigint PRIMARY KEY,
  audit_id bigint NOT NULL UNIQUE,
  hash text NOT NULL
);
ALTER TABLE migration.audit_log ENABLE ROW LEVEL SECURITY;
ALTER TABLE migration.audit_seals ENABLE ROW LEVEL SECURITY;

CREATE FUNCTION migration.audit(p_run text, p_event text, p_details jsonb DEFAULT '{}') RETURNS void
LANGUAGE sql SET search_path = '' AS $$
  INSERT INTO migration.audit_log (run_id, event, details) VALUES (p_run, p_event, p_details)
$$;

CREATE FUNCTION migration.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  RAISE EXCEPTION 'migration.% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;

-- Changes of runs, with digests of what is too long to repeat. A digest is of jsonb, whose text depends on no setting.
CREATE FUNCTION migration.audited(p_run migration.runs) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT jsonb_build_object('status', p_run.status, 'type', p_run.type, 'scope', p_run.scope,
    'dry_run', p_run.dry_run, 'failed_steps', p_run.failed_steps,
    'opened_with', encode(sha256(convert_to(jsonb_build_array(p_run.parameters, p_run.mapping_version,
      p_run.rules_version, p_run.code_version, p_run.source_horizon, p_run.source_identity)::text, 'UTF8')), 'hex'),
    'counts', encode(sha256(convert_to(p_run.counts::text, 'UTF8')), 'hex'))
$$;

CREATE FUNCTION migration.audited(p_batch migration.batches) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT jsonb_build_object('entity', p_batch.entity, 'phase', p_batch.phase, 'batch', p_batch.batch,
    'status', p_batch.status, 'attempt', p_batch.attempt, 'extracted', p_batch.extracted,
    'inserted', p_batch.inserted, 'updated', p_batch.updated, 'unchanged', p_batch.unchanged,
    'merged', p_batch.merged, 'rejected', p_batch.rejected, 'skipped', p_batch.skipped,
    'deleted', p_batch.deleted, 'fingerprint', p_batch.fingerprint, 'error_code', p_batch.error_code)
$$;

CREATE FUNCTION migration.audit_run() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    PERFORM migration.audit(OLD.run_id, 'run removed', migration.audited(OLD));
  ELSIF TG_OP = 'INSERT' OR migration.audited(NEW) <> migration.audited(OLD) THEN
    PERFORM migration.audit(NEW.run_id, 'run ' || NEW.status, migration.audited(NEW));
  END IF;
  RETURN NULL;
END $$;

CREATE FUNCTION migration.audit_batch() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    PERFORM migration.audit(OLD.run_id, OLD.phase || ' batch removed', migration.audited(OLD));
  ELSE
    PERFORM migration.audit(NEW.run_id, NEW.phase || ' batch ' || NEW.status, migration.audited(NEW));
  END IF;
  RETURN NULL;
END $$;

CREATE FUNCTION migration.audit_note() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    PERFORM migration.audit(OLD.run_id, 'note removed', jsonb_build_object('code', OLD.code));
  ELSE
    PERFORM migration.audit(NEW.run_id, 'note ' || NEW.code, NEW.facts);
  END IF;
  RETURN NULL;
END $$;

CREATE FUNCTION migration.audit_file() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    PERFORM migration.audit(NULL, 'schema file removed', jsonb_build_object('file', OLD.name, 'hash', OLD.hash));
  ELSE
    PERFORM migration.audit(NULL, CASE TG_OP WHEN 'INSERT' THEN 'schema file deployed' ELSE 'schema file recorded' END,
      jsonb_build_object('file', NEW.name, 'hash', NEW.hash));
  END IF;
  RETURN NULL;
END $$;

CREATE FUNCTION migration.audit_entity() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    PERFORM migration.audit(NULL, 'entity removed', jsonb_build_object('entity', OLD.entity));
  ELSIF TG_OP = 'INSERT' OR NEW <> OLD THEN
    PERFORM migration.audit(NULL, 'entity registered', jsonb_build_object('entity', NEW.entity,
      'hash', encode(sha256(convert_to(to_jsonb(NEW)::text, 'UTF8')), 'hex')));
  END IF;
  RETURN NULL;
END $$;

-- What comes in numbers is audited by statement: how many rows of which kind.
CREATE FUNCTION migration.audit_quarantine() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    INSERT INTO migration.audit_log (run_id, event, details)
    SELECT n.run_id, 'quarantine opened', jsonb_build_object('entity', n.entity, 'code', n.code, 'rows', count(*))
    FROM new_rows n GROUP BY n.run_id, n.entity, n.code;
  ELSIF TG_OP = 'UPDATE' THEN
    INSERT INTO migration.audit_log (run_id, event, details)
    SELECT CASE n.status WHEN 'open' THEN n.run_id ELSE n.resolved_run_id END,
      'quarantine ' || CASE n.status WHEN 'open' THEN 'changed' ELSE n.status END,
      jsonb_build_object('entity', n.entity, 'code', n.code, 'before', o.code, 'rows', count(*))
    FROM new_rows n JOIN old_rows o USING (id)
    WHERE (n.entity, n.legacy_id, n.code, n.status) IS DISTINCT FROM (o.entity, o.legacy_id, o.code, o.status)
    GROUP BY 1, 2, n.entity, n.code, o.code;
  ELSE
    INSERT INTO migration.audit_log (run_id, event, details)
    SELECT o.run_id, 'quarantine removed', jsonb_build_object('entity', o.entity, 'code', o.code, 'status', o.status,
      'rows', count(*))
    FROM old_rows o GROUP BY o.run_id, o.entity, o.code, o.status;
  END IF;
  RETURN NULL;
END $$;

CREATE FUNCTION migration.audit_embedding_quarantine() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    INSERT INTO migration.audit_log (run_id, event, details)
    SELECT n.run_id, 'embedding quarantine opened', jsonb_build_object('entity', n.entity, 'code', n.code,
      'rows', count(*))
    FROM new_rows n GROUP BY n.run_id, n.entity, n.code;
  ELSIF TG_OP = 'UPDATE' THEN
    INSERT INTO migration.audit_log (run_id, event, details)
    SELECT coalesce(n.resolved_run_id, n.run_id),
      'embedding quarantine ' || CASE WHEN n.resolved_run_id IS NULL THEN 'changed' ELSE 'resolved' END,
      jsonb_build_object('entity', n.entity, 'code', n.code, 'rows', count(*))
    FROM new_rows n JOIN old_rows o USING (id)
    WHERE (n.entity, n.legacy_id, n.code, n.hash, n.resolved_run_id)
      IS DISTINCT FROM (o.entity, o.legacy_id, o.code, o.hash, o.resolved_run_id)
    GROUP BY 1, 2, n.entity, n.code;
  ELSE
    INSERT INTO migration.audit_log (run_id, event, details)
    SELECT o.run_id, 'embedding quarantine removed', jsonb_build_object('entity', o.entity, 'code', o.code,
      'rows', count(*))
    FROM old_rows o GROUP BY o.run_id, o.entity, o.code;
  END IF;
  RETURN NULL;
END $$;

-- A merge does not say which run undoes it: that is the one that holds the lock, if any does.
CREATE FUNCTION migration.audit_merges() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    INSERT INTO migration.audit_log (run_id, event, details)
    SELECT n.run_id, 'merges made', jsonb_build_object('entity', n.entity, 'rows', count(*))
    FROM new_rows n GROUP BY n.run_id, n.entity;
  ELSIF TG_OP = 'UPDATE' THEN
    INSERT INTO migration.audit_log (run_id, event, details)
    SELECT (SELECT l.run_id FROM migration.run_lock l),
      'merges ' || CASE WHEN n.undone_at IS NOT NULL AND o.undone_at IS NULL THEN 'undone' ELSE 'changed' END,
      jsonb_build_object('entity', n.entity, 'made_by', n.run_id, 'rows', count(*))
    FROM new_rows n JOIN old_rows o USING (id)
    WHERE (n.entity, n.run_id, n.survivor_id, n.merged_id, n.undone_at)
      IS DISTINCT FROM (o.entity, o.run_id, o.survivor_id, o.merged_id, o.undone_at)
    GROUP BY 2, n.entity, n.run_id;
  ELSE
    INSERT INTO migration.audit_log (run_id, event, details)
    SELECT (SELECT l.run_id FROM migration.run_lock l), 'merges removed',
      jsonb_build_object('entity', o.entity, 'made_by', o.run_id, 'rows', count(*))
    FROM old_rows o GROUP BY o.entity, o.run_id;
  END IF;
  RETURN NULL;
END $$;

CREATE FUNCTION migration.audit_checks() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    INSERT INTO migration.audit_log (run_id, event, details)
    SELECT o.run_id, 'checks removed', jsonb_build_object('level', o.level, 'checks', count(*))
    FROM old_rows o GROUP BY o.run_id, o.level;
  ELSE
    INSERT INTO migration.audit_log (run_id, event, details)
    SELECT n.run_id, 'checks ' || CASE TG_OP WHEN 'INSERT' THEN 'made' ELSE 'repeated' END,
      jsonb_build_object('level', n.level, 'checks', count(*),
        'failed', count(*) FILTER (WHERE NOT n.passed AND n.severity = 'fail'),
        'warned', count(*) FILTER (WHERE NOT n.passed AND n.severity = 'warn'))
    FROM new_rows n GROUP BY n.run_id, n.level;
  END IF;
  RETURN NULL;
END $$;

CREATE FUNCTION migration.audit_truncate() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  PERFORM migration.audit(NULL, TG_TABLE_NAME || ' emptied');
  RETURN NULL;
END $$;

-- ALWAYS: a session that calls itself a replica does not get around them.
DO $$
DECLARE
  item record;
BEGIN
  FOR item IN SELECT * FROM (VALUES ('audit_log'), ('audit_seals')) AS t (name) LOOP
    EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON migration.%1$I
      FOR EACH ROW EXECUTE FUNCTION migration.refuse_change();
      CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON migration.%1$I
      FOR EACH STATEMENT EXECUTE FUNCTION migration.refuse_change();
      ALTER TABLE migration.%1$I ENABLE ALWAYS TRIGGER append_only, ENABLE ALWAYS TRIGGER append_only_truncate',
      item.name);
  END LOOP;
  FOR item IN SELECT * FROM (VALUES ('runs', 'audit_run'), ('batches', 'audit_batch'), ('run_notes', 'audit_note'),
      ('schema_versions', 'audit_file'), ('entities', 'audit_entity')) AS t (name, function) LOOP
    EXECUTE format('CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON migration.%1$I
      FOR EACH ROW EXECUTE FUNCTION migration.%2$I();
      ALTER TABLE migration.%1$I ENABLE ALWAYS TRIGGER audit', item.name, item.function);
  END LOOP;
  FOR item IN SELECT * FROM (VALUES ('quarantine', 'audit_quarantine'), ('merges', 'audit_merges'),
      ('embedding_quarantine', 'audit_embedding_quarantine'), ('checks', 'audit_checks')) AS t (name, function) LOOP
    EXECUTE format('CREATE TRIGGER audit_insert AFTER INSERT ON migration.%1$I REFERENCING NEW TABLE AS new_rows
      FOR EACH STATEMENT EXECUTE FUNCTION migration.%2$I();
      CREATE TRIGGER audit_update AFTER UPDATE ON migration.%1$I REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
      FOR EACH STATEMENT EXECUTE FUNCTION migration.%2$I();
      CREATE TRIGGER audit_delete AFTER DELETE ON migration.%1$I REFERENCING OLD TABLE AS old_rows
      FOR EACH STATEMENT EXECUTE FUNCTION migration.%2$I();
      ALTER TABLE migration.%1$I ENABLE ALWAYS TRIGGER audit_insert, ENABLE ALWAYS TRIGGER audit_update,
        ENABLE ALWAYS TRIGGER audit_delete', item.name, item.function);
  END LOOP;
  FOR item IN SELECT unnest(ARRAY['runs', 'batches', 'run_notes', 'schema_versions', 'entities', 'quarantine', 'merges',
      'embedding_quarantine', 'checks', 'duplicate_pairs']) AS name LOOP
    EXECUTE format('CREATE TRIGGER audit_truncate AFTER TRUNCATE ON migration.%1$I
      FOR EACH STATEMENT EXECUTE FUNCTION migration.audit_truncate();
      ALTER TABLE migration.%1$I ENABLE ALWAYS TRIGGER audit_truncate', item.name);
  END LOOP;
END $$;

-- The files before this one.
SELECT migration.audit(NULL, 'schema file deployed', jsonb_build_object('file', v.name, 'hash', v.hash))
FROM migration.schema_versions v ORDER BY v.name;

-- What a seal is made of, beside the hash before it. The time in microseconds: as text it would depend on the session.
CREATE FUNCTION migration.sealed_text(p_entry migration.audit_log) RETURNS text
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT jsonb_build_array(p_entry.id, extract(epoch FROM p_entry.at), p_entry.actor, p_entry.run_id, p_entry.event,
    p_entry.details)::text
$$;

CREATE FUNCTION migration.seal(p_before text, p_text text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = '' AS $$
  SELECT encode(sha256(convert_to(coalesce(p_before, '') || ' ' || p_text, 'UTF8')), 'hex')
$$;

-- Seals what was committed and is not sealed yet. Returns {entries, sealed, head}: head is the last seal's hash, which
-- stands for everything before it and is worth keeping elsewhere.
CREATE FUNCTION migration_api.seal_audit() RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET statement_timeout = '10min' SET lock_timeout = '10min' AS $$
DECLARE
  last_number bigint;
  head text;
  entry migration.audit_log;
BEGIN
  PERFORM pg_advisory_xact_lock(4021977002);  -- the chain has one end; any number, as long as it is this one's alone
  SELECT s.number, s.hash INTO last_number, head FROM migration.audit_seals s ORDER BY s.number DESC LIMIT 1;
  last_number := coalesce(last_number, 0);
  FOR entry IN SELECT a.* FROM migration.audit_log a
      WHERE NOT EXISTS (SELECT FROM migration.audit_seals s WHERE s.audit_id = a.id) ORDER BY a.id LOOP
    last_number := last_number + 1;
    head := migration.seal(head, migration.sealed_text(entry));
    INSERT INTO migration.audit_seals (number, audit_id, hash) VALUES (last_number, entry.id, head);
  END LOOP;
  RETURN (SELECT jsonb_build_object('entries', (SELECT count(*) FROM migration.audit_log), 'sealed', count(*),
    'head', head) FROM migration.audit_seals);
END $$;

-- Computes the chain anew. Returns {entries, sealed, unsealed, broken, head}; broken are {seal, entry, why}, at most a
-- hundred. p_head: of an earlier report or log; who rewrites the end of the chain, or all of it, cannot have kept it.
CREATE FUNCTION migration_api.verify_audit(p_head text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' SET statement_timeout = '10min' AS $$
  WITH chain AS MATERIALIZED (
    SELECT s.number, s.audit_id, s.hash, a.id IS NULL AS removed, lag(s.number, 1, 0::bigint) OVER w AS number_before,
      migration.seal(lag(s.hash) OVER w, migration.sealed_text(a)) AS expected
    FROM migration.audit_seals s LEFT JOIN migration.audit_log a ON a.id = s.audit_id
    WINDOW w AS (ORDER BY s.number)
  ), broken (seal, entry, why) AS (
    SELECT c.number, c.audit_id, 'the entry was removed' FROM chain c WHERE c.removed
    UNION ALL SELECT c.number, c.audit_id, 'the entry or its seal was edited' FROM chain c
      WHERE NOT c.removed AND c.hash <> c.expected AND c.number = c.number_before + 1
    UNION ALL SELECT c.number, c.audit_id, 'the seals before this one were removed' FROM chain c
      WHERE c.number <> c.number_before + 1
    UNION ALL SELECT NULL, NULL, 'the given head is in no seal: what it stood for was removed or rewritten'
      WHERE p_head IS NOT NULL AND NOT EXISTS (SELECT FROM chain c WHERE c.hash = p_head)
  )
  SELECT jsonb_build_object('entries', (SELECT count(*) FROM migration.audit_log),
    'sealed', (SELECT count(*) FROM chain),
    'unsealed', (SELECT count(*) FROM migration.audit_log a
      WHERE NOT EXISTS (SELECT FROM migration.audit_seals s WHERE s.audit_id = a.id)),
    'broken', (SELECT coalesce(jsonb_agg(to_jsonb(b) ORDER BY b.seal), '[]')
      FROM (SELECT * FROM broken ORDER BY seal LIMIT 100) b),
    'head', (SELECT c.hash FROM chain c ORDER BY c.number DESC LIMIT 1))
$$;

-- Level 4: the ledger and the runs against their audit. Each attempt of a batch is written once, with its own number,
-- so a count edited later leaves a second entry for the same attempt; edited past the trigger, the row is not what its
-- last entry says. p_run NULL: all runs.
CREATE FUNCTION migration_api.check_ledger(p_run text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' SET statement_timeout = '10min' AS $$
  SELECT jsonb_build_array(
    migration.check_none('ledger_as_audited', format($q$
      WITH entries AS (
        SELECT a.run_id, a.details ->> 'phase' AS phase, a.details ->> 'entity' AS entity,
          a.details ->> 'batch' AS batch,
          array_agg((a.details ->> 'attempt')::integer ORDER BY a.id) AS attempts,
          (array_agg(a.details ORDER BY a.id DESC))[1] AS said, (array_agg(a.event ORDER BY a.id DESC))[1] AS event
        FROM migration.audit_log a
        WHERE a.details ?& ARRAY['phase', 'batch', 'attempt'] AND (%1$L IS NULL OR a.run_id = %1$L) GROUP BY 1, 2, 3, 4)
      SELECT concat_ws(' ', run_id, phase, entity, batch)
      FROM entries e FULL JOIN (SELECT b.run_id, b.phase, b.entity, b.batch, migration.audited(b) AS found
        FROM migration.batches b WHERE %1$L IS NULL OR b.run_id = %1$L) b USING (run_id, phase, entity, batch)
      WHERE e.said IS DISTINCT FROM b.found OR e.event LIKE '%% removed'
        OR e.attempts <> ARRAY(SELECT generate_series(e.attempts[1], e.attempts[1] + cardinality(e.attempts) - 1))
    $q$, p_run)),
    migration.check_none('runs_as_audited', format($q$
      WITH entries AS (
        SELECT a.*, a.details ->> 'status' AS status, lag(a.details) OVER w AS before, lead(a.id) OVER w IS NULL AS last
        FROM migration.audit_log a
        WHERE a.event LIKE 'run %%' AND a.details ? 'opened_with' AND (%1$L IS NULL OR a.run_id = %1$L)
        WINDOW w AS (PARTITION BY a.run_id ORDER BY a.id)
      )
      SELECT run_id FROM (SELECT * FROM entries WHERE last) e
        FULL JOIN (SELECT r.run_id, migration.audited(r) AS found FROM migration.runs r
          WHERE %1$L IS NULL OR r.run_id = %1$L) r USING (run_id)
        WHERE e.details IS DISTINCT FROM r.found OR e.event = 'run removed'
      UNION SELECT e.run_id FROM entries e
      -- A run that is over is not opened or judged again, and what it counted changes with its state alone.
      WHERE (e.before ->> 'status', e.status)
          IN (('completed', 'running'), ('completed', 'failed'), ('failed', 'completed'))
        OR e.before ->> 'status' = 'rolled_back' AND e.status <> 'rolled_back'
        OR e.before ->> 'status' = e.status AND (e.before ->> 'opened_with' <> e.details ->> 'opened_with'
          OR e.before ->> 'counts' <> coalesce(e.details ->> 'counts', ''))
    $q$, p_run)))
$$;

SELECT migration.secure();

INSERT INTO migration.schema_versions (name) VALUES ('migration/0016_audit.sql');
