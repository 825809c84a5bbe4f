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

-- One such chunk, behind p_behind (NULL: from the start) up to p_until; document is JSON, with what people wrote if asked.
CREATE FUNCTION migration_api.documents(p_entity text, p_low bigint, p_high bigint, p_since text, p_behind text,
  p_until text, p_free_text boolean, p_after text, p_most bigint) RETURNS TABLE (legacy_id text, document text)
LANGUAGE plpgsql STABLE SET search_path = '' SET TimeZone = 'UTC' AS $$
DECLARE
  vectors jsonb;
BEGIN
  SELECT e.vectors INTO STRICT vectors FROM migration.entities e WHERE e.entity = p_entity;
  RETURN QUERY EXECUTE format('SELECT m.legacy_id, to_jsonb(d)::text FROM (
      SELECT m.legacy_id, m.target_id FROM %s AND m.legacy_id <= %L%s) m
    JOIN (%s) d ON d.id = m.target_id ORDER BY m.legacy_id',
    migration.documented(p_entity, p_low, p_high, p_since), p_until,
    migration.page(greatest(p_behind COLLATE "C", p_after), p_most),
    vectors ->> CASE WHEN p_free_text THEN 'documents_with_free_text' ELSE 'documents' END);
END $$;

-- Words that are part of anybody's name, in lower case.
CREATE FUNCTION migration_api.known_names(p_after text, p_most bigint) RETURNS TABLE (name text)
LANGUAGE plpgsql STABLE SET search_path = '' SET statement_timeout = '10min' AS $$
BEGIN
  RETURN QUERY SELECT w.word FROM (
    SELECT DISTINCT lower(s.word) COLLATE "C" AS word
    FROM (SELECT t.first_name, t.last_name FROM public.patients t
      UNION ALL SELECT t.first_name, t.last_name FROM public.profiles t) p
    CROSS JOIN LATERAL regexp_split_to_table(concat_ws(' ', p.first_name, p.last_name), '\s+') s (word)) w
  WHERE w.word <> '' AND (p_after IS NULL OR w.word > p_after COLLATE "C") ORDER BY w.word LIMIT p_most;
END $$;

-- Columns of rows as JSON of their texts, for documents of rows that are not in the target yet.
CREATE FUNCTION migration_api.stored_columns(
  p_entity text, p_columns text[], p_ids text[], p_after text, p_most bigint) RETURNS TABLE (id text, "row" text)
LANGUAGE plpgsql STABLE SET search_path = '' SET TimeZone = 'UTC' AS $$
DECLARE
  members text;
BEGIN
  IF NOT EXISTS (SELECT FROM migration.entities e WHERE e.entity = p_entity AND p_columns <@ e.columns) THEN
    RAISE EXCEPTION 'unknown entity or column' USING ERRCODE = 'undefined_column';
  END IF;
  SELECT string_agg(format('%L, CASE WHEN t.%I IS NOT NULL THEN format(''%%s'', t.%I) END', c, c, c), ', ')
    INTO members FROM unnest(p_columns) AS c;
  RETURN QUERY EXECUTE format('SELECT t.id::text, jsonb_build_object(%s)::text FROM public.%I t
    WHERE t.id = ANY ($1::uuid[]) AND ($2 IS NULL OR t.id > $2::uuid) ORDER BY t.id LIMIT $3', members, p_entity)
  USING p_ids, p_after, p_most;
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

-- Gives incoming_documents (vector_id, id, legacy_id, hash, text, shortened) their vectors: those of incoming_fresh
-- (hash, embedding), or that of an equal text. Rows that are live no more get none; a vector that is there already is
-- not written again. What had been refused by the provider is over with that. Until this run says that all is
-- complete, nobody knows. Returns how many were written.
CREATE FUNCTION migration_api.store_vectors(p_run text, p_entity text, p_model text, p_dimensions bigint) RETURNS bigint
LANGUAGE plpgsql SET search_path = '' SET statement_timeout = '10min' SET work_mem = '64MB' AS $$
DECLARE
  vectors jsonb;
  contents text;
  found_by text;
  part bigint;
  written bigint := 0;
BEGIN
  PERFORM migration.hold_lock(p_run);
  SELECT e.vectors INTO STRICT vectors FROM migration.entities e WHERE e.entity = p_entity;
  DELETE FROM migration.watermarks w WHERE w.name = vectors ->> 'table';
  ANALYZE pg_temp.incoming_documents (hash, legacy_id), pg_temp.incoming_fresh (hash);
  -- Apart, so that the second is planned for a table that holds what the first has written.
  FOREACH found_by IN ARRAY ARRAY[
    'JOIN pg_temp.incoming_fresh k USING (hash)',
    format('LEFT JOIN LATERAL (SELECT e.embedding FROM public.%I e WHERE e.content_hash = d.hash LIMIT 1) k ON true
      WHERE NOT EXISTS (SELECT 1 FROM pg_temp.incoming_fresh f WHERE f.hash = d.hash)', vectors ->> 'table')]
  LOOP
    EXECUTE format('INSERT INTO public.%1$I AS v
        (id, %2$I, content_type, content_hash, model, dimensions, embedding, content_text, metadata)
      SELECT d.vector_id::uuid, d.id::uuid, %3$L, d.hash, $1, $2, k.embedding, d.text,
        CASE WHEN d.shortened = ''t'' THEN ''{"shortened": true}''::jsonb ELSE ''{}'' END
      FROM pg_temp.incoming_documents d
      JOIN migration.id_map m ON m.entity = %4$L AND m.legacy_id = d.legacy_id AND m.state = ''live''
      %5$s
      ON CONFLICT (id) DO UPDATE SET content_hash = excluded.content_hash, model = excluded.model,
        dimensions = excluded.dimensions, embedding = excluded.embedding, content_text = excluded.content_text,
        metadata = v.metadata - ''shortened'' || excluded.metadata, created_at = now()
        -- The hash covers text, model and dimensions.
        WHERE (v.content_hash, v.content_text) IS DISTINCT FROM (excluded.content_hash, excluded.content_text)',
      vectors ->> 'table', vectors ->> 'owner', vectors ->> 'content_type', p_entity, found_by)
    USING p_model, p_dimensions::integer;
    GET DIAGNOSTICS part = ROW_COUNT;
    written := written + part;
  END LOOP;
  SELECT t.contents INTO STRICT contents FROM migration.vector_tables() AS t (v, o, p, s, contents) WHERE t.v = vectors ->> 'table';
  -- Once the index is there it is kept up to date; before, it is built faster of all at once.
  IF to_regclass(format('migration.%I', contents || '_hnsw')) IS NOT NULL THEN
    EXECUTE format('INSERT INTO migration.%I (content_hash, embedding) SELECT f.hash, f.embedding
      FROM pg_temp.incoming_fresh f ON CONFLICT DO NOTHING', contents);
  END IF;
  UPDATE migration.embedding_quarantine q SET resolved_run_id = p_run FROM pg_temp.incoming_documents d
  WHERE q.entity = p_entity AND q.legacy_id = d.legacy_id AND q.resolved_run_id IS NULL;
  RETURN written;
END $$;

-- The provider refuses the texts of incoming_documents (id, legacy_id, hash, code): they are not sent again. A vector
-- of an earlier text of theirs goes, for it says what is no more. Each row is there once while open.
CREATE FUNCTION migration_api.quarantine_embeddings(p_run text, p_entity text, p_model text) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  vectors jsonb;
BEGIN
  PERFORM migration.hold_lock(p_run);
  SELECT e.vectors INTO STRICT vectors FROM migration.entities e WHERE e.entity = p_entity;
  INSERT INTO migration.embedding_quarantine AS q (entity, legacy_id, hash, model, code, run_id)
  SELECT p_entity, d.legacy_id, d.hash, p_model, d.code, p_run FROM pg_temp.incoming_documents d
  ON CONFLICT (entity, legacy_id) WHERE resolved_run_id IS NULL DO UPDATE SET hash = excluded.hash,
    model = excluded.model, code = excluded.code, run_id = excluded.run_id, recorded_at = now()
    WHERE (q.hash, q.code) IS DISTINCT FROM (excluded.hash, excluded.code);
  EXECUTE format('DELETE FROM public.%I v USING pg_temp.incoming_documents d
    WHERE v.%I = d.id::uuid AND v.content_hash <> d.hash', vectors ->> 'table', vectors ->> 'owner');
END $$;

-- {hash: code} of those that the provider refused.
CREATE FUNCTION migration_api.quarantined_hashes(p_entity text, p_hashes text[]) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT coalesce(jsonb_object_agg(q.hash, q.code), '{}')
  FROM migration.embedding_quarantine q
  WHERE q.entity = p_entity AND q.resolved_run_id IS NULL AND q.hash = ANY (p_hashes)
$$;

-- Every document of a row written before this moment has a vector made by this recipe (a digest of all that decides
-- what is embedded how), or is in quarantine; NULL: nobody knows.
CREATE FUNCTION migration_api.complete_since(p_entity text, p_recipe text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT to_jsonb(w.recorded_at) FROM migration.watermarks w JOIN migration.entities e ON w.name = e.vectors ->> 'table'
  WHERE e.entity = p_entity AND w.recipe = p_recipe
$$;

-- Every document that was there when this run began to read them has its vector now, or is in quarantine.
CREATE FUNCTION migration_api.remember_complete(p_run text, p_entity text, p_recipe text) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  PERFORM migration.hold_lock(p_run);
  INSERT INTO migration.watermarks (name, run_id, recipe, recorded_at)
  SELECT e.vectors ->> 'table', p_run, p_recipe, coalesce((
    SELECT min(b.recorded_at - make_interval(secs => b.seconds)) FROM migration.batches b
    WHERE b.run_id = p_run AND b.entity = p_entity AND b.phase = 'ai_enhancement'), now())
  FROM migration.entities e WHERE e.entity = p_entity
  ON CONFLICT (name) DO UPDATE SET run_id = excluded.run_id, recipe = excluded.recipe,
    recorded_at = excluded.recorded_at;
END $$;

-- Brings the search up to date: 'built' (its HNSW index was not there), 'exists', or 'too_many_dimensions' (pgvector
-- indexes up to 4,000; every search compares with all). By the owner of the tables, for nobody else may: what is
-- indexed is what was registered on deployment.
CREATE FUNCTION migration_api.build_index(p_entity text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' SET statement_timeout = '10min'
SET maintenance_work_mem = '256MB' AS $$
DECLARE
  place record;
BEGIN
  SELECT t.* INTO STRICT place FROM migration.entities e JOIN migration.vector_tables() t ON t.vectors = e.vectors ->> 'table'
  WHERE e.entity = p_entity;
  IF migration.vector_dimensions() > 4000 THEN
    RETURN '"too_many_dimensions"';
  END IF;
  PERFORM migration.refresh_contents(place.vectors);
  EXECUTE format('ANALYZE public.%I, migration.%I', place.vectors, place.contents);
  IF to_regclass(format('migration.%I', place.contents || '_hnsw')) IS NOT NULL THEN
    RETURN '"exists"';
  END IF;
  EXECUTE format('CREATE INDEX %I ON migration.%I USING hnsw (embedding extensions.halfvec_cosine_ops)',
    place.contents || '_hnsw', place.contents);
  RETURN '"built"';
END $$;

SELECT migration.secure();

INSERT INTO migration.schema_versions (name) VALUES ('migration/0009_vectors.sql');
