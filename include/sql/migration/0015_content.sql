-- Level 3: content. One digest of a row everywhere: the MD5 of PostgreSQL's text of the record of its legacy id, its id and
-- its columns, with the row's own values and with references as the source has them, so that neither a merge nor a parent
-- that is not there changes it. Three of them are compared: of the source as it is read now (made by the client,
-- include/core/fingerprint.py), of the row as it was written (id_map.content_hash), and of the row as it is stored.
--
-- Every function that makes a digest pins the settings that the text of a value depends on.

-- What is not as it should be, found in a run; never a value.
CREATE TABLE migration.differences (
  run_id text NOT NULL,
  entity text NOT NULL,
  target_id uuid NOT NULL,
  legacy_id text COLLATE "C",
  -- changed: holds other values than it should; missing: is not there, or counts as deleted; extra: should not be there.
  kind text NOT NULL CHECK (kind IN ('changed', 'missing', 'extra')),
  -- That differ, where that is known.
  columns text[] NOT NULL DEFAULT '{}',
  -- Not as this tool wrote it.
  foreign_write boolean NOT NULL,
  found_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (run_id, entity, target_id, kind)
);
ALTER TABLE migration.differences ENABLE ROW LEVEL SECURITY;

-- Whose survivor a row is belongs to the merge, not to the row.
CREATE FUNCTION migration.digested_columns(p_entity text) RETURNS text[]
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT ARRAY['legacy_id', 'id'] || ARRAY(SELECT c.name FROM unnest(e.columns) WITH ORDINALITY AS c (name, place)
    WHERE c.name <> 'merged_into' ORDER BY c.place)
  FROM migration.entities e WHERE e.entity = p_entity
$$;

-- SQL for the digest, as text, of values given as SQL.
CREATE FUNCTION migration.content_digest(p_values text[]) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = '' AS $$
  SELECT format('md5(ROW(%s)::text)', array_to_string(p_values, ', '))
$$;

-- References of rows m that were stored otherwise than the source has them, one alias for each: the joins.
CREATE FUNCTION migration.redirect_joins(p_entity text) RETURNS text
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT coalesce(string_agg(format(' LEFT JOIN migration.redirects %1$I ON %1$I.entity = %2$L
      AND %1$I.legacy_id = m.legacy_id AND %1$I."column" = %3$L', 'redirected ' || r.name, p_entity, r.name), ''), '')
  FROM migration.entities e CROSS JOIN LATERAL jsonb_to_recordset(e.refs) AS r (name text, entity text)
  WHERE e.entity = p_entity AND r.name <> 'merged_into'
$$;

-- Rows m of the id map with their rows t of the target.
CREATE FUNCTION migration.stored(p_entity text) RETURNS text
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT format('migration.id_map m JOIN public.%I t ON m.entity = %L AND t.id = m.target_id%s', p_entity, p_entity,
    migration.redirect_joins(p_entity))
$$;

-- SQL for a column of row t (with its m, migration.stored) as the source has it. A reference that is neither what was
-- stored in place of the original nor anything else that was to be there is none of the source's. p_own: of a row that
-- may have been filled by a merge.
CREATE FUNCTION migration.source_value(p_entity text, p_column text, p_own boolean) RETURNS text
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT CASE
    WHEN p_column = 'legacy_id' THEN 'm.legacy_id'
    WHEN r.name IS NULL THEN v.value
    ELSE format('CASE WHEN %1$I.legacy_id IS NULL THEN %2$s WHEN %2$s IS NOT DISTINCT FROM %1$I.stored_id
      THEN %1$I.original_id ELSE nullif(%2$s, %1$I.original_id) END', 'redirected ' || p_column, v.value) END
  FROM migration.entities e
  CROSS JOIN LATERAL (SELECT CASE WHEN NOT p_own OR p_column IN ('legacy_id', 'id') THEN format('t.%I', p_column)
    WHEN p_column = 'metadata' THEN 't.metadata - ''merged'''
    ELSE migration.own_value(p_entity, 't', p_column) END) AS v (value)
  LEFT JOIN LATERAL (SELECT f.name FROM jsonb_to_recordset(e.refs) AS f (name text)
    WHERE f.name = p_column AND f.name <> 'merged_into') r ON true
  WHERE e.entity = p_entity
$$;

-- SQL for the digest, as text, of row t as it is stored.
CREATE FUNCTION migration.stored_digest(p_entity text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
DECLARE
  plain constant text := (SELECT migration.content_digest(array_agg(migration.source_value(p_entity, c.name, false)
    ORDER BY c.place)) FROM unnest(migration.digested_columns(p_entity)) WITH ORDINALITY AS c (name, place));
  own constant text := (SELECT migration.content_digest(array_agg(migration.source_value(p_entity, c.name, true)
    ORDER BY c.place)) FROM unnest(migration.digested_columns(p_entity)) WITH ORDINALITY AS c (name, place));
BEGIN
  RETURN CASE WHEN migration.may_merge(p_entity)
    THEN format('CASE WHEN t.metadata ? ''merged'' THEN %s ELSE %s END', own, plain) ELSE plain END;
END $$;

-- SQL: the merge of row t is as it is known.
CREATE FUNCTION migration.merged_as_known(p_entity text) RETURNS text
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT CASE WHEN migration.may_merge(p_entity) THEN 't.merged_into IS NOT DISTINCT FROM m.survivor_id' ELSE 'true' END
$$;

-- SQL: nobody wrote row t since this tool did. What is to be written again is nobody's.
CREATE FUNCTION migration.as_written(p_entity text) RETURNS text
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT format('(m.content_hash IS NULL OR (m.target_id = t.id AND m.content_hash = (%s)::uuid AND %s))',
    migration.stored_digest(p_entity), migration.merged_as_known(p_entity))
$$;

-- Registers what the digests of an entity's rows are made of from now on, and gives the rows that nobody else wrote the
-- digest of what they hold: else a new column would make every row a foreign write.
CREATE FUNCTION migration.digest_otherwise(p_spec migration.entities) RETURNS void
LANGUAGE plpgsql SET search_path = '' SET client_min_messages = warning SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD'
SET IntervalStyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex' AS $$
DECLARE
  -- A column that is gone tells nothing any more.
  comparable constant boolean := NOT EXISTS (SELECT FROM unnest(migration.digested_columns(p_spec.entity)) AS c (name)
    WHERE c.name <> 'legacy_id' AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a
      WHERE a.attrelid = format('public.%I', p_spec.entity)::regclass AND a.attname = c.name AND NOT a.attisdropped));
BEGIN
  DROP TABLE IF EXISTS pg_temp.as_written;
  EXECUTE format('CREATE TEMPORARY TABLE as_written ON COMMIT DROP AS SELECT m.legacy_id FROM %s
      WHERE m.state IN (''live'', ''merged'') AND m.content_hash IS NOT NULL AND %s',
    CASE WHEN comparable THEN migration.stored(p_spec.entity)
      ELSE format('(SELECT * FROM migration.id_map i WHERE i.entity = %L) m', p_spec.entity) END,
    CASE WHEN comparable THEN migration.as_written(p_spec.entity) ELSE 'true' END);
  UPDATE migration.entities e SET columns = p_spec.columns, refs = p_spec.refs, merge_rules = p_spec.merge_rules
  WHERE e.entity = p_spec.entity;
  EXECUTE format('UPDATE migration.id_map i SET content_hash = s.digest FROM (
      SELECT m.legacy_id, (%s)::uuid AS digest FROM %s) s JOIN pg_temp.as_written w USING (legacy_id)
    WHERE i.entity = %L AND i.legacy_id = s.legacy_id AND i.content_hash <> s.digest',
    migration.stored_digest(p_spec.entity), migration.stored(p_spec.entity), p_spec.entity);
END $$;

-- SQL for a value as COPY writes it.
CREATE FUNCTION migration.as_text(p_value text, p_type text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = '' AS $$
  SELECT format(CASE WHEN p_type = 'boolean' THEN 'left((%s)::text, 1)' ELSE '(%s)::text' END, p_value)
$$;

-- Whether a text that came in is another way to write the stored value; what is no value of the type is not.
CREATE FUNCTION migration.same_value(p_stored text, p_sent text, p_type text) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
DECLARE
  canonical text;
BEGIN
  EXECUTE 'SELECT ' || migration.as_text('$1::' || p_type, p_type) INTO canonical USING p_sent;
  RETURN coalesce(canonical = p_stored, false);
EXCEPTION WHEN data_exception THEN
  RETURN false;
END $$;

-- By the first p_digits hexadecimal digits of the id: number of rows that are there, and the sums of both halves of their
-- digests, each as a number that counts modulo 2^64. A row that the id map does not know as it is adds to the number
-- alone, so that no row of the source can stand for it.
CREATE FUNCTION migration_api.content_fingerprints(p_entity text, p_digits bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = '' SET statement_timeout = '60min' SET TimeZone = 'UTC'
SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex' AS $$
DECLARE
  result jsonb;
BEGIN
  EXECUTE format('
    SELECT coalesce(jsonb_object_agg(b.bucket, jsonb_build_array(b.rows, b.high::text, b.low::text)), ''{}'') FROM (
      SELECT r.bucket, count(*) AS rows, coalesce(sum((''x'' || left(r.digest, 16))::bit(64)::bigint), 0) AS high,
        coalesce(sum((''x'' || right(r.digest, 16))::bit(64)::bigint), 0) AS low
      FROM (SELECT left(t.id::text, $1) AS bucket,
          CASE WHEN m.state IN (''live'', ''merged'') AND %1$s THEN %2$s END AS digest
        FROM public.%3$I t LEFT JOIN migration.id_map m ON m.entity = %4$L AND m.target_id = t.id%5$s
        WHERE t.deleted_at IS NULL OFFSET 0) r
      GROUP BY r.bucket) b',
    migration.merged_as_known(p_entity), migration.stored_digest(p_entity), p_entity, p_entity,
    migration.redirect_joins(p_entity)) INTO result USING p_digits::integer;
  RETURN result;
END $$;

-- Keys that the source may have and the target has no row for, as it knows: they wait in quarantine, or were deleted.
CREATE FUNCTION migration_api.keys_without_row(p_entity text, p_after text, p_most bigint) RETURNS TABLE (legacy_id text)
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
BEGIN
  RETURN QUERY EXECUTE format('SELECT m.legacy_id::text FROM (
      SELECT q.legacy_id FROM migration.quarantine q WHERE q.entity = %1$L AND q.status = ''open''
      UNION SELECT i.legacy_id FROM migration.id_map i
      WHERE i.entity = %1$L AND i.state NOT IN (''live'', ''merged'')
      EXCEPT SELECT i.legacy_id FROM migration.id_map i
      WHERE i.entity = %1$L AND i.state IN (''live'', ''merged'')) m WHERE true', p_entity)
    || migration.page(p_after, p_most);
END $$;

-- Rows of the target that should not be there (in p_buckets; NULL: anywhere).
CREATE FUNCTION migration.find_extra(p_run text, p_entity text, p_buckets text[]) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  EXECUTE format('
    INSERT INTO migration.differences (run_id, entity, target_id, legacy_id, kind, foreign_write)
    SELECT DISTINCT ON (t.id) $1, %1$L, t.id, m.legacy_id, ''extra'', true
    FROM (SELECT s.id, count(*) OVER (PARTITION BY s.id) AS times FROM public.%2$I s
      WHERE s.deleted_at IS NULL AND ($2 IS NULL OR left(s.id::text, length($2[1])) = ANY ($2))) t
    LEFT JOIN migration.id_map m ON m.entity = %1$L AND m.target_id = t.id
    WHERE m.state IS NULL OR m.state NOT IN (''live'', ''merged'') OR t.times > 1
    ON CONFLICT DO NOTHING', p_entity, p_entity) USING p_run, p_buckets;
END $$;

-- Survivors that hold another value than the merged row that filled it, which nobody else wrote: the digest is of what a
-- row has itself, and a run that broke off in between has not settled them yet.
CREATE FUNCTION migration.find_filled_over(p_run text, p_entity text) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  IF NOT migration.may_merge(p_entity) THEN
    RETURN;
  END IF;
  EXECUTE format('
    INSERT INTO migration.differences (run_id, entity, target_id, legacy_id, kind, columns, foreign_write)
    SELECT $1, %1$L, m.target_id, m.legacy_id, ''changed'', array_agg(f.key ORDER BY f.key), true
    FROM public.%2$I t JOIN migration.id_map m ON m.entity = %1$L AND m.target_id = t.id
    CROSS JOIN LATERAL jsonb_each_text(
      CASE WHEN jsonb_typeof(t.metadata #> ''{merged,filled}'') = ''object'' THEN t.metadata #> ''{merged,filled}'' END) f
    JOIN migration.id_map o ON o.entity = m.entity AND o.legacy_id = f.value AND o.survivor_id = t.id
    JOIN public.%2$I b ON b.id = o.target_id
    WHERE t.deleted_at IS NULL AND m.content_hash IS NOT NULL AND o.content_hash IS NOT NULL
      AND to_jsonb(t) -> f.key IS DISTINCT FROM (to_jsonb(b) || migration.taken_back(b.metadata)) -> f.key
      AND (o.written_at <= m.written_at
        OR EXISTS (SELECT FROM migration.runs r WHERE r.run_id = o.last_run AND r.status = ''completed''))
      AND NOT EXISTS (SELECT FROM migration.differences d
        WHERE d.run_id = $1 AND d.entity = m.entity AND d.target_id = b.id)
    GROUP BY m.target_id, m.legacy_id ON CONFLICT DO NOTHING', p_entity, p_entity) USING p_run;
END $$;

-- What was found in a run, by whom it was written: {own, foreign}, each {kind: rows}, how often which column, some keys.
CREATE FUNCTION migration.sum_differences(p_run text, p_entity text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  WITH found AS MATERIALIZED (
    SELECT d.* FROM migration.differences d WHERE d.run_id = p_run AND d.entity = p_entity)
  SELECT jsonb_object_agg(w.name, jsonb_build_object(
    'kinds', (SELECT coalesce(jsonb_object_agg(k.kind, k.rows), '{}') FROM (
      SELECT f.kind, count(*) AS rows FROM found f WHERE f.foreign_write = w.value GROUP BY f.kind) k),
    'columns', (SELECT coalesce(jsonb_object_agg(c.name, c.rows), '{}') FROM (
      SELECT n.name, count(*) AS rows FROM found f CROSS JOIN LATERAL unnest(f.columns) AS n (name)
      WHERE f.foreign_write = w.value GROUP BY n.name) c),
    'sample_keys', (SELECT coalesce(jsonb_agg(s.key ORDER BY s.key), '[]') FROM (
      SELECT DISTINCT coalesce(f.legacy_id, f.target_id::text) COLLATE "C" AS key FROM found f
      WHERE f.foreign_write = w.value ORDER BY 1 LIMIT 10) s)))
  FROM (VALUES ('own', false), ('foreign', true)) AS w (name, value)
$$;

-- Compares rows of the source (incoming_rows: legacy_id, id, columns, source_version), and those that the rules refuse
-- (incoming_refused: legacy_id, source_version; NULL where that is not known), with the target. With p_buckets,
-- which begin the ids, they are all there are of them, and what was found before in the run is forgotten; NULL: only these.
-- A row that was written in the source, or is transformed otherwise, since it was loaded is no difference, but counted.
-- Returns what was found (migration.sum_differences), and {changed_since: {rows, sample_keys}}.
CREATE FUNCTION migration_api.compare_content(p_run text, p_entity text, p_buckets text[], p_versions jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET client_min_messages = warning SET statement_timeout = '60min'
SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = 'postgres' SET extra_float_digits = 1
SET bytea_output = 'hex' AS $$
DECLARE
  as_written constant text := migration.as_written(p_entity);
  -- What is to be written again has no excuse until it was.
  up_to_date constant text := '(m.content_hash IS NULL OR (m.source_version, m.mapping_version, m.rules_version)
    IS NOT DISTINCT FROM (r.source_version::uuid, $3 ->> ''mapping'', $3 ->> ''rules''))';
  differing text;
  result jsonb;
BEGIN
  DROP TABLE IF EXISTS pg_temp.compared;
  ANALYZE pg_temp.incoming_rows, pg_temp.incoming_refused;
  IF p_buckets IS NOT NULL THEN
    DELETE FROM migration.differences d WHERE d.run_id = p_run AND d.entity = p_entity;
    PERFORM migration.find_extra(p_run, p_entity, p_buckets);
  END IF;

  -- The text decides, for it shows what two equal values may hide: the scale of a number.
  SELECT string_agg(format('CASE WHEN %1$s IS DISTINCT FROM r.%2$I THEN
      CASE WHEN NOT migration.same_value(%1$s, r.%2$I, %3$L) THEN %4$L END END',
      migration.as_text(migration.source_value(p_entity, c.name, migration.may_merge(p_entity)), t.type),
      c.name, t.type, c.name), ', ' ORDER BY c.place)
    INTO differing
  FROM unnest(migration.digested_columns(p_entity)) WITH ORDINALITY AS c (name, place)
  CROSS JOIN LATERAL (SELECT format_type(a.atttypid, a.atttypmod) AS type FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = format('public.%I', p_entity)::regclass AND a.attname = c.name) t
  WHERE c.name NOT IN ('legacy_id', 'id');
  EXECUTE format('CREATE TEMPORARY TABLE compared ON COMMIT DROP AS
    SELECT c.* FROM (
      SELECT r.id::uuid AS target_id, m.legacy_id,
        CASE WHEN t.id IS NULL OR t.deleted_at IS NOT NULL THEN ''missing'' ELSE ''changed'' END AS kind,
        CASE WHEN t.id IS NOT NULL AND t.deleted_at IS NULL THEN array_remove(ARRAY[
          CASE WHEN m.target_id <> r.id::uuid THEN ''id'' END,
          CASE WHEN NOT (%1$s) THEN ''merged_into'' END, %2$s], NULL) ELSE ''{}'' END AS columns,
        t.id IS NOT NULL AND t.deleted_at IS NULL AND %3$s AS as_written, %4$s AS up_to_date
      FROM pg_temp.incoming_rows r
      JOIN migration.id_map m ON m.entity = %5$L AND m.legacy_id = r.legacy_id AND m.state IN (''live'', ''merged'')
      LEFT JOIN public.%6$I t ON t.id = r.id::uuid%7$s OFFSET 0) c
    WHERE c.kind = ''missing'' OR cardinality(c.columns) > 0
    UNION ALL
    SELECT t.id, m.legacy_id, ''extra'', ''{}'', %3$s, coalesce(%4$s, false)
    FROM pg_temp.incoming_refused r JOIN %8$s ON m.legacy_id = r.legacy_id
    WHERE m.state IN (''live'', ''merged'') AND t.deleted_at IS NULL AND $2 IS NOT NULL
    UNION ALL
    SELECT t.id, m.legacy_id, ''changed'', ''{}'', false, true FROM %8$s
    WHERE $2 IS NOT NULL AND left(t.id::text, length($2[1])) = ANY ($2) AND t.deleted_at IS NULL
      AND m.state IN (''live'', ''merged'')
      AND NOT EXISTS (SELECT FROM pg_temp.incoming_rows r WHERE r.legacy_id = m.legacy_id)
      AND NOT EXISTS (SELECT FROM pg_temp.incoming_refused r WHERE r.legacy_id = m.legacy_id) AND NOT %3$s',
    migration.merged_as_known(p_entity), differing, as_written, up_to_date, p_entity, p_entity,
    migration.redirect_joins(p_entity), migration.stored(p_entity)) USING p_run, p_buckets, p_versions;

  INSERT INTO migration.differences AS d (run_id, entity, target_id, legacy_id, kind, columns, foreign_write)
  SELECT DISTINCT ON (c.target_id, c.kind) p_run, p_entity, c.target_id, c.legacy_id, c.kind, c.columns, NOT c.as_written
  FROM pg_temp.compared c WHERE c.up_to_date OR NOT c.as_written
  ORDER BY c.target_id, c.kind, cardinality(c.columns) DESC
  ON CONFLICT (run_id, entity, target_id, kind) DO UPDATE SET columns = excluded.columns,
    foreign_write = excluded.foreign_write;
  PERFORM migration.find_filled_over(p_run, p_entity);
  SELECT jsonb_build_object('rows', count(*), 'sample_keys', (SELECT coalesce(jsonb_agg(s.legacy_id), '[]') FROM (
      SELECT n.legacy_id FROM pg_temp.compared n WHERE n.as_written AND NOT n.up_to_date ORDER BY 1 LIMIT 10) s))
    INTO result FROM pg_temp.compared c WHERE c.as_written AND NOT c.up_to_date;
  RETURN migration.sum_differences(p_run, p_entity) || jsonb_build_object('changed_since', result);
END $$;

-- Rows that somebody else wrote since this tool did, without asking the source: changed, gone, taken back from deletion,
-- or never loaded. What was found before in the run is forgotten. Returns what was found (migration.sum_differences).
CREATE FUNCTION migration_api.find_foreign_writes(p_run text, p_entity text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET statement_timeout = '60min' SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD'
SET IntervalStyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex' AS $$
BEGIN
  DELETE FROM migration.differences d WHERE d.run_id = p_run AND d.entity = p_entity;
  PERFORM migration.find_extra(p_run, p_entity, NULL);
  EXECUTE format('
    INSERT INTO migration.differences (run_id, entity, target_id, legacy_id, kind, columns, foreign_write)
    SELECT $1, %1$L, m.target_id, m.legacy_id,
      CASE WHEN t.id IS NULL OR t.deleted_at IS NOT NULL THEN ''missing'' ELSE ''changed'' END,
      CASE WHEN t.id IS NOT NULL AND t.deleted_at IS NULL AND NOT (%2$s) THEN ARRAY[''merged_into''] ELSE ''{}'' END, true
    FROM migration.id_map m LEFT JOIN public.%3$I t ON t.id = m.target_id%4$s
    WHERE m.entity = %1$L AND m.state IN (''live'', ''merged'') AND m.content_hash IS NOT NULL
      AND (t.id IS NULL OR t.deleted_at IS NOT NULL OR NOT %5$s)
    ON CONFLICT DO NOTHING',
    p_entity, migration.merged_as_known(p_entity), p_entity, migration.redirect_joins(p_entity),
    migration.as_written(p_entity)) USING p_run;
  PERFORM migration.find_filled_over(p_run, p_entity);
  RETURN migration.sum_differences(p_run, p_entity);
END $$;

-- Makes the next plan take up, and the next merge write, rows found in the run (migration.differences): those that differ
-- though nobody else wrote them, and those that somebody else wrote. Rows that nobody loaded are marked as deleted.
-- Returns {taken_up, removed}.
CREATE FUNCTION migration_api.take_up_again(p_run text, p_entity text, p_own boolean, p_foreign boolean) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET statement_timeout = '10min' AS $$
DECLARE
  taken bigint;
  removed bigint;
BEGIN
  PERFORM migration.hold_lock(p_run);
  UPDATE migration.id_map m SET content_hash = NULL, source_version = NULL
  FROM migration.differences d
  WHERE d.run_id = p_run AND d.entity = p_entity AND CASE WHEN d.foreign_write THEN p_foreign ELSE p_own END
    AND m.entity = p_entity AND m.legacy_id = d.legacy_id AND m.state IN ('live', 'merged')
    AND (m.content_hash IS NOT NULL OR m.source_version IS NOT NULL);
  GET DIAGNOSTICS taken = ROW_COUNT;
  EXECUTE format('UPDATE public.%I t SET deleted_at = now() FROM migration.differences d
    WHERE d.run_id = $1 AND d.entity = %L AND d.kind = ''extra'' AND CASE WHEN d.foreign_write THEN $2 ELSE $3 END
      AND t.id = d.target_id AND t.deleted_at IS NULL AND NOT EXISTS (SELECT FROM migration.id_map m
        WHERE m.entity = d.entity AND m.target_id = d.target_id AND m.state IN (''live'', ''merged''))',
    p_entity, p_entity) USING p_run, p_foreign, p_own;
  GET DIAGNOSTICS removed = ROW_COUNT;
  PERFORM migration.audit(p_run, 'rows taken up again',
    jsonb_build_object('entity', p_entity, 'taken_up', taken, 'removed', removed));
  RETURN jsonb_build_object('taken_up', taken, 'removed', removed);
END $$;

SELECT migration.secure();

INSERT INTO migration.schema_versions (name) VALUES ('migration/0015_content.sql');
