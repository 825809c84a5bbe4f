-- Vectors, and searching by them. The number of dimensions stands in the columns' types: 1536, or what the session
-- sets in mdw.dimensions; migration.fit_vectors changes it as long as there are no vectors.
--
-- Documents are short and thousands are equal, which an index of vectors (HNSW) cannot bear: equal ones are each other's
-- only neighbours, and hide what is beside them (recall@10 fell to 0.4). So each content is indexed once, in a table
-- of its own, and leads to the rows that have it. It is built by the migration after the bulk load (four to six times
-- faster than before it).
CREATE SCHEMA IF NOT EXISTS private;

-- Each table of vectors, the column that refers to what a vector stands for, that one's table, the search, and the
-- table of the distinct contents.
CREATE FUNCTION migration.vector_tables()
RETURNS TABLE (vectors text, owner text, parent text, search text, contents text)
LANGUAGE sql IMMUTABLE SET search_path = '' AS $$
  VALUES ('project_embeddings', 'project_id', 'projects', 'match_projects', 'project_contents'),
    ('case_embeddings', 'case_id', 'cases', 'match_cases', 'case_contents'),
    ('patient_embeddings', 'patient_id', 'patients', 'match_patients', 'patient_contents'),
    ('workflow_template_embeddings', 'workflow_template_task_id', 'workflow_template_tasks', 'match_workflow_templates',
      'workflow_template_contents')
$$;

CREATE FUNCTION migration.vector_dimensions() RETURNS integer
LANGUAGE sql STABLE SET search_path = '' AS $$
  SELECT a.atttypmod FROM pg_catalog.pg_attribute a
  WHERE a.attrelid = to_regclass('public.project_embeddings') AND a.attname = 'embedding'
$$;

-- Columns, and the searches made for them, of this many dimensions. Only for tables without vectors. p_first: a search
-- that is there already is somebody else's, and refuses.
CREATE FUNCTION migration.fit_vectors(p_dimensions integer, p_first boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  place record;
  creating constant text := CASE WHEN p_first THEN 'CREATE FUNCTION' ELSE 'CREATE OR REPLACE FUNCTION' END;
  settings text := 'SET hnsw.ef_search = 100';
BEGIN
  -- Settings of pgvector are known once a vector was made. Before 0.8 an index yields no more than ef_search.
  PERFORM '[1]'::extensions.vector;
  IF current_setting('hnsw.iterative_scan', true) IS NOT NULL THEN
    settings := settings || ' SET hnsw.iterative_scan = ''relaxed_order''';
  END IF;
  FOR place IN SELECT * FROM migration.vector_tables() LOOP
    EXECUTE format('DROP INDEX IF EXISTS migration.%I', place.contents || '_hnsw');
    EXECUTE format('ALTER TABLE public.%I ALTER COLUMN embedding TYPE extensions.vector(%s),
      ALTER COLUMN embedding SET STORAGE %s', place.vectors, p_dimensions, migration.vector_storage(p_dimensions));
    EXECUTE format('TRUNCATE migration.%I', place.contents);
    EXECUTE format('ALTER TABLE migration.%I ALTER COLUMN embedding TYPE extensions.halfvec(%s),
      ALTER COLUMN embedding SET STORAGE %s', place.contents, p_dimensions, migration.vector_storage(p_dimensions / 2));
    -- Security definer: contents belong to nobody. Whose rows they lead to is for the policies of these. The direction
    -- of the query is what counts, and a long one would not fit half precision. Plans are made for what is asked for:
    -- with an unknown count the index looks dear.
    EXECUTE creating || format(
      ' private.%1$I(query extensions.vector, count bigint) RETURNS text[]
       LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = '''' SET plan_cache_mode = force_custom_plan %2$s AS $near$
       BEGIN
         IF to_regclass(%3$L) IS NULL THEN
           RETURN NULL;
         END IF;
         RETURN ARRAY(SELECT c.content_hash FROM migration.%4$I c
           ORDER BY c.embedding OPERATOR(extensions.<=>) extensions.l2_normalize(query)::extensions.halfvec(%5$s)
           LIMIT count);
       END $near$', 'nearest_' || place.contents, settings, 'migration.' || place.contents || '_hnsw', place.contents,
      p_dimensions);
    -- Asks for more contents as long as they have too few rows that whoever asks may see, and puts rows in their exact
    -- order. Without an index all are compared.
    EXECUTE creating || format(
      ' public.%1$I(query extensions.vector, count integer DEFAULT 10, threshold double precision DEFAULT 0)
       RETURNS TABLE (%2$I uuid, similarity double precision)
       LANGUAGE plpgsql STABLE SECURITY INVOKER SET search_path = '''' SET plan_cache_mode = force_custom_plan AS $search$
       DECLARE
         asked bigint := 2 * count::bigint + 20;
         nearest text[];
       BEGIN
         LOOP
           nearest := private.%3$I(query, asked);
           EXIT WHEN nearest IS NULL OR cardinality(nearest) < asked OR asked IS NULL OR count <= (
             SELECT count(*) FROM (SELECT FROM unnest(nearest) n (hash) CROSS JOIN LATERAL (
               SELECT FROM public.%4$I e WHERE e.content_hash = n.hash LIMIT count) f LIMIT count) s);
           asked := 4 * asked;
         END LOOP;
         IF nearest IS NULL THEN
           RETURN QUERY SELECT e.%2$I, 1 - (e.embedding OPERATOR(extensions.<=>) query) FROM public.%4$I e
           WHERE 1 - (e.embedding OPERATOR(extensions.<=>) query) >= threshold
           ORDER BY e.embedding OPERATOR(extensions.<=>) query LIMIT count;
           RETURN;
         END IF;
         RETURN QUERY SELECT f.owner, 1 - f.distance FROM unnest(nearest) n (hash) CROSS JOIN LATERAL (
           SELECT e.%2$I AS owner, e.embedding OPERATOR(extensions.<=>) query AS distance
           FROM public.%4$I e WHERE e.content_hash = n.hash LIMIT count) f
         WHERE 1 - f.distance >= threshold ORDER BY f.distance LIMIT count;
       END $search$', place.search, place.owner, 'nearest_' || place.contents, place.vectors);
  END LOOP;
END $$;

-- Brings the table of contents up to date: what is new comes, what no row has any more goes.
CREATE FUNCTION migration.refresh_contents(p_vectors text) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  contents constant text := (SELECT t.contents FROM migration.vector_tables() t WHERE t.vectors = p_vectors);
BEGIN
  EXECUTE format('DELETE FROM migration.%1$I c WHERE NOT EXISTS (
    SELECT 1 FROM public.%2$I v WHERE v.content_hash = c.content_hash)', contents, p_vectors);
  EXECUTE format('INSERT INTO migration.%1$I (content_hash, embedding)
    SELECT v.content_hash, (SELECT e.embedding FROM public.%2$I e WHERE e.content_hash = v.content_hash LIMIT 1)
    FROM (SELECT DISTINCT v.content_hash FROM public.%2$I v) v
    WHERE NOT EXISTS (SELECT 1 FROM migration.%1$I c WHERE c.content_hash = v.content_hash)', contents, p_vectors);
END $$;

DO $$
DECLARE
  dimensions integer := coalesce(nullif(current_setting('mdw.dimensions', true), '')::integer, 1536);
  place record;
BEGIN
  FOR place IN SELECT * FROM migration.vector_tables() LOOP
    EXECUTE format(
      'CREATE TABLE public.%1$I (
         id uuid PRIMARY KEY,
         %2$I uuid NOT NULL REFERENCES public.%3$I DEFERRABLE,
         content_type public.embedding_content_type NOT NULL,
         content_hash text NOT NULL,
         model text NOT NULL,
         dimensions integer NOT NULL,
         embedding extensions.vector NOT NULL,
         content_text text,
         metadata jsonb NOT NULL DEFAULT ''{}'',
         created_at timestamptz NOT NULL DEFAULT now(),
         UNIQUE (%2$I, content_type)
       )', place.vectors, place.owner, place.parent);
    EXECUTE format('CREATE INDEX %I ON public.%I (content_hash)', place.vectors || '_content_hash', place.vectors);
    EXECUTE format('CREATE TABLE migration.%I (content_hash text PRIMARY KEY, embedding extensions.halfvec NOT NULL)',
      place.contents);
    EXECUTE format('ALTER TABLE migration.%I ENABLE ROW LEVEL SECURITY', place.contents);
  END LOOP;
  PERFORM migration.fit_vectors(dimensions, true);
END $$;

SELECT migration.secure();

INSERT INTO migration.schema_versions (name) VALUES ('target/0003_embeddings.sql');
