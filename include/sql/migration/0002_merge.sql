-- The server-side merge of one batch, the same for every way in:
--   open_stage → rows into pg_temp.stage (COPY or JSON, or stage_affected) → classify_stage → apply_stage
-- all in one transaction, so business rows, id_map, quarantine and ledger commit together or not at all.
-- Staged references are those of the source; classify_stage leads them to survivors and clears what is not there.
--
-- What a batch costs depends on its rows alone: each looks up by key what it needs (LATERAL or EXISTS with OFFSET 0, which
-- the planner takes for an order), whatever the statistics of a table say that other tasks fill at the same time.

-- Made once for a batch and emptied for each part of it: a transaction holds the locks of all tables it has made, and
-- where many rows are refused one by one the server would run out of them.
CREATE FUNCTION migration.open_stage(p_entity text) RETURNS void
LANGUAGE plpgsql SET search_path = '' SET client_min_messages = warning AS $$
BEGIN
  DROP TABLE IF EXISTS pg_temp.stage, pg_temp.stage_rejects, pg_temp.stage_findings, pg_temp.stage_redirects,
    pg_temp.fates, pg_temp.refused;
  -- AS SELECT carries types but no constraints: those speak when the row reaches its table.
  EXECUTE format(
    'CREATE TEMPORARY TABLE stage ON COMMIT DROP AS
     SELECT NULL::text AS legacy_id, t.*, NULL::uuid AS content_hash, NULL::uuid AS source_version
     FROM public.%I t WITH NO DATA', p_entity);
  CREATE TEMPORARY TABLE stage_rejects (legacy_id text, code text, "column" text, payload jsonb) ON COMMIT DROP;
  CREATE TEMPORARY TABLE stage_findings (legacy_id text, code text, "column" text) ON COMMIT DROP;
  CREATE TEMPORARY TABLE stage_redirects (legacy_id text, "column" text, original_id uuid, stored_id uuid)
    ON COMMIT DROP;
  CREATE TEMPORARY TABLE fates ON COMMIT DROP AS
  SELECT NULL::text AS legacy_id, NULL::uuid AS id, NULL::text AS bad_column, false AS known, m.source_version,
    m.mapping_version, m.rules_version, NULL::text AS fate
  FROM migration.id_map m WITH NO DATA;
  CREATE TEMPORARY TABLE refused (legacy_id text, target_id uuid) ON COMMIT DROP;
END $$;

CREATE FUNCTION migration.empty_stage() RETURNS void
LANGUAGE sql SET search_path = '' AS $$
  TRUNCATE pg_temp.stage, pg_temp.stage_rejects, pg_temp.stage_findings, pg_temp.stage_redirects, pg_temp.fates,
    pg_temp.refused
$$;

-- Merged rows and their survivors: as deduplication decided in this run, else as they are.
CREATE FUNCTION migration.survivors_of(p_run text, p_entity text) RETURNS TABLE (id uuid, survivor_id uuid)
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT s.id, s.survivor_id FROM migration.survivors s WHERE s.run_id = p_run AND s.entity = p_entity
  UNION ALL
  SELECT m.target_id, m.survivor_id FROM migration.id_map m WHERE m.entity = p_entity AND m.state = 'merged'
    AND NOT EXISTS (SELECT 1 FROM migration.batches b
      WHERE b.run_id = p_run AND b.entity = p_entity AND b.phase = 'deduplication' AND b.status = 'done')
$$;

CREATE FUNCTION migration.may_merge(p_entity text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT 'merged_into' = ANY (e.columns) FROM migration.entities e WHERE e.entity = p_entity
$$;

-- SQL that is true when the row of r_entity with the id that r_id (an SQL expression) gives is there, or will be
-- by the plan of a dry run, or is staged beside it.
CREATE FUNCTION migration.reference_exists(p_entity text, p_run text, r_id text, r_entity text) RETURNS text
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT format('(' || CASE
      WHEN EXISTS (SELECT 1 FROM migration.planned_ids d WHERE d.run_id = p_run) THEN
        'coalesce((SELECT NOT d.deleted FROM migration.planned_ids d WHERE d.run_id = %3$L AND d.id = %1$s),
          EXISTS (SELECT 1 FROM public.%2$I p WHERE p.id = %1$s AND p.deleted_at IS NULL))'
      -- A batch looks its references up; those of a whole table (no p_entity) are joined.
      ELSE 'EXISTS (SELECT 1 FROM public.%2$I p WHERE p.id = %1$s AND p.deleted_at IS NULL'
        || CASE WHEN p_entity = '' THEN ')' ELSE ' OFFSET 0)' END
    END || CASE WHEN r_entity = p_entity THEN ' OR EXISTS (SELECT 1 FROM pg_temp.stage o WHERE o.id = %1$s)' ELSE '' END
    || ')', r_id, r_entity, p_run)
$$;

-- Decides the fate of every staged row; writes nothing outside pg_temp. Skipped: rows that would be written, but hold
-- what somebody else wrote, where p_keep says that this stands; they are staged no more.
CREATE FUNCTION migration.classify_stage(p_run text, p_entity text, p_keep boolean) RETURNS void
LANGUAGE plpgsql SET search_path = '' SET default_statistics_target = 20 AS $$
DECLARE
  spec migration.entities;
  ref record;
  bad_column text := 'NULL::text';
  same_references text := 'true';
  found text;
BEGIN
  SELECT * INTO STRICT spec FROM migration.entities e WHERE e.entity = p_entity;
  ANALYZE pg_temp.stage (legacy_id, id);  -- the number of rows and what joins go by; the rest would cost more than it gives
  IF migration.may_merge(p_entity) THEN
    EXECUTE 'UPDATE pg_temp.stage s SET merged_into = v.survivor_id
      FROM migration.survivors_of($1, $2) v WHERE v.id = s.id' USING p_run, p_entity;
  END IF;
  FOR ref IN
    SELECT r.name, r.entity, r.required, a.attnotnull
    FROM jsonb_to_recordset(spec.refs) AS r (name text, entity text, required boolean)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = format('public.%I', p_entity)::regclass AND a.attname = r.name
  LOOP
    same_references := same_references
      || format(' AND %s IS NOT DISTINCT FROM s.%I', migration.own_value(p_entity, 'b', ref.name), ref.name);
    IF ref.entity <> p_entity AND migration.may_merge(ref.entity) THEN
      EXECUTE format(
        'WITH led AS (
           UPDATE pg_temp.stage s SET %1$I = v.survivor_id FROM migration.survivors_of(%3$L, %4$L) v
           WHERE v.id = s.%1$I RETURNING s.legacy_id, v.id, v.survivor_id)
         INSERT INTO pg_temp.stage_redirects SELECT legacy_id, %2$L, id, survivor_id FROM led',
        ref.name, ref.name, p_run, ref.entity);
    END IF;
    found := migration.reference_exists(p_entity, p_run, format('s.%I', ref.name), ref.entity);
    IF ref.required THEN
      bad_column := format('CASE WHEN %s OR (s.%I IS NOT NULL AND NOT %s) THEN %L ELSE %s END',
        CASE WHEN ref.attnotnull THEN format('s.%I IS NULL', ref.name) ELSE 'false' END,
        ref.name, found, ref.name, bad_column);
    ELSE
      EXECUTE format(
        'WITH missing AS (
           SELECT s.legacy_id, s.%1$I AS id FROM pg_temp.stage s WHERE s.%1$I IS NOT NULL AND NOT %3$s),
         noted AS (INSERT INTO pg_temp.stage_findings SELECT legacy_id, ''reference_missing'', %2$L FROM missing),
         led AS (
           UPDATE pg_temp.stage_redirects r SET stored_id = NULL FROM missing
           WHERE missing.legacy_id = r.legacy_id AND r."column" = %2$L),
         kept AS (
           INSERT INTO pg_temp.stage_redirects SELECT legacy_id, %2$L, id FROM missing WHERE NOT EXISTS (
             SELECT 1 FROM pg_temp.stage_redirects r WHERE r.legacy_id = missing.legacy_id AND r."column" = %2$L))
         UPDATE pg_temp.stage s SET %1$I = NULL FROM missing WHERE missing.legacy_id = s.legacy_id',
        ref.name, ref.name, found);
    END IF;
  END LOOP;

  -- A table that was vacuumed while it was empty is planned to be read whole for each row, and other tasks may be filling it.
  PERFORM set_config('enable_seqscan', 'off', true);
  EXECUTE format(
    'INSERT INTO pg_temp.fates SELECT s.legacy_id, s.id, s.bad_column, m.legacy_id IS NOT NULL AS known,
       m.source_version, m.mapping_version, m.rules_version,
       CASE
         WHEN s.bad_column IS NOT NULL THEN ''rejected''
         WHEN b.id IS NOT NULL AND b.deleted_at IS NULL AND m.content_hash = s.content_hash
           AND m.state IN (''live'', ''merged'') AND %5$s THEN ''unchanged''
         WHEN %1$s THEN ''merged''
         WHEN b.id IS NULL THEN ''inserted''
         ELSE ''updated''
       END AS fate
     FROM (SELECT s.*, %2$s AS bad_column FROM pg_temp.stage s) s
     LEFT JOIN LATERAL (SELECT * FROM public.%3$I t WHERE t.id = s.id OFFSET 0) b ON true
     LEFT JOIN LATERAL (SELECT * FROM migration.id_map i WHERE i.entity = %4$L AND i.legacy_id = s.legacy_id OFFSET 0) m
       ON true',
    CASE WHEN migration.may_merge(p_entity) THEN 's.merged_into IS NOT NULL' ELSE 'false' END,
    bad_column, p_entity, p_entity, same_references);
  PERFORM set_config('enable_seqscan', 'on', true);
  IF p_keep THEN
    EXECUTE format(
      'UPDATE pg_temp.fates f SET fate = ''skipped'' FROM %s
       WHERE m.legacy_id = f.legacy_id AND f.fate IN (''updated'', ''merged'') AND t.deleted_at IS NULL AND NOT %s',
      migration.stored(p_entity), migration.as_written(p_entity));
    DELETE FROM pg_temp.stage s USING pg_temp.fates f WHERE f.legacy_id = s.legacy_id AND f.fate = 'skipped';
    DELETE FROM pg_temp.stage_findings s USING pg_temp.fates f WHERE f.legacy_id = s.legacy_id AND f.fate = 'skipped';
    DELETE FROM pg_temp.stage_redirects s USING pg_temp.fates f WHERE f.legacy_id = s.legacy_id AND f.fate = 'skipped';
  END IF;
  ANALYZE pg_temp.fates (legacy_id, fate);
END $$;

-- Applies the fates: business rows, id_map, merges, quarantine, findings.
CREATE FUNCTION migration.apply_stage(p_run text, p_entity text, p_mapping_version text, p_rules_version text)
RETURNS TABLE (extracted bigint, inserted bigint, updated bigint, unchanged bigint, merged bigint, rejected bigint,
  skipped bigint)
LANGUAGE plpgsql SET search_path = '' AS $$
#variable_conflict use_column
DECLARE
  spec migration.entities;
  names text;
  assignments text;
  survivor text;
  any_known boolean;
  any_merged boolean;
  any_outdated boolean;
BEGIN
  SELECT * INTO STRICT spec FROM migration.entities e WHERE e.entity = p_entity;
  SELECT string_agg(quote_ident(c), ', '), string_agg(format('%1$I = excluded.%1$I', c), ', ')
    INTO names, assignments FROM unnest(spec.columns) AS c;
  survivor := CASE WHEN 'merged_into' = ANY (spec.columns) THEN 's.merged_into' ELSE 'NULL::uuid' END;

  -- Most batches have nothing to do for some of the statements below, which then are not even planned.
  SELECT coalesce(bool_or(f.known), false), coalesce(bool_or(f.fate = 'merged'), false) INTO any_known, any_merged
  FROM pg_temp.fates f;

  -- First, so that a row may take a unique value over from one that is refused now.
  PERFORM migration.quarantine_stage(p_run, p_entity);
  IF any_known AND migration.may_merge(p_entity) THEN
    EXECUTE format(
    'UPDATE migration.merges g SET undone_at = now() FROM pg_temp.fates f JOIN pg_temp.stage s USING (legacy_id)
     WHERE g.merged_id = f.id AND g.undone_at IS NULL AND f.fate IN (''updated'', ''merged'')
       AND g.survivor_id IS DISTINCT FROM %s', survivor);
  END IF;
  IF any_merged THEN
    EXECUTE format(
    'INSERT INTO migration.merges (run_id, entity, survivor_id, merged_id, before_image)
     SELECT %1$L, %2$L, %3$s, f.id, to_jsonb(b) || migration.taken_back(b.metadata)
     FROM pg_temp.fates f JOIN pg_temp.stage s USING (legacy_id) LEFT JOIN public.%2$I b ON b.id = f.id
     WHERE f.fate = ''merged'' ON CONFLICT (merged_id) WHERE undone_at IS NULL DO NOTHING',
    p_run, p_entity, survivor);
  END IF;
  EXECUTE format(
    'INSERT INTO public.%1$I (id, %2$s) SELECT f.id, %3$s
     FROM pg_temp.fates f JOIN pg_temp.stage s USING (legacy_id) WHERE f.fate IN (''inserted'', ''updated'', ''merged'')
     ON CONFLICT (id) DO UPDATE SET %4$s, deleted_at = NULL',
    p_entity, names, (SELECT string_agg(format('s.%I', c), ', ') FROM unnest(spec.columns) AS c), assignments);
  EXECUTE format(
    'INSERT INTO migration.id_map AS m (entity, legacy_id, target_id, survivor_id, content_hash, source_version,
       mapping_version, rules_version, state, first_run, last_run)
     SELECT %1$L, f.legacy_id, f.id, %2$s, s.content_hash, s.source_version, %3$L, %4$L,
       CASE WHEN %2$s IS NULL THEN ''live'' ELSE ''merged'' END, %5$L, %5$L
     FROM pg_temp.fates f JOIN pg_temp.stage s USING (legacy_id) WHERE f.fate IN (''inserted'', ''updated'', ''merged'')
     ON CONFLICT (entity, legacy_id) DO UPDATE SET target_id = excluded.target_id,
       survivor_id = excluded.survivor_id,
       content_hash = excluded.content_hash, source_version = excluded.source_version,
       mapping_version = excluded.mapping_version, rules_version = excluded.rules_version, state = excluded.state,
       last_run = excluded.last_run, written_at = now()',
    p_entity, survivor, p_mapping_version, p_rules_version, p_run);
  IF spec.vectors IS NOT NULL AND any_merged THEN
    EXECUTE format('DELETE FROM public.%I v USING pg_temp.fates f WHERE v.%I = f.id AND f.fate = ''merged''',
      spec.vectors ->> 'table', spec.vectors ->> 'owner');
  END IF;
  -- The source wrote the row, but nothing that is stored: remembered, so that it is not read again.
  -- An aggregate, for EXISTS would be planned as if the first row looked at were one.
  SELECT coalesce(bool_or((f.source_version, f.mapping_version, f.rules_version)
      IS DISTINCT FROM (s.source_version, p_mapping_version, p_rules_version)), false) INTO any_outdated
  FROM pg_temp.fates f JOIN pg_temp.stage s USING (legacy_id) WHERE f.fate = 'unchanged';
  IF any_outdated THEN
    UPDATE migration.id_map m SET source_version = s.source_version, mapping_version = p_mapping_version,
      rules_version = p_rules_version
    FROM pg_temp.fates f JOIN pg_temp.stage s USING (legacy_id)
    WHERE m.entity = p_entity AND m.legacy_id = f.legacy_id AND f.fate = 'unchanged'
      AND (m.source_version, m.mapping_version, m.rules_version)
        IS DISTINCT FROM (s.source_version, p_mapping_version, p_rules_version);
  END IF;

  IF any_known THEN
    DELETE FROM migration.findings g USING pg_temp.stage s
    WHERE g.entity = p_entity AND g.legacy_id = s.legacy_id AND NOT EXISTS (
      SELECT 1 FROM pg_temp.stage_findings n
      WHERE n.legacy_id = g.legacy_id AND n.code = g.code AND n."column" = g."column");
    DELETE FROM migration.redirects g USING pg_temp.stage s
    WHERE g.entity = p_entity AND g.legacy_id = s.legacy_id AND NOT EXISTS (
      SELECT 1 FROM pg_temp.stage_redirects n
      WHERE n.legacy_id = g.legacy_id AND n."column" = g."column" AND n.original_id = g.original_id);
  END IF;
  INSERT INTO migration.findings (entity, legacy_id, code, "column", run_id)
  SELECT DISTINCT p_entity, n.legacy_id, n.code, n."column", p_run
  FROM pg_temp.stage_findings n JOIN pg_temp.fates f USING (legacy_id) WHERE f.fate <> 'rejected'
  ON CONFLICT DO NOTHING;
  INSERT INTO migration.redirects AS g (entity, legacy_id, "column", original_id, stored_id)
  SELECT p_entity, n.legacy_id, n."column", n.original_id, n.stored_id
  FROM pg_temp.stage_redirects n JOIN pg_temp.fates f USING (legacy_id) WHERE f.fate <> 'rejected'
  ON CONFLICT (entity, legacy_id, "column") DO UPDATE SET stored_id = excluded.stored_id
    WHERE g.stored_id IS DISTINCT FROM excluded.stored_id;
  -- Of a row that was to be merged, but stays as it is, children are not led away.
  DELETE FROM migration.survivors v USING pg_temp.fates f
  WHERE v.run_id = p_run AND v.entity = p_entity AND v.id = f.id AND f.fate = 'skipped';

  RETURN QUERY
  SELECT count(*), count(*) FILTER (WHERE fate = 'inserted'), count(*) FILTER (WHERE fate = 'updated'),
    count(*) FILTER (WHERE fate = 'unchanged'), count(*) FILTER (WHERE fate = 'merged'),
    count(*) FILTER (WHERE fate = 'rejected'), count(*) FILTER (WHERE fate = 'skipped')
  FROM (SELECT f.fate FROM pg_temp.fates f UNION ALL SELECT 'rejected' FROM pg_temp.stage_rejects) every_row (fate);
END $$;

-- Rejected rows into quarantine, each once while open; rows that made it close their entry.
CREATE FUNCTION migration.quarantine_stage(p_run text, p_entity text) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  vectors jsonb;
BEGIN
  -- A row that made it closes its entry.
  UPDATE migration.quarantine q SET status = 're-driven', resolved_run_id = p_run
  WHERE q.id = ANY (ARRAY(
    SELECT o.id FROM pg_temp.fates f CROSS JOIN LATERAL (
      SELECT w.id FROM migration.quarantine w
      WHERE w.entity = p_entity AND w.legacy_id = f.legacy_id AND w.status = 'open' OFFSET 0) o
    WHERE f.fate <> 'rejected' AND NOT EXISTS (SELECT 1 FROM pg_temp.stage_rejects r WHERE r.legacy_id = f.legacy_id)));
  IF NOT EXISTS (SELECT FROM pg_temp.stage_rejects) AND NOT EXISTS (SELECT FROM pg_temp.fates f WHERE f.fate = 'rejected') THEN
    RETURN;
  END IF;

  INSERT INTO migration.quarantine AS q (entity, legacy_id, code, "column", reason, how_to_fix, payload, run_id)
  SELECT p_entity, r.legacy_id, r.code, r."column", k.reason, k.how_to_fix, r.payload, p_run
  FROM (
    -- Of a repeated key several rows may be rejected; one entry stands for them.
    SELECT DISTINCT ON (legacy_id) legacy_id, code, "column", payload FROM (
      SELECT s.legacy_id, 'parent_missing' AS code, f.bad_column AS "column", to_jsonb(s) - 'content_hash' - 'source_version' AS payload
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
    SET state = 'quarantined', survivor_id = NULL, content_hash = NULL, source_version = NULL,
      mapping_version = NULL, rules_version = NULL, last_run = excluded.last_run, written_at = now()
    WHERE m.state <> 'quarantined';
  -- Of a repeated key one row may have made it: that one decides.
  UPDATE migration.id_map m SET state = 'quarantined', survivor_id = NULL, content_hash = NULL,
    source_version = NULL, mapping_version = NULL, rules_version = NULL, last_run = p_run, written_at = now()
  FROM pg_temp.stage_rejects r
  WHERE m.entity = p_entity AND m.legacy_id = r.legacy_id AND m.state <> 'quarantined'
    AND NOT EXISTS (SELECT 1 FROM pg_temp.fates f WHERE f.legacy_id = r.legacy_id);

  -- What was loaded before and is refused now is no row of the target: it would not be there after a fresh load.
  INSERT INTO pg_temp.refused SELECT m.legacy_id, m.target_id FROM migration.id_map m
  WHERE m.entity = p_entity AND m.state = 'quarantined'
    AND m.legacy_id IN (SELECT f.legacy_id FROM pg_temp.fates f WHERE f.fate = 'rejected'
      UNION ALL SELECT r.legacy_id FROM pg_temp.stage_rejects r);
  EXECUTE format(
    'UPDATE public.%1$I t SET deleted_at = now() FROM pg_temp.refused r
     WHERE r.target_id = t.id AND t.deleted_at IS NULL', p_entity);
  DELETE FROM migration.findings g USING pg_temp.refused r WHERE g.entity = p_entity AND g.legacy_id = r.legacy_id;
  DELETE FROM migration.redirects g USING pg_temp.refused r WHERE g.entity = p_entity AND g.legacy_id = r.legacy_id;
  UPDATE migration.merges g SET undone_at = now() FROM pg_temp.refused r
  WHERE g.merged_id = r.target_id AND g.undone_at IS NULL;
  SELECT e.vectors INTO vectors FROM migration.entities e WHERE e.entity = p_entity;
  IF vectors IS NOT NULL THEN
    EXECUTE format('DELETE FROM public.%I v USING pg_temp.refused r WHERE v.%I = r.target_id',
      vectors ->> 'table', vectors ->> 'owner');
  END IF;
END $$;

-- Stages rows of the target whose references fit no more, though the source did not touch them: the row referred
-- to is gone, in quarantine, merged, no longer merged, or has come. References are staged as the source has them, and
-- of survivors what they have themselves.
-- Returns how many; those of a dry run that were staged before are left out.
CREATE FUNCTION migration.stage_affected(p_run text, p_entity text, p_limit integer) RETURNS bigint
LANGUAGE plpgsql SET search_path = '' SET client_min_messages = warning AS $$
DECLARE
  spec migration.entities;
  ref record;
  names text;
  staged bigint;
BEGIN
  SELECT * INTO STRICT spec FROM migration.entities e WHERE e.entity = p_entity;
  DROP TABLE IF EXISTS pg_temp.affected;
  CREATE TEMPORARY TABLE affected (id uuid PRIMARY KEY) ON COMMIT DROP;
  FOR ref IN SELECT r.name, r.entity FROM jsonb_to_recordset(spec.refs) AS r (name text, entity text) LOOP
    EXECUTE format(
      'INSERT INTO pg_temp.affected
       SELECT s.id FROM public.%1$I s JOIN (
         SELECT p.id FROM public.%2$I p WHERE p.deleted_at IS NOT NULL
         UNION SELECT d.id FROM migration.planned_ids d WHERE d.run_id = %3$L AND d.deleted) p ON p.id = s.%4$I
       WHERE s.deleted_at IS NULL AND NOT %5$s ON CONFLICT DO NOTHING',
      p_entity, ref.entity, p_run, ref.name,
      migration.reference_exists('', p_run, format('s.%I', ref.name), ref.entity));
    EXECUTE format(
      'INSERT INTO pg_temp.affected
       SELECT b.id FROM migration.redirects s JOIN migration.id_map m USING (entity, legacy_id)
       JOIN public.%1$I b ON b.id = m.target_id
       LEFT JOIN migration.survivors_of(%2$L, %3$L) v ON v.id = s.original_id
       CROSS JOIN LATERAL (SELECT coalesce(v.survivor_id, s.original_id) AS id) w
       WHERE s.entity = %4$L AND s."column" = %5$L AND b.deleted_at IS NULL
         AND CASE WHEN %6$s THEN w.id END IS DISTINCT FROM %7$s%8$s ON CONFLICT DO NOTHING',
      p_entity, p_run, ref.entity, p_entity, ref.name,
      migration.reference_exists('', p_run, 'w.id', ref.entity), migration.own_value(p_entity, 'b', ref.name),
      CASE WHEN migration.keeps_foreign_writes(p_run) THEN format(' AND %s IS NOT DISTINCT FROM s.stored_id',
        migration.own_value(p_entity, 'b', ref.name)) END);
    IF ref.entity <> p_entity AND migration.may_merge(ref.entity) THEN
      EXECUTE format(
        'INSERT INTO pg_temp.affected
         SELECT b.id FROM migration.survivors_of(%1$L, %2$L) v JOIN public.%3$I b ON b.%4$I = v.id
         WHERE b.deleted_at IS NULL ON CONFLICT DO NOTHING', p_run, ref.entity, p_entity, ref.name);
    END IF;
  END LOOP;
  IF migration.may_merge(p_entity) THEN
    EXECUTE format(
      'INSERT INTO pg_temp.affected
       SELECT b.id FROM public.%1$I b LEFT JOIN migration.survivors_of(%2$L, %3$L) v ON v.id = b.id
       WHERE b.deleted_at IS NULL AND b.merged_into IS DISTINCT FROM v.survivor_id ON CONFLICT DO NOTHING',
      p_entity, p_run, p_entity);
  END IF;
  DELETE FROM pg_temp.affected a USING migration.planned_ids d WHERE d.run_id = p_run AND d.id = a.id;

  SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) INTO names FROM pg_catalog.pg_attribute a
  WHERE a.attrelid = format('public.%I', p_entity)::regclass AND a.attnum > 0 AND NOT a.attisdropped;
  EXECUTE format(
    'INSERT INTO pg_temp.stage (legacy_id, %1$s, content_hash, source_version)
     SELECT m.legacy_id, o.*, m.content_hash, m.source_version
     FROM pg_temp.affected a JOIN public.%2$I b USING (id)
     CROSS JOIN LATERAL jsonb_populate_record(b, migration.taken_back(b.metadata)) o
     JOIN migration.id_map m ON m.entity = %3$L AND m.target_id = b.id
     ORDER BY m.legacy_id LIMIT %4$s', names, p_entity, p_entity, p_limit);
  GET DIAGNOSTICS staged = ROW_COUNT;
  FOR ref IN SELECT r.name, r.entity FROM jsonb_to_recordset(spec.refs) AS r (name text, entity text) LOOP
    EXECUTE format(
      'UPDATE pg_temp.stage s SET %1$I = r.original_id FROM migration.redirects r
       WHERE r.entity = %2$L AND r.legacy_id = s.legacy_id AND r."column" = %3$L', ref.name, p_entity, ref.name);
  END LOOP;
  IF migration.may_merge(p_entity) THEN
    UPDATE pg_temp.stage SET merged_into = NULL WHERE merged_into IS NOT NULL;
  END IF;
  INSERT INTO pg_temp.stage_findings
  SELECT f.legacy_id, f.code, f."column" FROM migration.findings f JOIN pg_temp.stage s USING (legacy_id)
  WHERE f.entity = p_entity AND f.code <> 'reference_missing';
  RETURN staged;
END $$;

REVOKE ALL ON FUNCTION migration.open_stage, migration.empty_stage, migration.survivors_of, migration.may_merge, migration.reference_exists,
  migration.classify_stage, migration.apply_stage, migration.quarantine_stage, migration.stage_affected FROM PUBLIC;

INSERT INTO migration.schema_versions (name) VALUES ('migration/0002_merge.sql');
