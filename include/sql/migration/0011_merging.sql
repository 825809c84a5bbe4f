-- Rows that are the same thing: what is compared of them, what their survivor holds, and how a merge is undone.
--
-- Every row is loaded with its own values; behind the loads, survivors are filled from the rows merged into them. A
-- survivor says so in metadata -> 'merged': {"filled": {column: legacy id of the row it came from}, "conflicts":
-- {column: [{"legacy_id", "value"}]}, "gaps": {column: what stood there, where that was not NULL}}, left out where
-- there is neither. So its own values can always be told: migration.taken_back, migration.own_value.

-- What counts as no value: NULL, an empty text, an empty object or list.
CREATE FUNCTION migration.gaps() RETURNS jsonb[]
LANGUAGE sql IMMUTABLE SET search_path = '' AS $$
  SELECT ARRAY['null', '""', '{}', '[]']::jsonb[]
$$;

-- Columns that are filled in survivors; never one that a unique index or a CHECK speaks of, for a fill might break it.
CREATE FUNCTION migration.filled_columns(p_entity text) RETURNS text[]
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT ARRAY(SELECT r.key FROM migration.entities e CROSS JOIN LATERAL jsonb_each_text(e.merge_rules) r
    JOIN pg_catalog.pg_attribute a ON a.attrelid = to_regclass(format('public.%I', p_entity)) AND a.attname = r.key
    WHERE e.entity = p_entity AND r.value = 'fill'
      AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_constraint c WHERE c.conrelid = a.attrelid AND c.contype <> 'f'
        AND a.attnum = ANY (c.conkey))
      AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_index i JOIN pg_catalog.pg_depend d ON d.objid = i.indexrelid
        WHERE i.indrelid = a.attrelid AND (i.indisunique OR i.indisexclusion)
          AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum)
    ORDER BY a.attnum)
$$;

-- What a row with this metadata had where merges filled it, and its metadata without that: {} for most rows.
CREATE FUNCTION migration.taken_back(p_metadata jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = '' AS $$
  SELECT CASE WHEN p_metadata ? 'merged' THEN
    (SELECT coalesce(jsonb_object_agg(f.key, NULL), '{}') FROM jsonb_each(p_metadata #> '{merged,filled}') f)
      || coalesce(p_metadata #> '{merged,gaps}', '{}') || jsonb_build_object('metadata', p_metadata - 'merged')
  ELSE '{}' END
$$;

-- SQL for a column of row r_row as the row has it itself.
CREATE FUNCTION migration.own_value(p_entity text, r_row text, r_column text) RETURNS text
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT CASE WHEN r_column = ANY (migration.filled_columns(p_entity)) THEN format(
      'CASE WHEN %1$s.metadata #> ''{merged,filled}'' ? %2$L THEN
         (%1$s.metadata #>> ARRAY[''merged'', ''gaps'', %2$L])::%3$s ELSE %1$s.%4$I END',
      r_row, r_column, (SELECT format_type(a.atttypid, a.atttypmod) FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = format('public.%I', p_entity)::regclass AND a.attname = r_column), r_column)
    ELSE format('%s.%I', r_row, r_column) END
$$;

-- The columns that are compared, in their order; the first tells rows apart, the last only how recent they are.
CREATE FUNCTION migration.compared_columns() RETURNS text[]
LANGUAGE sql IMMUTABLE SET search_path = '' AS $$
  SELECT ARRAY['legacy_id', 'first_name', 'last_name', 'date_of_birth', 'gender', 'email', 'suffix', 'practice_id',
    'primary_doctor_id', 'updated_at']
$$;

-- The query for them, as text, of rows that are there: what each row has itself, and references as the source has them.
CREATE FUNCTION migration.compared(p_entity text) RETURNS text
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT format('SELECT m.legacy_id, %s FROM migration.id_map m JOIN public.%I t ON t.id = m.target_id%s
      WHERE m.entity = %L AND m.state IN (''live'', ''merged'') AND t.deleted_at IS NULL',
    string_agg(format('%s AS %I', CASE WHEN r.name IS NULL THEN format('(%s)::text', o.value)
      ELSE format('coalesce(r%s.original_id, %s)::text', c.place, o.value) END, c.name), ', ' ORDER BY c.place),
    p_entity,
    string_agg(CASE WHEN r.name IS NOT NULL THEN format(' LEFT JOIN migration.redirects r%1$s ON r%1$s.entity = %2$L
      AND r%1$s.legacy_id = m.legacy_id AND r%1$s."column" = %3$L', c.place, p_entity, c.name) END, '' ORDER BY c.place),
    p_entity)
  FROM unnest(migration.compared_columns()) WITH ORDINALITY AS c (name, place)
  CROSS JOIN LATERAL migration.own_value(p_entity, 't', c.name) AS o (value)
  LEFT JOIN LATERAL (SELECT f.name FROM migration.entities e
    CROSS JOIN LATERAL jsonb_to_recordset(e.refs) AS f (name text) WHERE e.entity = p_entity) r ON r.name = c.name
  WHERE c.name <> 'legacy_id'
$$;

CREATE FUNCTION migration_api.compared_rows(p_entity text, p_after text, p_most bigint)
RETURNS TABLE (legacy_id text, first_name text, last_name text, date_of_birth text, gender text, email text,
  suffix text, practice_id text, primary_doctor_id text, updated_at text)
LANGUAGE plpgsql STABLE SET search_path = '' SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' AS $$
BEGIN
  RETURN QUERY EXECUTE migration.compared(p_entity) || migration.page(p_after, p_most);
END $$;

-- Of the rows that a run has read, incoming_read (legacy_id), those that are compared otherwise than the target has
-- them: changed or new in incoming_rows (columns as of compared_rows), or not to be compared any more.
CREATE FUNCTION migration_api.compared_changed(p_entity text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' AS $$
DECLARE
  result jsonb;
BEGIN
  ANALYZE pg_temp.incoming_rows, pg_temp.incoming_read;
  EXECUTE format('WITH stored AS MATERIALIZED (%s AND m.legacy_id IN (SELECT r.legacy_id FROM pg_temp.incoming_read r)),
      rows AS MATERIALIZED (SELECT %s FROM pg_temp.incoming_rows)
    SELECT coalesce(jsonb_agg(c.legacy_id ORDER BY c.legacy_id), ''[]'') FROM (
      SELECT d.legacy_id FROM (TABLE rows EXCEPT TABLE stored) d
      UNION SELECT d.legacy_id FROM (TABLE stored EXCEPT TABLE rows) d) c',
    migration.compared(p_entity), array_to_string(migration.compared_columns(), ', ')) INTO result;
  RETURN result;
END $$;

-- Target ids of all merged rows: as deduplication decided in this run, else as they are.
CREATE FUNCTION migration_api.merged_rows(p_run text, p_entity text, p_after text, p_most bigint)
RETURNS TABLE (id text)
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT s.id::text FROM migration.survivors_of(p_run, p_entity) s
  WHERE p_after IS NULL OR s.id > p_after::uuid ORDER BY s.id LIMIT p_most
$$;

-- Rows that a merge in force changes, or that one did, as they are stored and as the merges in force make them; of
-- p_ids, NULL: of all. Of several merged rows the one written last comes first, as far as the source tells, then the
-- lower legacy id. Nothing is joined but by primary key: behind a load, statistics know of no merged row.
CREATE FUNCTION migration.settled(p_entity text, p_ids uuid[]) RETURNS TABLE (id uuid, stored jsonb, settled jsonb)
LANGUAGE plpgsql STABLE SET search_path = '' SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' AS $$
BEGIN
  RETURN QUERY EXECUTE format('
    WITH merged AS (
      SELECT m.survivor_id, jsonb_agg(
        jsonb_build_object(''legacy_id'', m.legacy_id, ''image'', to_jsonb(t) || migration.taken_back(t.metadata))
        ORDER BY t.updated_at DESC NULLS LAST, length(m.legacy_id), m.legacy_id) AS members
      FROM migration.id_map m JOIN public.%1$I t ON t.id = m.target_id
      WHERE m.entity = %2$L AND m.state = ''merged'' AND ($1 IS NULL OR m.survivor_id = ANY ($1))
      GROUP BY m.survivor_id),
    clusters AS MATERIALIZED (
      SELECT t.id, to_jsonb(t) || migration.taken_back(t.metadata) AS own, m.members
      FROM merged m JOIN public.%1$I t ON t.id = m.survivor_id),
    candidates AS (
      SELECT c.id, n.name, c.own -> n.name AS own, g.place, g.member -> ''legacy_id'' AS legacy_id,
        g.member -> ''image'' -> n.name AS value
      FROM clusters c CROSS JOIN LATERAL jsonb_array_elements(c.members) WITH ORDINALITY AS g (member, place)
      CROSS JOIN unnest($2) AS n (name) WHERE g.member -> ''image'' -> n.name <> ALL ($3)),
    decided AS (
      SELECT c.*, CASE WHEN c.own = ANY ($3)
        THEN first_value(c.value) OVER (PARTITION BY c.id, c.name ORDER BY c.place) ELSE c.own END AS final
      FROM candidates c),
    columns AS (
      SELECT d.id, d.name, d.own, d.final, d.own = ANY ($3) AS filled,
        (array_agg(d.legacy_id ORDER BY d.place))[1] AS source,
        jsonb_agg(jsonb_build_object(''legacy_id'', d.legacy_id, ''value'', d.value) ORDER BY d.place)
          FILTER (WHERE d.value <> d.final) AS conflicts
      FROM decided d GROUP BY d.id, d.name, d.own, d.final),
    results AS MATERIALIZED (
      SELECT c.id, coalesce(jsonb_object_agg(c.name, c.final) FILTER (WHERE c.filled), ''{}'') AS fills,
        jsonb_build_object(
          ''filled'', coalesce(jsonb_object_agg(c.name, c.source) FILTER (WHERE c.filled), ''{}''),
          ''conflicts'', coalesce(jsonb_object_agg(c.name, c.conflicts) FILTER (WHERE c.conflicts IS NOT NULL), ''{}''))
        || CASE WHEN bool_or(c.filled AND c.own <> ''null'') THEN jsonb_build_object(
          ''gaps'', jsonb_object_agg(c.name, c.own) FILTER (WHERE c.filled AND c.own <> ''null'')) ELSE ''{}'' END AS told
      FROM columns c WHERE c.filled OR c.conflicts IS NOT NULL GROUP BY c.id)
    SELECT t.id, to_jsonb(t), to_jsonb(t) || migration.taken_back(t.metadata) || r.fills
      || jsonb_build_object(''metadata'', (t.metadata - ''merged'') || jsonb_build_object(''merged'', r.told))
    FROM results r JOIN public.%1$I t USING (id)
    UNION ALL
    SELECT t.id, to_jsonb(t), to_jsonb(t) || migration.taken_back(t.metadata) FROM public.%1$I t
    WHERE t.metadata ? ''merged'' AND ($1 IS NULL OR t.id = ANY ($1)) AND t.id NOT IN (SELECT r.id FROM results r)',
    p_entity, p_entity) USING p_ids, migration.filled_columns(p_entity), migration.gaps();
END $$;

-- Makes survivors (of p_ids, NULL: all; but not p_but) what the merges in force make them, and writes those alone that are
-- not yet.
CREATE FUNCTION migration.settle(p_entity text, p_ids uuid[], p_but uuid[] DEFAULT '{}') RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET client_min_messages = warning
SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' AS $$
DECLARE
  written bigint;
  result jsonb;
BEGIN
  DROP TABLE IF EXISTS pg_temp.settled;
  CREATE TEMPORARY TABLE settled ON COMMIT DROP AS
  SELECT s.id, s.stored, s.settled, s.stored <> s.settled AS changed FROM migration.settled(p_entity, p_ids) s
  WHERE s.id <> ALL (p_but);
  ALTER TABLE pg_temp.settled ADD PRIMARY KEY (id);
  ANALYZE pg_temp.settled;
  UPDATE migration.merges g SET survivor_before = s.stored || migration.taken_back(s.stored -> 'metadata')
  FROM pg_temp.settled s WHERE g.entity = p_entity AND g.survivor_id = s.id AND g.undone_at IS NULL
    AND g.survivor_before IS NULL AND s.changed AND s.settled -> 'metadata' ? 'merged';
  EXECUTE format('UPDATE public.%I t SET %s FROM pg_temp.settled s
      CROSS JOIN LATERAL jsonb_populate_record(NULL::public.%I, s.settled) n WHERE t.id = s.id AND s.changed',
    p_entity, (SELECT string_agg(format('%1$I = n.%1$I', c), ', ') FROM migration.entities e
      CROSS JOIN LATERAL unnest(e.columns) AS c WHERE e.entity = p_entity), p_entity);
  GET DIAGNOSTICS written = ROW_COUNT;
  UPDATE migration.id_map m SET written_at = now() FROM pg_temp.settled s
  WHERE m.entity = p_entity AND m.target_id = s.id AND s.changed;
  SELECT jsonb_build_object('written', written,
    'survivors', (SELECT count(DISTINCT m.survivor_id) FROM migration.id_map m
      WHERE m.entity = p_entity AND m.state = 'merged' AND (p_ids IS NULL OR m.survivor_id = ANY (p_ids))),
    'filled', coalesce(sum((SELECT count(*) FROM jsonb_each(s.settled #> '{metadata,merged,filled}'))), 0),
    'conflicts', coalesce(sum((SELECT count(*) FROM jsonb_each(s.settled #> '{metadata,merged,conflicts}') c
      CROSS JOIN LATERAL jsonb_array_elements(c.value))), 0))
    INTO result FROM pg_temp.settled s;
  RETURN result;
END $$;

-- The same at the end of a run's loads; what somebody else wrote stays where that is wanted. Returns {survivors, filled, conflicts, written}: those there are, values in them
-- that came from merged rows, values of merged rows that differ and are kept, rows written now. A dry run has no rows to
-- fill from: it tells the survivors alone, and 0.
CREATE FUNCTION migration_api.settle_merges(p_run text, p_entity text, p_dry_run boolean) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET statement_timeout = '10min' AS $$
BEGIN
  PERFORM migration.hold_lock(p_run);
  IF p_dry_run THEN
    RETURN (SELECT jsonb_build_object('survivors', count(DISTINCT s.survivor_id), 'filled', 0, 'conflicts', 0, 'written', 0)
      FROM migration.survivors_of(p_run, p_entity) s);
  END IF;
  RETURN migration.settle(p_entity, NULL, ARRAY(SELECT d.target_id FROM migration.differences d
    WHERE d.run_id = p_run AND d.entity = p_entity AND d.foreign_write AND migration.keeps_foreign_writes(p_run)));
END $$;

-- To the end of the transaction no run opens; one that is under way has read what is to be changed here.
CREATE FUNCTION migration.keep_runs_out() RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  holder text;
BEGIN
  SELECT l.run_id INTO holder FROM migration.run_lock l;
  IF holder IS NULL THEN
    LOCK TABLE migration.run_lock IN SHARE ROW EXCLUSIVE MODE;
    SELECT l.run_id INTO holder FROM migration.run_lock l;
  END IF;
  IF holder IS NOT NULL THEN
    PERFORM migration.refuse('RUN_LOCKED', format('Run %s is under way.', holder));
  END IF;
END $$;

-- Leads the rows that refer to a merged row, and were led to its survivor, back to it; returns how many.
CREATE FUNCTION migration.lead_back(p_entity text, p_id uuid) RETURNS bigint
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  child record;
  moved bigint;
  total bigint := 0;
BEGIN
  FOR child IN SELECT e.entity, r.name FROM migration.entities e
      CROSS JOIN LATERAL jsonb_to_recordset(e.refs) AS r (name text, entity text)
      WHERE r.entity = p_entity AND e.entity <> p_entity LOOP
    EXECUTE format('WITH led AS (
        DELETE FROM migration.redirects r USING migration.id_map m
        WHERE r.entity = %1$L AND r."column" = %2$L AND r.original_id = $1
          AND m.entity = r.entity AND m.legacy_id = r.legacy_id RETURNING m.legacy_id, m.target_id),
      moved AS (UPDATE public.%3$I t SET %4$I = $1 FROM led WHERE t.id = led.target_id)
      UPDATE migration.id_map m SET written_at = now() FROM led WHERE m.entity = %1$L AND m.legacy_id = led.legacy_id',
      child.entity, child.name, child.entity, child.name) USING p_id;
    GET DIAGNOSTICS moved = ROW_COUNT;
    total := total + moved;
  END LOOP;
  RETURN total;
END $$;

-- Undoes the merge of one row: it is live again, what referred to it refers to it again, its survivor gives back what
-- came from it, and it is rejected as a duplicate of every row it was merged with, so that no later run merges it
-- again. Returns {survivor: legacy id, children, rejected: pairs}.
CREATE FUNCTION migration_api.unmerge(p_entity text, p_legacy_id text, p_by text, p_reason text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET statement_timeout = '10min' AS $$
DECLARE
  entry migration.id_map;
  survivor text;
  others text[];
  children bigint;
BEGIN
  PERFORM migration.refuse_unreviewed(p_entity);
  IF coalesce(p_by, '') !~ '\S' OR coalesce(p_reason, '') !~ '\S' THEN
    PERFORM migration.refuse('REVIEW_DECISION_INVALID', 'Nobody who decided, or no reason.');
  END IF;
  PERFORM migration.keep_runs_out();
  SELECT * INTO entry FROM migration.id_map m WHERE m.entity = p_entity AND m.legacy_id = p_legacy_id FOR UPDATE;
  IF entry.state IS DISTINCT FROM 'merged' THEN
    PERFORM migration.refuse('NOT_MERGED', format('Row %s is %s.', p_legacy_id, coalesce(entry.state, 'unknown')));
  END IF;
  SELECT array_agg(m.legacy_id ORDER BY length(m.legacy_id), m.legacy_id),
    min(m.legacy_id) FILTER (WHERE m.target_id = entry.survivor_id) INTO others, survivor
  FROM migration.id_map m WHERE m.entity = p_entity AND m.legacy_id <> p_legacy_id
    AND (m.target_id = entry.survivor_id OR m.survivor_id = entry.survivor_id);

  EXECUTE format('UPDATE public.%I t SET merged_into = NULL WHERE t.id = $1', p_entity) USING entry.target_id;
  UPDATE migration.id_map m SET state = 'live', survivor_id = NULL, written_at = now()
  WHERE m.entity = p_entity AND m.legacy_id = p_legacy_id;
  UPDATE migration.merges g SET undone_at = now() WHERE g.merged_id = entry.target_id AND g.undone_at IS NULL;
  -- Else a failed run that is taken up again would merge it once more.
  DELETE FROM migration.survivors s WHERE s.entity = p_entity AND s.id = entry.target_id;
  children := migration.lead_back(p_entity, entry.target_id);
  PERFORM migration.settle(p_entity, ARRAY[entry.survivor_id]);
  PERFORM migration.decide(p_entity, p_legacy_id, o.legacy_id, 'rejected', p_by, p_reason)
  FROM unnest(others) AS o (legacy_id);
  INSERT INTO migration.audit_log (event, details) VALUES ('merge undone', jsonb_build_object('entity', p_entity,
    'legacy_id', p_legacy_id, 'survivor', survivor, 'by', p_by, 'children', children));
  RETURN jsonb_build_object('survivor', survivor, 'children', children, 'rejected', cardinality(others));
END $$;

-- The same for several rows, all or none; an array of what unmerge returns.
CREATE FUNCTION migration_api.unmerge_rows(p_entity text, p_legacy_ids text[], p_by text, p_reason text) RETURNS jsonb
LANGUAGE sql SET search_path = '' SET statement_timeout = '10min' AS $$
  SELECT coalesce(jsonb_agg(migration_api.unmerge(p_entity, i.legacy_id, p_by, p_reason)), '[]')
  FROM unnest(p_legacy_ids) AS i (legacy_id)
$$;

SELECT migration.secure();

INSERT INTO migration.schema_versions (name) VALUES ('migration/0011_merging.sql');
