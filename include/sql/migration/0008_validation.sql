-- Validation. A check is {name, severity, expected, found, sample_keys}; it has passed where found is expected.

-- The check that a query for offending keys finds none; some of them are named.
CREATE FUNCTION migration.check_none(p_name text, p_query text, p_severity text DEFAULT 'fail') RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  result jsonb;
BEGIN
  EXECUTE format('WITH offending (key) AS MATERIALIZED (%s)
    SELECT jsonb_build_object(''name'', $1, ''severity'', $2, ''expected'', ''0'', ''found'', count(*)::text,
      ''sample_keys'', (SELECT coalesce(jsonb_agg(coalesce(nullif(s.key, ''''), ''NULL'') ORDER BY s.key), ''[]'')
        FROM (SELECT o.key::text COLLATE "C" AS key FROM offending o ORDER BY 1 LIMIT 10) s))
    FROM offending', p_query) INTO result USING p_name, p_severity;
  RETURN result;
END $$;

CREATE FUNCTION migration.check_equal(p_name text, p_expected bigint, p_found bigint) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = '' AS $$
  SELECT jsonb_build_object('name', p_name, 'severity', 'fail', 'expected', p_expected::text, 'found', p_found::text,
    'sample_keys', '[]'::jsonb)
$$;

-- Level 1: the rows that each hop has handled, and the rows of the target against the id map.
CREATE FUNCTION migration_api.check_counts(p_run text, p_entity text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET statement_timeout = '10min' AS $$
DECLARE
  known constant text := format('SELECT m.target_id FROM migration.id_map m
    WHERE m.entity = %L AND m.state IN (''live'', ''merged'')', p_entity);
  live constant text := format('SELECT t.id FROM public.%I t WHERE t.deleted_at IS NULL', p_entity);
  extracted bigint;
  transformed bigint;
  loaded bigint;
BEGIN
  SELECT coalesce(sum(b.extracted) FILTER (WHERE b.phase = 'extraction'), 0),
    coalesce(sum(b.extracted) FILTER (WHERE b.phase = 'transformation'), 0),
    coalesce(sum(b.extracted) FILTER (WHERE b.phase = 'loading'), 0) INTO extracted, transformed, loaded
  FROM migration.batches b WHERE b.run_id = p_run AND b.entity = p_entity;
  RETURN jsonb_build_array(
    migration.check_equal('rows_transformed', extracted, transformed),
    migration.check_equal('rows_loaded', transformed, loaded),
    -- Rows that are gone or too many are somebody else's doing, and may be meant to stay so.
    migration.check_none('rows_stored', format('(%1$s EXCEPT %2$s) UNION ALL (%2$s EXCEPT %1$s)', known, live),
      CASE WHEN migration.keeps_foreign_writes(p_run) THEN 'warn' ELSE 'fail' END));
END $$;

-- Level 1: every live row has a vector, except those whose text the provider refuses; no other row has one. p_awaited:
-- rows that were written since all had one last, by a run that embedded nothing or by people who parted merged rows, may
-- wait for the next run that embeds.
CREATE FUNCTION migration_api.check_embedded(p_entity text, p_awaited boolean DEFAULT false) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET statement_timeout = '10min' AS $$
DECLARE
  vectors jsonb;
  lacking text;
  refused constant text := 'EXISTS (SELECT 1 FROM migration.embedding_quarantine q
    WHERE q.entity = m.entity AND q.legacy_id = m.legacy_id AND q.resolved_run_id IS NULL)';
  waits text := 'false';
BEGIN
  SELECT e.vectors INTO STRICT vectors FROM migration.entities e WHERE e.entity = p_entity;
  IF p_awaited THEN
    waits := format('m.written_at >= coalesce((SELECT w.recorded_at FROM migration.watermarks w WHERE w.name = %L),
      ''-infinity'')', vectors ->> 'table');
  END IF;
  lacking := format('SELECT m.legacy_id FROM migration.id_map m WHERE m.entity = %L AND m.state = ''live''
    AND NOT EXISTS (SELECT 1 FROM public.%I v WHERE v.%I = m.target_id)',
    p_entity, vectors ->> 'table', vectors ->> 'owner');
  RETURN jsonb_build_array(
    migration.check_none('embedded', format('%s AND NOT %s AND NOT (%s)', lacking, refused, waits)),
    migration.check_none('embedding_quarantined', lacking || ' AND ' || refused, 'warn'),
    migration.check_none('vectors_of_live_rows', format('SELECT coalesce(m.legacy_id, v.%1$I::text)
      FROM public.%2$I v LEFT JOIN migration.id_map m ON m.entity = %3$L AND m.target_id = v.%1$I
      WHERE m.state IS DISTINCT FROM ''live''', vectors ->> 'owner', vectors ->> 'table', p_entity)))
    || CASE WHEN p_awaited THEN migration.check_none('embeddings_awaited',
      format('%s AND NOT %s AND %s', lacking, refused, waits), 'warn') ELSE '[]' END;
END $$;

-- Level 2: incoming_source_keys (legacy_id), those of the source now, against the fates of rows. Returns the keys that
-- are missing (have no fate), back (count as deleted) or gone (have a fate), the horizon of the run to tell arrivals
-- by, and the check that no key has two fates.
CREATE FUNCTION migration_api.compare_keys(p_run text, p_entity text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  result jsonb;
BEGIN
  ANALYZE pg_temp.incoming_source_keys;
  WITH fates AS MATERIALIZED (
    SELECT m.legacy_id FROM migration.id_map m WHERE m.entity = p_entity AND m.state IN ('live', 'merged')
    UNION SELECT q.legacy_id FROM migration.quarantine q WHERE q.entity = p_entity AND q.status = 'open')
  SELECT jsonb_build_object(
    'horizon', (SELECT r.source_horizon FROM migration.runs r WHERE r.run_id = p_run),
    'missing', (SELECT coalesce(jsonb_agg(k.legacy_id), '[]') FROM (
      SELECT s.legacy_id FROM pg_temp.incoming_source_keys s EXCEPT TABLE fates) k),
    'gone', (SELECT coalesce(jsonb_agg(k.legacy_id), '[]') FROM (
      TABLE fates EXCEPT SELECT s.legacy_id FROM pg_temp.incoming_source_keys s) k),
    'back', (SELECT coalesce(jsonb_agg(k.legacy_id), '[]') FROM (
      SELECT m.legacy_id FROM migration.id_map m WHERE m.entity = p_entity AND m.state = 'deleted'
      INTERSECT SELECT s.legacy_id FROM pg_temp.incoming_source_keys s) k))
    INTO result;
  RETURN result || jsonb_build_object('two_fates', migration.check_none('keys_with_two_fates', format(
    'SELECT q.legacy_id FROM migration.quarantine q JOIN migration.id_map m USING (entity, legacy_id)
     WHERE q.entity = %L AND q.status = ''open'' AND q.code <> ''key_repeated'' AND m.state IN (''live'', ''merged'')',
    p_entity)));
END $$;

-- Level 4: what constraints promise, asked of the rows themselves, and the entity's own rules. p_run: says whether what
-- others wrote stays.
CREATE FUNCTION migration_api.check_integrity(p_entity text, p_run text DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET statement_timeout = '10min' AS $$
DECLARE
  spec migration.entities;
  own constant text := format('public.%I t JOIN migration.id_map m ON m.entity = %L AND m.target_id = t.id',
    p_entity, p_entity);
  checks jsonb := '[]';
  item record;
BEGIN
  SELECT * INTO STRICT spec FROM migration.entities e WHERE e.entity = p_entity;
  FOR item IN SELECT * FROM jsonb_to_recordset(spec.refs) AS r (name text, entity text, required boolean) LOOP
    checks := checks || migration.check_none('orphans_' || item.name, format(
      'SELECT m.legacy_id FROM %1$s WHERE t.deleted_at IS NULL AND t.%2$I IS NOT NULL
         AND NOT EXISTS (SELECT 1 FROM public.%3$I p WHERE p.id = t.%2$I AND p.deleted_at IS NULL)',
      own, item.name, item.entity));
    -- Still there, and never left unvalidated.
    checks := checks || migration.check_equal('foreign_key_' || item.name, 1, (
      SELECT count(*) FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_attribute a
        ON a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)
      WHERE c.conrelid = to_regclass(format('public.%I', p_entity)) AND c.contype = 'f' AND c.convalidated
        AND a.attname = item.name));
    IF item.required AND item.name <> 'merged_into' THEN
      checks := checks || migration.check_filled(p_entity, item.name);
    END IF;
  END LOOP;
  checks := checks || migration.check_filled(p_entity, spec.columns[1]);
  checks := checks || migration.check_equal('row_security_on', 1, (SELECT count(*) FROM pg_catalog.pg_class c
    WHERE c.oid = to_regclass(format('public.%I', p_entity)) AND c.relrowsecurity));
  FOR item IN SELECT * FROM jsonb_to_recordset(spec.enums) AS r (name text, type text) LOOP
    checks := checks || migration.check_none('enum_' || item.name, format(
      'SELECT m.legacy_id FROM %1$s WHERE t.%2$I IS NOT NULL AND t.%2$I::text NOT IN (
         SELECT l.enumlabel FROM pg_catalog.pg_enum l WHERE l.enumtypid = %3$L::regtype)',
      own, item.name, format('public.%I', item.type)));
  END LOOP;
  -- No live row points at a row that was merged away.
  FOR item IN SELECT * FROM jsonb_to_recordset(spec.refs) AS r (name text, entity text) WHERE r.entity <> p_entity LOOP
    checks := checks || migration.check_none('merged_' || item.name, format(
      'SELECT m.legacy_id FROM %s JOIN migration.id_map p ON p.entity = %L AND p.target_id = t.%I
       WHERE p.state = ''merged'' AND t.deleted_at IS NULL', own, item.entity, item.name));
  END LOOP;
  -- Survivors hold what the merges in force make them.
  IF migration.may_merge(p_entity) THEN
    checks := checks || migration.check_none('merges_settled', format(
      'SELECT m.legacy_id FROM migration.settled(%1$L, NULL) s JOIN migration.id_map m
         ON m.entity = %1$L AND m.target_id = s.id WHERE s.stored <> s.settled', p_entity),
      CASE WHEN migration.keeps_foreign_writes(p_run) THEN 'warn' ELSE 'fail' END);
  END IF;
  FOR item IN SELECT * FROM jsonb_to_recordset(spec.checks) AS r (name text, sql text, severity text) LOOP
    checks := checks || migration.check_none(item.name, item.sql, item.severity);
  END LOOP;
  RETURN checks;
END $$;

CREATE FUNCTION migration.check_filled(p_entity text, p_column text) RETURNS jsonb
LANGUAGE sql SET search_path = '' AS $$
  SELECT migration.check_none('required_' || p_column,
    format('SELECT t.id FROM public.%I t WHERE t.%I IS NULL', p_entity, p_column))
$$;

SELECT migration.secure();

INSERT INTO migration.schema_versions (name) VALUES ('migration/0008_validation.sql');
