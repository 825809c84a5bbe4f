-- What a run knows before it moves rows, and decides for its later steps: what is deployed, which source it reads,
-- which rows it takes up, its plans, its notes, and which rows are the same thing.

-- As the entity files declare it: {schema_versions: {name: hash}, entities: {…}, finding_kinds: {…}}. For whoever
-- deploys; the tool calls it over a direct connection, the Supabase CLI runs a file that does.
CREATE FUNCTION migration.register(p_registration jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  changed record;
BEGIN
  FOR changed IN SELECT r AS new_spec FROM migration.entities e JOIN jsonb_each(p_registration -> 'entities') n ON n.key = e.entity
      CROSS JOIN LATERAL jsonb_populate_record(NULL::migration.entities, n.value || jsonb_build_object('entity', n.key)) r
      WHERE (r.columns, r.refs, r.merge_rules) IS DISTINCT FROM (e.columns, e.refs, e.merge_rules) LOOP
    PERFORM migration.digest_otherwise(changed.new_spec);
  END LOOP;
  INSERT INTO migration.finding_kinds (code, reason, how_to_fix)
  SELECT k.key, k.value ->> 'reason', k.value ->> 'how_to_fix' FROM jsonb_each(p_registration -> 'finding_kinds') k
  ON CONFLICT (code) DO UPDATE SET reason = excluded.reason, how_to_fix = excluded.how_to_fix;
  INSERT INTO migration.entities (entity, columns, refs, enums, checks, vectors, merge_rules)
  SELECT e.key, r.columns, r.refs, r.enums, r.checks, r.vectors, r.merge_rules
  FROM jsonb_each(p_registration -> 'entities') e, jsonb_populate_record(NULL::migration.entities, e.value) r
  ON CONFLICT (entity) DO UPDATE SET columns = excluded.columns, refs = excluded.refs, enums = excluded.enums,
    checks = excluded.checks, vectors = excluded.vectors, merge_rules = excluded.merge_rules;
END $$;

-- What was registered, and the dimensions of the vectors.
CREATE FUNCTION migration_api.deployed() RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT jsonb_build_object(
    'schema_versions', (SELECT jsonb_object_agg(v.name, v.hash) FROM migration.schema_versions v),
    'entities', (SELECT coalesce(jsonb_object_agg(e.entity, to_jsonb(e) - 'entity'), '{}') FROM migration.entities e),
    'finding_kinds', (SELECT coalesce(jsonb_object_agg(k.code, to_jsonb(k) - 'code'), '{}')
      FROM migration.finding_kinds k),
    'dimensions', (SELECT a.atttypmod FROM pg_catalog.pg_attribute a
      WHERE a.attrelid = to_regclass('public.project_embeddings') AND a.attname = 'embedding'))
$$;

-- ANALYZE behind a bulk load: autovacuum comes too late, and plans made for empty tables are slow. By the owner, for
-- nobody else may.
CREATE FUNCTION migration_api.refresh_statistics(p_entity text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' SET statement_timeout = '10min' SET default_statistics_target = 20 AS $$
BEGIN
  PERFORM FROM migration.entities e WHERE e.entity = p_entity;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'unknown entity' USING ERRCODE = 'undefined_object';
  END IF;
  EXECUTE format('ANALYZE public.%I, migration.id_map, migration.quarantine, migration.findings, migration.files,
    migration.planned_ids', p_entity);
END $$;

-- What the last complete run and all later ones took the source for, oldest first. The last complete run compared
-- every row, so what was seen before it no longer matters. Dry runs store no row versions.
CREATE FUNCTION migration_api.source_identities() RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT coalesce(jsonb_agg(r.source_identity ORDER BY r.started_at, r.run_id), '[]') FROM migration.runs r
  WHERE NOT r.dry_run AND jsonb_typeof(r.source_identity) = 'object' AND r.started_at >= coalesce(
    (SELECT c.started_at FROM migration.watermarks w JOIN migration.runs c USING (run_id) WHERE w.name = 'source'),
    '-infinity')
$$;

-- Versions of the last complete run, and whether nothing may have been loaded since; NULL: there was none.
CREATE FUNCTION migration_api.last_complete_run() RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT jsonb_build_object('run_id', w.run_id, 'horizon', w.horizon, 'mapping_version', c.mapping_version, 'rules_version', c.rules_version,
    'code_version', c.code_version, 'undisturbed', NOT EXISTS (
      SELECT 1 FROM migration.runs r WHERE NOT r.dry_run AND r.status = 'failed' AND r.started_at >= c.started_at))
  FROM migration.watermarks w JOIN migration.runs c USING (run_id) WHERE w.name = 'source'
$$;

CREATE FUNCTION migration_api.loaded_entities() RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT coalesce(jsonb_agg(e.entity ORDER BY e.entity), '[]') FROM migration.entities e
  WHERE EXISTS (SELECT 1 FROM migration.id_map m WHERE m.entity = e.entity)
$$;

CREATE FUNCTION migration_api.run_scope(p_run text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT to_jsonb(r.scope) FROM migration.runs r WHERE r.run_id = p_run
$$;

-- Compares the rows of the source, incoming_row_versions (legacy_id, partition_key, version), with those of the target.
-- Returns {rows, known, gone: [legacy id], selected, keys: [partition key]}: rows that the source has, that the target
-- knows and has not marked as deleted, that are gone from the source, and that are to be taken up; keys each once.
CREATE FUNCTION migration_api.select_rows(p_entity text, p_scope text, p_versions jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  mapping constant text := p_versions ->> 'mapping';
  rules constant text := p_versions ->> 'rules';
  result jsonb;
BEGIN
  ANALYZE pg_temp.incoming_row_versions;
  SELECT jsonb_build_object('rows', count(*), 'known', (
    SELECT count(*) FROM migration.id_map m WHERE m.entity = p_entity AND m.state <> 'deleted'))
    INTO result FROM pg_temp.incoming_row_versions;
  IF p_scope = 'quarantine' THEN
    result := result || '{"gone": []}';
  ELSE
    result := result || (SELECT jsonb_build_object('gone', coalesce(jsonb_agg(g.legacy_id), '[]')) FROM (
      SELECT m.legacy_id FROM migration.id_map m WHERE m.entity = p_entity AND m.state <> 'deleted'
        AND NOT EXISTS (SELECT 1 FROM pg_temp.incoming_row_versions n WHERE n.legacy_id = m.legacy_id)
      UNION SELECT q.legacy_id FROM migration.quarantine q WHERE q.entity = p_entity AND q.status = 'open'
        AND NOT EXISTS (SELECT 1 FROM pg_temp.incoming_row_versions n WHERE n.legacy_id = q.legacy_id)) g);
  END IF;
  IF p_scope = 'everything' THEN
    RETURN result || jsonb_build_object('selected', result -> 'rows', 'keys', '[]'::jsonb);
  END IF;
  -- Rows that wait in quarantine; of changes also those that are new, are back, were written since, or were
  -- transformed by other rules.
  WITH selected AS MATERIALIZED (
    SELECT n.partition_key::bigint AS key FROM pg_temp.incoming_row_versions n
    LEFT JOIN migration.id_map m ON m.entity = p_entity AND m.legacy_id = n.legacy_id
    LEFT JOIN migration.quarantine q ON q.entity = p_entity AND q.status = 'open' AND q.legacy_id = n.legacy_id
    WHERE q.id IS NOT NULL OR (p_scope = 'changes' AND (m.state IS NULL OR m.state NOT IN ('live', 'merged')
      OR (m.source_version, m.mapping_version, m.rules_version)
        IS DISTINCT FROM (n.version::uuid, mapping, rules))))
  SELECT result || jsonb_build_object('selected', (SELECT count(*) FROM selected),
    'keys', (SELECT coalesce(jsonb_agg(d.key ORDER BY d.key), '[]') FROM (SELECT DISTINCT s.key FROM selected s) d))
    INTO result;
  RETURN result;
END $$;

CREATE FUNCTION migration_api.find_plan(p_run text, p_entity text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT p.partitions FROM migration.plans p WHERE p.run_id = p_run AND p.entity = p_entity
$$;

-- Keeps {partitions, source_rows, selected_rows, gone_rows}; the first plan stays. Returns the partitions that count.
CREATE FUNCTION migration_api.record_plan(p_run text, p_entity text, p_plan jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  PERFORM migration.hold_lock(p_run);
  INSERT INTO migration.plans (run_id, entity, source_rows, selected_rows, gone_rows, partitions)
  SELECT p_run, p_entity, p.source_rows, p.selected_rows, p.gone_rows, p.partitions
  FROM jsonb_populate_record(NULL::migration.plans, p_plan) p ON CONFLICT DO NOTHING;
  RETURN migration_api.find_plan(p_run, p_entity);
END $$;

-- Entity to the number of rows that the source has.
CREATE FUNCTION migration_api.source_rows(p_run text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT coalesce(jsonb_object_agg(p.entity, p.source_rows), '{}') FROM migration.plans p WHERE p.run_id = p_run
$$;

-- A note about the same subject is replaced.
CREATE FUNCTION migration_api.record_note(p_run text, p_code text, p_subject text, p_facts jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  PERFORM migration.hold_lock(p_run);
  INSERT INTO migration.run_notes AS n (run_id, code, subject, facts) VALUES (p_run, p_code, p_subject, p_facts)
  ON CONFLICT (run_id, code, subject) DO UPDATE SET facts = excluded.facts WHERE n.facts <> excluded.facts;
END $$;

-- [{code, facts}], in the order they were first made.
CREATE FUNCTION migration_api.notes(p_run text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT coalesce(jsonb_agg(jsonb_build_object('code', n.code, 'facts', n.facts) ORDER BY n.id), '[]')
  FROM migration.run_notes n WHERE n.run_id = p_run
$$;

-- The end of a query for one page of rows m, in the order of their legacy ids; NULL: from the start, without an end.
CREATE FUNCTION migration.page(p_after text, p_most bigint) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = '' AS $$
  SELECT coalesce(' AND m.legacy_id > ' || quote_literal(p_after), '') || ' ORDER BY m.legacy_id'
    || coalesce(' LIMIT ' || p_most, '')
$$;

SELECT migration.secure();

INSERT INTO migration.schema_versions (name) VALUES ('migration/0007_selection.sql');
