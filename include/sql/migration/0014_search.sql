-- Searching by meaning, for python -m plugins.search: the rows whose documents are nearest to a vector.

-- Models of some of an entity's vectors, the one of most first: all are of one model but while they are made anew.
CREATE FUNCTION migration_api.stored_models(p_entity text) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
DECLARE
  result jsonb;
BEGIN
  EXECUTE format('SELECT coalesce(jsonb_agg(to_jsonb(m) ORDER BY m.vectors DESC, m.model), ''[]'') FROM (
      SELECT v.model, v.dimensions, count(*) AS vectors
      FROM (SELECT v.model, v.dimensions FROM public.%I v LIMIT 1000) v GROUP BY v.model, v.dimensions) m',
    (SELECT e.vectors ->> 'table' FROM migration.entities e WHERE e.entity = p_entity)) INTO result;
  RETURN result;
END $$;

-- By the search function that applications call; only of the model the question was embedded with.
CREATE FUNCTION migration_api.search(
  p_entity text, p_query text, p_model text, p_count bigint, p_threshold double precision) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
DECLARE
  place record;
  result jsonb;
BEGIN
  SELECT v.*, e.columns[1] AS key INTO STRICT place
  FROM migration.vector_tables() v JOIN migration.entities e ON e.entity = v.parent WHERE v.parent = p_entity;
  EXECUTE format('SELECT coalesce(jsonb_agg(to_jsonb(f) ORDER BY f.similarity DESC, f.legacy_id), ''[]'') FROM (
      SELECT n.similarity, t.id, t.%1$I::text AS legacy_id, v.content_text AS text
      FROM public.%2$I($1::extensions.vector, $2::integer, $3) n
      JOIN public.%3$I v USING (%4$I) JOIN public.%5$I t ON t.id = n.%4$I WHERE v.model = $4) f',
    place.key, place.search, place.vectors, place.owner, place.parent)
  INTO result USING p_query, p_count, p_threshold, p_model;
  RETURN result;
END $$;

SELECT migration.secure();

INSERT INTO migration.schema_versions (name) VALUES ('migration/0014_search.sql');
