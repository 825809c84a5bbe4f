-- The load of a batch, from rows that came in to its row in the ledger: one transaction, the same for every way in.
-- Rows that the target refuses are found by halving and quarantined alone.

CREATE FUNCTION migration.sum_fates(p_left jsonb, p_right jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = '' AS $$
  SELECT jsonb_object_agg(l.key, l.value::bigint + (p_right ->> l.key)::bigint) FROM jsonb_each_text(p_left) l
$$;

-- Whether a run leaves rows alone that somebody else wrote.
CREATE FUNCTION migration.keeps_foreign_writes(p_run text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT coalesce(r.parameters ->> 'foreign_writes' = 'keep', false) FROM migration.runs r WHERE r.run_id = p_run
$$;

-- Decides and applies the fates of what is staged. Returns them, and as fingerprint the sum of the first 32 bits of the
-- rows' content digests.
CREATE FUNCTION migration.merge_stage(p_run text, p_entity text, p_versions jsonb, p_keep boolean) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  fates jsonb;
  fingerprint bigint;
BEGIN
  SELECT coalesce(sum(('x' || left(s.content_hash::text, 8))::bit(32)::bigint), 0) INTO fingerprint FROM pg_temp.stage s;
  PERFORM migration.classify_stage(p_run, p_entity, p_keep);
  SELECT to_jsonb(a) INTO STRICT fates
  FROM migration.apply_stage(p_run, p_entity, p_versions ->> 'mapping', p_versions ->> 'rules') a;
  RETURN fates || jsonb_build_object('fingerprint', fingerprint);
END $$;

-- Columns of the stage that came in, in its order, and their types.
CREATE FUNCTION migration.incoming_columns() RETURNS TABLE (name name, type text, number smallint)
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnum
  FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_attribute came
    ON came.attrelid = to_regclass('pg_temp.incoming_rows') AND came.attname = a.attname AND came.attnum > 0
  WHERE a.attrelid = to_regclass('pg_temp.stage') AND a.attnum > 0 AND NOT a.attisdropped
  ORDER BY a.attnum
$$;

-- Stages a range of the rows that came in, without those in p_but, with the rejects given, and merges them.
CREATE FUNCTION migration.merge_range(
  p_run text, p_entity text, p_versions jsonb, p_low bigint, p_high bigint, p_but text[], p_rejects jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres'
SET extra_float_digits = 1 SET bytea_output = 'hex' AS $$
DECLARE
  names text;
  values text;
  digested text[];
BEGIN
  PERFORM migration.empty_stage();
  SELECT string_agg(quote_ident(c.name), ', ' ORDER BY c.number),
      string_agg(format('r.%I::%s', c.name, c.type), ', ' ORDER BY c.number)
    INTO names, values FROM migration.incoming_columns() c;
  SELECT array_agg(CASE WHEN c.name IS NULL THEN 'NULL' ELSE format('r.%I', d.name) END ORDER BY d.place)
    INTO digested FROM unnest(migration.digested_columns(p_entity)) WITH ORDINALITY AS d (name, place)
    LEFT JOIN migration.incoming_columns() c ON c.name = d.name;
  -- OFFSET 0: no text is read twice.
  EXECUTE format('INSERT INTO pg_temp.stage (%1$s, content_hash) SELECT %1$s, %2$s FROM (
        SELECT %3$s FROM pg_temp.incoming_rows r
        WHERE r.place BETWEEN $1 AND $2 AND r.legacy_id <> ALL ($3) OFFSET 0) r (%1$s)',
      names, migration.content_digest(digested) || '::uuid', values) USING p_low, p_high, p_but;
  INSERT INTO pg_temp.stage_rejects
  SELECT * FROM jsonb_to_recordset(p_rejects) AS r (legacy_id text, code text, "column" text, payload jsonb);
  INSERT INTO pg_temp.stage_findings SELECT f.legacy_id, f.code, f."column" FROM pg_temp.incoming_findings f
  WHERE f.legacy_id IN (SELECT s.legacy_id FROM pg_temp.stage s);
  RETURN migration.merge_stage(p_run, p_entity, p_versions, migration.keeps_foreign_writes(p_run));
END $$;

-- The column whose text is no value of its type; empty where all are.
CREATE FUNCTION migration.unreadable_column(p_place bigint) RETURNS text
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  target record;
BEGIN
  FOR target IN SELECT c.name, c.type FROM migration.incoming_columns() c LOOP
    BEGIN
      EXECUTE format('SELECT r.%I::%s FROM pg_temp.incoming_rows r WHERE r.place = $1', target.name, target.type)
        USING p_place;
    EXCEPTION WHEN data_exception THEN
      RETURN target.name;
    END;
  END LOOP;
  RETURN '';
END $$;

-- Merges a range whole, or in halves where the target refuses it for a row's sake. Returns fates and the refused rows.
CREATE FUNCTION migration.merge_halves(
  p_run text, p_entity text, p_versions jsonb, p_low bigint, p_high bigint, p_rejects jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  state text;
  culprit text;
  refused jsonb;
  middle bigint;
  l jsonb;
  r jsonb;
BEGIN
  BEGIN
    RETURN jsonb_build_object('refused', '[]'::jsonb,
      'fates', migration.merge_range(p_run, p_entity, p_versions, p_low, p_high, '{}', p_rejects));
  EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, culprit = COLUMN_NAME;
    IF culprit = '' THEN
      GET STACKED DIAGNOSTICS culprit = CONSTRAINT_NAME;
    END IF;
    IF p_low > p_high THEN
      RAISE;  -- no row is to blame
    END IF;
  END;
  IF p_low = p_high THEN
    IF culprit = '' THEN
      culprit := migration.unreadable_column(p_low);
    END IF;
    SELECT jsonb_agg(jsonb_build_object('legacy_id', i.legacy_id, 'code', 'value_refused',
        'column', CASE WHEN culprit = '' THEN 'SQLSTATE ' || state ELSE culprit END, 'payload', to_jsonb(i) - 'place'))
      INTO refused FROM pg_temp.incoming_rows i WHERE i.place = p_low;
    RETURN jsonb_build_object('refused', refused,
      'fates', migration.merge_range(p_run, p_entity, p_versions, 1, 0, '{}', p_rejects || refused));
  END IF;
  middle := (p_low + p_high) / 2;
  l := migration.merge_halves(p_run, p_entity, p_versions, p_low, middle, p_rejects);
  r := migration.merge_halves(p_run, p_entity, p_versions, middle + 1, p_high, '[]');
  RETURN jsonb_build_object('refused', (l -> 'refused') || (r -> 'refused'),
    'fates', migration.sum_fates(l -> 'fates', r -> 'fates'));
END $$;

-- Fates of all rows that came in. Those that the target refuses are found first, then the rest is merged as a whole,
-- so that its rows still find each other.
CREATE FUNCTION migration.merge_incoming(p_run text, p_entity text, p_versions jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  rejects jsonb := coalesce((SELECT jsonb_agg(jsonb_build_object('legacy_id', r.legacy_id, 'code', r.code,
    'column', r."column", 'payload', r.payload::jsonb)) FROM pg_temp.incoming_rejects r), '[]');
  last bigint := coalesce((SELECT max(r.place) FROM pg_temp.incoming_rows r), 0);
  refused jsonb;
BEGIN
  PERFORM migration.open_stage(p_entity);
  BEGIN
    RETURN migration.merge_range(p_run, p_entity, p_versions, 1, last, '{}', rejects);
  EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
    NULL;
  END;
  BEGIN
    refused := migration.merge_halves(p_run, p_entity, p_versions, 1, last, '[]') -> 'refused';
    RAISE EXCEPTION USING ERRCODE = 'MDW00', MESSAGE = 'taken back';
  EXCEPTION WHEN SQLSTATE 'MDW00' THEN
    NULL;
  END;
  BEGIN
    RETURN migration.merge_range(p_run, p_entity, p_versions, 1, last,
      ARRAY(SELECT r.value ->> 'legacy_id' FROM jsonb_array_elements(refused) r), rejects || refused);
  EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
    -- Refused as a whole but not in parts: a row refers to one that is rejected beside it.
    RETURN migration.merge_halves(p_run, p_entity, p_versions, 1, last, rejects) -> 'fates';
  END;
END $$;

-- Merges rows that came in, or without any those that are affected (migration.stage_affected).
CREATE FUNCTION migration.merge_batch(p_run text, p_entity text, p_versions jsonb, p_affected bigint) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  IF p_affected IS NULL THEN
    RETURN migration.merge_incoming(p_run, p_entity, p_versions);
  END IF;
  PERFORM migration.open_stage(p_entity);
  PERFORM migration.stage_affected(p_run, p_entity, p_affected::integer);
  -- What they hold stays as it is, whoever wrote it: only their references are followed.
  RETURN migration.merge_stage(p_run, p_entity, p_versions, false);
END $$;

-- The same, taken back: what is left are the fates, and the ids that children of the rows will find.
CREATE FUNCTION migration.rehearse_batch(p_run text, p_entity text, p_versions jsonb, p_affected bigint) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  fates jsonb;
  names text;
  keys text[];
  ids uuid[];
  gone boolean[];
BEGIN
  BEGIN
    -- Parents of a rehearsed row may have been taken back: the merge checks them against planned ids instead.
    SELECT string_agg(format('public.%I', c.conname), ', ') INTO names FROM pg_catalog.pg_constraint c
    WHERE c.conrelid = format('public.%I', p_entity)::regclass AND c.contype = 'f' AND c.condeferrable;
    IF names IS NOT NULL THEN
      EXECUTE format('SET CONSTRAINTS %s DEFERRED', names);
    END IF;
    fates := migration.merge_batch(p_run, p_entity, p_versions, p_affected);
    IF p_affected IS NULL THEN
      keys := ARRAY(SELECT r.legacy_id FROM pg_temp.incoming_rows r
        UNION ALL SELECT r.legacy_id FROM pg_temp.incoming_rejects r);
    ELSE
      keys := ARRAY(SELECT s.legacy_id FROM pg_temp.stage s);
    END IF;
    SELECT array_agg(m.target_id), array_agg(m.state = 'quarantined') INTO ids, gone FROM migration.id_map m
    WHERE m.entity = p_entity AND m.last_run = p_run AND m.legacy_id = ANY (keys);
    RAISE EXCEPTION USING ERRCODE = 'MDW00', MESSAGE = 'taken back';
  EXCEPTION WHEN SQLSTATE 'MDW00' THEN
    NULL;
  END;
  INSERT INTO migration.planned_ids (run_id, id, deleted) SELECT p_run, * FROM unnest(ids, gone)
  ON CONFLICT (run_id, id) DO UPDATE SET deleted = excluded.deleted;
  RETURN fates;
END $$;

-- Loads incoming rows, rejects and findings of one batch, or takes the affected rows (at most p_affected) anew.
-- p_batch: what the ledger is told beside the fates. Returns fates and seconds.
CREATE FUNCTION migration_api.load_batch(
  p_run text, p_entity text, p_batch jsonb, p_versions jsonb, p_dry_run boolean, p_affected bigint DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET client_min_messages = warning SET statement_timeout = '10min' AS $$
DECLARE
  fates jsonb;
  seconds double precision;
BEGIN
  PERFORM migration.hold_lock(p_run);
  fates := CASE WHEN p_dry_run THEN migration.rehearse_batch(p_run, p_entity, p_versions, p_affected)
    ELSE migration.merge_batch(p_run, p_entity, p_versions, p_affected) END;
  seconds := extract(epoch FROM clock_timestamp() - now());
  IF p_affected IS NULL OR (fates ->> 'extracted')::bigint > 0 THEN
    PERFORM migration.record_batch(p_run, p_batch || fates || jsonb_build_object('entity', p_entity, 'seconds', seconds));
  END IF;
  RETURN (fates - 'fingerprint') || jsonb_build_object('seconds', seconds);
END $$;

-- Rows that are gone from the source (incoming gone_keys) are kept, as deleted: merges undone, vectors removed.
-- Returns how many the target knew until now. Those of a dry run are planned, so that children fare as they would.
CREATE FUNCTION migration_api.mark_deleted(p_run text, p_entity text, p_batch jsonb, p_dry_run boolean) RETURNS bigint
LANGUAGE plpgsql SET search_path = '' SET client_min_messages = warning SET statement_timeout = '10min' AS $$
DECLARE
  vectors jsonb;
  taken bigint;
BEGIN
  PERFORM migration.hold_lock(p_run);
  DROP TABLE IF EXISTS pg_temp.gone;
  CREATE TEMPORARY TABLE gone ON COMMIT DROP AS
  SELECT m.legacy_id, m.target_id FROM migration.id_map m JOIN pg_temp.incoming_gone_keys k USING (legacy_id)
  WHERE m.entity = p_entity AND m.state <> 'deleted';
  SELECT count(*) INTO taken FROM pg_temp.gone;
  IF p_dry_run THEN
    INSERT INTO migration.planned_ids (run_id, id, deleted) SELECT p_run, g.target_id, true FROM pg_temp.gone g
    ON CONFLICT DO NOTHING;
  ELSE
    EXECUTE format('UPDATE public.%I t SET deleted_at = now() FROM pg_temp.gone g
      WHERE t.id = g.target_id AND t.deleted_at IS NULL', p_entity);
    UPDATE migration.id_map m SET state = 'deleted', survivor_id = NULL, content_hash = NULL, source_version = NULL,
      written_at = now(), last_run = p_run
    FROM pg_temp.gone g WHERE m.entity = p_entity AND m.legacy_id = g.legacy_id;
    UPDATE migration.merges m SET undone_at = now() FROM pg_temp.gone g
    WHERE m.merged_id = g.target_id AND m.undone_at IS NULL;
    -- A row that was rejected and is gone now needs no repair.
    UPDATE migration.quarantine q SET status = 'waived', resolved_run_id = p_run FROM pg_temp.incoming_gone_keys k
    WHERE q.entity = p_entity AND q.status = 'open' AND k.legacy_id = q.legacy_id;
    DELETE FROM migration.findings f USING pg_temp.gone g WHERE f.entity = p_entity AND f.legacy_id = g.legacy_id;
    DELETE FROM migration.redirects f USING pg_temp.gone g WHERE f.entity = p_entity AND f.legacy_id = g.legacy_id;
    SELECT e.vectors INTO vectors FROM migration.entities e WHERE e.entity = p_entity;
    IF vectors IS NOT NULL THEN
      EXECUTE format('DELETE FROM public.%I v USING pg_temp.gone g WHERE v.%I = g.target_id',
        vectors ->> 'table', vectors ->> 'owner');
    END IF;
  END IF;
  PERFORM migration.record_batch(p_run, p_batch || jsonb_build_object('entity', p_entity, 'deleted', taken,
    'seconds', extract(epoch FROM clock_timestamp() - now())));
  RETURN taken;
END $$;

SELECT migration.secure();

INSERT INTO migration.schema_versions (name) VALUES ('migration/0006_loading.sql');
