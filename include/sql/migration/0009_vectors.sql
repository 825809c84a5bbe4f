-- Documents of live rows and their vectors. Which table keeps them and what a document is made of stands in
-- migration.entities.

-- The rows t, with their id map entries m, that have a document: of a range of legacy keys, and written since a moment
-- or referring to a row that was, for a document may read what its row refers to. Merged and deleted rows have none.
CREATE FUNCTION migration.documented(p_entity text, p_low bigint, p_high bigint, p_since text) RETURNS text
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT format('migration.id_map m JOIN public.%I t ON t.id = m.target_id
      WHERE m.entity = %L AND m.state = ''live'' AND t.deleted_at IS NULL', p_entity, p_entity)
    || coalesce(format(' AND t.%I >= ', e.columns[1]) || p_low, '')
    || coalesce(format(' AND t.%I < ', e.columns[1]) || p_high, '')
    || CASE WHEN p_since IS NULL THEN '' ELSE format(
      ' AND (m.written_at >= %1$L OR ARRAY[%2$s]::uuid[] && ARRAY(SELECT p.target_id FROM migration.id_map p
         WHERE p.entity = ANY (%3$L) AND p.written_at >= %1$L))', p_since,
      (SELECT string_agg(format('t.%I', r.name), ', ') FROM jsonb_to_recordset(e.refs) AS r (name text)),
      ARRAY(SELECT DISTINCT r.entity FROM jsonb_to_recordset(e.refs) AS r (entity text) ORDER BY 1)) END
  FROM migration.entities e WHERE e.entity = p_entity AND e.vectors IS NOT NULL
$$;

-- Cuts the documents into chunks of p_rows, in the order of their legacy ids; returns the last legacy id of each.
CREATE FUNCTION migration_api.document_chunks(
  p_entity text, p_low bigint, p_high bigint, p_since text, p_rows bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = '' SET statement_timeout = '10min' AS $$
DECLARE
  result jsonb;
BEGIN
  EXECUTE format('SELECT coalesce(jsonb_agg(d.legacy_id ORDER BY d.place), ''[]'') FROM (
      SELECT m.legacy_id, row_number() OVER (ORDER BY m.legacy_id) AS place, count(*) OVER () AS number FROM %s) d
    WHERE d.place %% $1 = 0 OR d.place = d.number', migration.documented(p_entity, p_low, p_high, p_since))
  INTO result USING p_rows;
  RETURN result;
END $$;

-- One such chunk, behind p_behind (NULL: from the start) up to p_until; document is JSON.
CREATE FUNCTION migration_api.documents(p_entity text, p_low bigint, p_high bigint, p_since text, p_behind text,
  p_until text, p_after text, p_most bigint) RETURNS TABLE (legacy_id text, document text)
LANGUAGE plpgsql STABLE SET search_path = '' SET TimeZone = 'UTC' AS $$
DECLARE
  vectors jsonb;
BEGIN
  SELECT e.vectors INTO STRICT vectors FROM migration.entities e WHERE e.entity = p_entity;
  RETURN QUERY EXECUTE format('SELECT m.legacy_id, to_jsonb(d)::text FROM (
      SELECT m.legacy_id, m.target_id FROM %s AND m.legacy_id <= %L%s) m
    JOIN (%s) d ON d.id = m.target_id ORDER BY m.legacy_id',
    migration.documented(p_entity, p_low, p_high, p_since), p_until,
    migration.page(greatest(p_behind COLLATE "C", p_after), p_most), vectors ->> 'documents');
END $$;

-- Those of the ids that have no vector of the content yet.
CREATE FUNCTION migration_api.lacking(p_entity text, p_ids text[], p_hashes text[]) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
DECLARE
  vectors jsonb;
  result jsonb;
BEGIN
  SELECT e.vectors INTO STRICT vectors FROM migration.entities e WHERE e.entity = p_entity;
  EXECUTE format('SELECT coalesce(jsonb_agg(d.id), ''[]'') FROM unnest($1::uuid[], $2) AS d (id, hash)
    WHERE NOT EXISTS (SELECT 1 FROM public.%I v
      WHERE v.%I = d.id AND v.content_hash = d.hash AND v.content_type::text = $3)',
    vectors ->> 'table', vectors ->> 'owner') INTO result USING p_ids, p_hashes, vectors ->> 'content_type';
  RETURN result;
END $$;

-- Contents that some row already has a vector of.
CREATE FUNCTION migration_api.known_hashes(p_entity text, p_hashes text[]) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
DECLARE
  result jsonb;
BEGIN
  EXECUTE format('SELECT coalesce(jsonb_agg(DISTINCT v.content_hash), ''[]'') FROM public.%I v
    WHERE v.content_hash = ANY ($1)', (SELECT e.vectors ->> 'table' FROM migration.entities e WHERE e.entity = p_entity))
  INTO result USING p_hashes;
  RETURN result;
END $$;

-- Gives incoming_documents (vector_id, id, hash, text) their vectors: those of incoming_fresh (hash, embedding), or
-- that of an equal text.
CREATE FUNCTION migration_api.store_vectors(p_run text, p_entity text, p_model text, p_dimensions bigint) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  vectors jsonb;
BEGIN
  PERFORM migration.hold_lock(p_run);
  SELECT e.vectors INTO STRICT vectors FROM migration.entities e WHERE e.entity = p_entity;
  EXECUTE format('INSERT INTO public.%1$I AS v
      (id, %2$I, content_type, content_hash, model, dimensions, embedding, content_text)
    SELECT d.vector_id::uuid, d.id::uuid, %3$L, d.hash, $1, $2,
      coalesce(f.embedding::extensions.vector, k.embedding), d.text
    FROM pg_temp.incoming_documents d LEFT JOIN pg_temp.incoming_fresh f USING (hash)
    LEFT JOIN LATERAL (SELECT e.embedding FROM public.%1$I e WHERE e.content_hash = d.hash LIMIT 1) k
      ON f.hash IS NULL
    ON CONFLICT (id) DO UPDATE SET content_hash = excluded.content_hash, model = excluded.model,
      dimensions = excluded.dimensions, embedding = excluded.embedding, content_text = excluded.content_text,
      created_at = now()', vectors ->> 'table', vectors ->> 'owner', vectors ->> 'content_type')
  USING p_model, p_dimensions::integer;
END $$;

-- All documents of rows written before this moment have a vector of this model; NULL: nobody knows.
CREATE FUNCTION migration_api.complete_since(p_entity text, p_model text) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
DECLARE
  vectors_table constant text := (SELECT e.vectors ->> 'table' FROM migration.entities e WHERE e.entity = p_entity);
  result jsonb;
BEGIN
  EXECUTE format('SELECT to_jsonb(w.recorded_at) FROM migration.watermarks w WHERE w.name = %L
    AND NOT EXISTS (SELECT 1 FROM public.%I v WHERE v.model <> $1)', vectors_table, vectors_table)
  INTO result USING p_model;
  RETURN result;
END $$;

-- Every document that was there when this run began to read them has its vector now.
CREATE FUNCTION migration_api.remember_complete(p_run text, p_entity text) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  PERFORM migration.hold_lock(p_run);
  INSERT INTO migration.watermarks (name, run_id, recorded_at)
  SELECT e.vectors ->> 'table', p_run, coalesce((
    SELECT min(b.recorded_at - make_interval(secs => b.seconds)) FROM migration.batches b
    WHERE b.run_id = p_run AND b.entity = p_entity AND b.phase = 'ai_enhancement'), now())
  FROM migration.entities e WHERE e.entity = p_entity
  ON CONFLICT (name) DO UPDATE SET run_id = excluded.run_id, recorded_at = excluded.recorded_at;
END $$;

-- Builds the HNSW index if it is not there; returns whether it was built. By the owner of the table, for nobody else
-- may: what is indexed is what was registered on deployment.
CREATE FUNCTION migration_api.build_index(p_entity text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' SET statement_timeout = '10min'
SET maintenance_work_mem = '256MB' AS $$
DECLARE
  vectors_table text;
BEGIN
  SELECT e.vectors ->> 'table' INTO STRICT vectors_table FROM migration.entities e
  WHERE e.entity = p_entity AND e.vectors IS NOT NULL;
  IF to_regclass(format('public.%I', vectors_table || '_hnsw')) IS NOT NULL THEN
    RETURN 'false';
  END IF;
  EXECUTE format('CREATE INDEX %I ON public.%I USING hnsw (embedding extensions.vector_cosine_ops)',
    vectors_table || '_hnsw', vectors_table);
  RETURN 'true';
END $$;

SELECT migration.secure();

INSERT INTO migration.schema_versions (name) VALUES ('migration/0009_vectors.sql');
