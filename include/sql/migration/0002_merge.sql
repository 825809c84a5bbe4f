-- The server-side merge of one batch, the same for every way in:
--   open_stage → rows into pg_temp.stage (COPY or JSON) → classify_stage → apply_stage
-- all in one transaction, so business rows, id_map, quarantine and ledger commit together or not at all.

CREATE FUNCTION migration.open_stage(p_entity text) RETURNS void
LANGUAGE plpgsql SET search_path = '' SET client_min_messages = warning AS $$
BEGIN
  DROP TABLE IF EXISTS pg_temp.stage, pg_temp.stage_rejects, pg_temp.stage_findings, pg_temp.fates;
  -- AS SELECT carries types but no constraints: those speak when the row reaches its table.
  EXECUTE format(
    'CREATE TEMPORARY TABLE stage ON COMMIT DROP AS
     SELECT NULL::text AS legacy_id, t.*, NULL::bytea AS content_hash FROM public.%I t WITH NO DATA', p_entity);
  CREATE TEMPORARY TABLE stage_rejects (legacy_id text, code text, "column" text, payload jsonb) ON COMMIT DROP;
  CREATE TEMPORARY TABLE stage_findings (legacy_id text, code text, "column" text) ON COMMIT DROP;
END $$;

-- SQL that is true when the row referred to by stage column r_column is there, or will be by the plan of a dry run.
CREATE FUNCTION migration.reference_exists(p_entity text, p_run text, r_column text, r_entity text) RETURNS text
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT format('(' || CASE
      WHEN EXISTS (SELECT 1 FROM migration.planned_ids d WHERE d.run_id = p_run) THEN
        'coalesce((SELECT NOT d.deleted FROM migration.planned_ids d WHERE d.run_id = %3$L AND d.id = s.%1$I),
          EXISTS (SELECT 1 FROM public.%2$I p WHERE p.id = s.%1$I AND p.deleted_at IS NULL))'
      ELSE 'EXISTS (SELECT 1 FROM public.%2$I p WHERE p.id = s.%1$I AND p.deleted_at IS NULL)'
    END || CASE WHEN r_entity = p_entity THEN ' OR EXISTS (SELECT 1 FROM pg_temp.stage o WHERE o.id = s.%1$I)' ELSE '' END
    || ')', r_column, r_entity, p_run)
$$;

-- Decides the fate of every staged row; writes nothing outside pg_temp.
CREATE FUNCTION migration.classify_stage(p_run text, p_entity text) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  spec migration.entities;
  ref record;
  bad_column text := 'NULL::text';
  may_merge boolean;
BEGIN
  SELECT * INTO STRICT spec FROM migration.entities e WHERE e.entity = p_entity;
  ANALYZE pg_temp.stage;
  FOR ref IN
    SELECT r.name, r.entity, r.required, a.attnotnull
    FROM jsonb_to_recordset(spec.refs) AS r (name text, entity text, required boolean)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = format('public.%I', p_entity)::regclass AND a.attname = r.name
  LOOP
    IF ref.required THEN
      bad_column := format('CASE WHEN %s OR (s.%I IS NOT NULL AND NOT %s) THEN %L ELSE %s END',
        CASE WHEN ref.attnotnull THEN format('s.%I IS NULL', ref.name) ELSE 'false' END,
        ref.name, migration.reference_exists(p_entity, p_run, ref.name, ref.entity), ref.name, bad_column);
    ELSE
      -- The hash tells a cleared reference from a kept one, so the row is seen as changed once the parent arrives.
      EXECUTE format(
        'WITH cleared AS (
           UPDATE pg_temp.stage s SET %1$I = NULL, content_hash = sha256(s.content_hash || %2$L::bytea)
           WHERE s.%1$I IS NOT NULL AND NOT %3$s RETURNING s.legacy_id)
         INSERT INTO pg_temp.stage_findings SELECT legacy_id, ''reference_missing'', %2$L FROM cleared',
        ref.name, ref.name, migration.reference_exists(p_entity, p_run, ref.name, ref.entity));
    END IF;
  END LOOP;

  may_merge := 'merged_into' = ANY (spec.columns);
  EXECUTE format(
    'CREATE TEMPORARY TABLE fates ON COMMIT DROP AS
     SELECT s.legacy_id, s.id, s.bad_column,
       CASE
         WHEN s.bad_column IS NOT NULL THEN ''rejected''
         WHEN b.id IS NOT NULL AND b.deleted_at IS NULL AND m.content_hash = s.content_hash
           AND m.state IN (''live'', ''merged'') THEN ''unchanged''
         WHEN %1$s THEN ''merged''
         WHEN b.id IS NULL THEN ''inserted''
         ELSE ''updated''
       END AS fate
     FROM (SELECT s.*, %2$s AS bad_column FROM pg_temp.stage s) s
     LEFT JOIN public.%3$I b ON b.id = s.id
     LEFT JOIN migration.id_map m ON m.entity = %4$L AND m.legacy_id = s.legacy_id',
    CASE WHEN may_merge THEN 's.merged_into IS NOT NULL' ELSE 'false' END, bad_column, p_entity, p_entity);
  ANALYZE pg_temp.fates;
END $$;

-- Applies the fates: business rows, id_map, merges, quarantine, findings.
CREATE FUNCTION migration.apply_stage(p_run text, p_entity text, p_mapping_version text)
RETURNS TABLE (extracted bigint, inserted bigint, updated bigint, unchanged bigint, merged bigint, rejected bigint)
LANGUAGE plpgsql SET search_path = '' AS $$
#variable_conflict use_column
DECLARE
  spec migration.entities;
  names text;
  assignments text;
  survivor text;
BEGIN
  SELECT * INTO STRICT spec FROM migration.entities e WHERE e.entity = p_entity;
  SELECT string_agg(quote_ident(c), ', '), string_agg(format('%1$I = excluded.%1$I', c), ', ')
    INTO names, assignments FROM unnest(spec.columns) AS c;
  survivor := CASE WHEN 'merged_into' = ANY (spec.columns) THEN 's.merged_into' ELSE 'NULL::uuid' END;

  EXECUTE format(
    'UPDATE migration.merges g SET undone_at = now() FROM pg_temp.fates f JOIN pg_temp.stage s USING (legacy_id)
     WHERE g.merged_id = f.id AND g.undone_at IS NULL AND f.fate IN (''updated'', ''merged'')
       AND g.survivor_id IS DISTINCT FROM %s', survivor);
  EXECUTE format(
    'INSERT INTO migration.merges (run_id, entity, survivor_id, merged_id, before_image)
     SELECT %1$L, %2$L, %3$s, f.id, to_jsonb(b)
     FROM pg_temp.fates f JOIN pg_temp.stage s USING (legacy_id) LEFT JOIN public.%2$I b ON b.id = f.id
     WHERE f.fate = ''merged'' ON CONFLICT (merged_id) WHERE undone_at IS NULL DO NOTHING',
    p_run, p_entity, survivor);
  EXECUTE format(
    'INSERT INTO public.%1$I (id, %2$s) SELECT f.id, %3$s
     FROM pg_temp.fates f JOIN pg_temp.stage s USING (legacy_id) WHERE f.fate IN (''inserted'', ''updated'', ''merged'')
     ON CONFLICT (id) DO UPDATE SET %4$s, deleted_at = NULL',
    p_entity, names, (SELECT string_agg(format('s.%I', c), ', ') FROM unnest(spec.columns) AS c), assignments);
  EXECUTE format(
    'INSERT INTO migration.id_map AS m
       (entity, legacy_id, target_id, survivor_id, content_hash, mapping_version, state, first_run, last_run)
     SELECT %1$L, f.legacy_id, f.id, %2$s, s.content_hash, %3$L,
       CASE WHEN %2$s IS NULL THEN ''live'' ELSE ''merged'' END, %4$L, %4$L
     FROM pg_temp.fates f JOIN pg_temp.stage s USING (legacy_id) WHERE f.fate IN (''inserted'', ''updated'', ''merged'')
     ON CONFLICT (entity, legacy_id) DO UPDATE SET survivor_id = excluded.survivor_id,
       content_hash = excluded.content_hash, mapping_version = excluded.mapping_version, state = excluded.state,
       last_run = excluded.last_run',
    p_entity, survivor, p_mapping_version, p_run);

  PERFORM migration.quarantine_stage(p_run, p_entity);

  DELETE FROM migration.findings g USING pg_temp.stage s
  WHERE g.entity = p_entity AND g.legacy_id = s.legacy_id AND NOT EXISTS (
    SELECT 1 FROM pg_temp.stage_findings n
    WHERE n.legacy_id = g.legacy_id AND n.code = g.code AND n."column" = g."column");
  INSERT INTO migration.findings (entity, legacy_id, code, "column", run_id)
  SELECT DISTINCT p_entity, n.legacy_id, n.code, n."column", p_run
  FROM pg_temp.stage_findings n JOIN pg_temp.fates f USING (legacy_id) WHERE f.fate <> 'rejected'
  ON CONFLICT DO NOTHING;

  RETURN QUERY
  SELECT count(*), count(*) FILTER (WHERE fate = 'inserted'), count(*) FILTER (WHERE fate = 'updated'),
    count(*) FILTER (WHERE fate = 'unchanged'), count(*) FILTER (WHERE fate = 'merged'),
    count(*) FILTER (WHERE fate = 'rejected')
  FROM (SELECT f.fate FROM pg_temp.fates f UNION ALL SELECT 'rejected' FROM pg_temp.stage_rejects) every_row (fate);
END $$;

-- Rejected rows into quarantine, each once while open; rows that made it close their entry.
CREATE FUNCTION migration.quarantine_stage(p_run text, p_entity text) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  INSERT INTO migration.quarantine AS q (entity, legacy_id, code, "column", reason, how_to_fix, payload, run_id)
  SELECT p_entity, r.legacy_id, r.code, r."column", k.reason, k.how_to_fix, r.payload, p_run
  FROM (
    -- Of a repeated key several rows may be rejected; one entry stands for them.
    SELECT DISTINCT ON (legacy_id) legacy_id, code, "column", payload FROM (
      SELECT s.legacy_id, 'parent_missing' AS code, f.bad_column AS "column", to_jsonb(s) - 'content_hash' AS payload
      FROM pg_temp.fates f JOIN pg_temp.stage s USING (legacy_id) WHERE f.fate = 'rejected'
      UNION ALL
      SELECT legacy_id, code, "column", payload FROM pg_temp.stage_rejects
    ) every_reject ORDER BY legacy_id, code DESC
  ) r
  JOIN migration.finding_kinds k USING (code)
  ON CONFLICT (entity, legacy_id) WHERE status = 'open' DO UPDATE
    SET code = excluded.code, "column" = excluded."column", reason = excluded.reason,
        how_to_fix = excluded.how_to_fix, payload = excluded.payload, run_id = excluded.run_id
    WHERE (q.code, q."column", q.payload) IS DISTINCT FROM (excluded.code, excluded."column", excluded.payload);

  INSERT INTO migration.id_map AS m (entity, legacy_id, target_id, state, first_run, last_run)
  SELECT p_entity, f.legacy_id, f.id, 'quarantined', p_run, p_run
  FROM pg_temp.fates f WHERE f.fate = 'rejected'
  ON CONFLICT (entity, legacy_id) DO UPDATE
    SET state = 'quarantined', survivor_id = NULL, content_hash = NULL, last_run = excluded.last_run
    WHERE m.state <> 'quarantined';
  -- Of a repeated key one row may have made it: that one decides.
  UPDATE migration.id_map m SET state = 'quarantined', survivor_id = NULL, content_hash = NULL, last_run = p_run
  FROM pg_temp.stage_rejects r
  WHERE m.entity = p_entity AND m.legacy_id = r.legacy_id AND m.state <> 'quarantined'
    AND NOT EXISTS (SELECT 1 FROM pg_temp.fates f WHERE f.legacy_id = r.legacy_id);

  -- What was loaded before and is refused now is no row of the target: it would not be there after a fresh load.
  EXECUTE format(
    'UPDATE public.%1$I t SET deleted_at = now() FROM migration.id_map m
     WHERE m.entity = %2$L AND m.target_id = t.id AND m.state = ''quarantined'' AND t.deleted_at IS NULL
       AND m.legacy_id IN (SELECT f.legacy_id FROM pg_temp.fates f WHERE f.fate = ''rejected''
         UNION ALL SELECT r.legacy_id FROM pg_temp.stage_rejects r)', p_entity, p_entity);

  UPDATE migration.quarantine q SET status = 're-driven', resolved_run_id = p_run
  FROM pg_temp.fates f
  WHERE q.entity = p_entity AND q.legacy_id = f.legacy_id AND q.status = 'open' AND f.fate <> 'rejected'
    AND NOT EXISTS (SELECT 1 FROM pg_temp.stage_rejects r WHERE r.legacy_id = f.legacy_id);
END $$;

REVOKE ALL ON FUNCTION migration.open_stage, migration.reference_exists, migration.classify_stage,
  migration.apply_stage, migration.quarantine_stage FROM PUBLIC;

INSERT INTO migration.schema_versions (name) VALUES ('migration/0002_merge.sql');
