-- Vectors. The number of dimensions is fixed here, once: 1536, or what the session sets in mdw.dimensions.
-- HNSW indexes are built by the migration after the bulk load (four to six times faster than before it).
DO $$
DECLARE
  dimensions integer := coalesce(nullif(current_setting('mdw.dimensions', true), '')::integer, 1536);
  owner record;
BEGIN
  FOR owner IN SELECT * FROM (VALUES
    ('project_embeddings', 'project_id', 'projects'),
    ('case_embeddings', 'case_id', 'cases'),
    ('workflow_template_embeddings', 'workflow_template_task_id', 'workflow_template_tasks')
  ) AS o (embeddings, reference, parent)
  LOOP
    EXECUTE format(
      'CREATE TABLE public.%1$I (
         id uuid PRIMARY KEY,
         %2$I uuid NOT NULL REFERENCES public.%3$I DEFERRABLE,
         content_type public.embedding_content_type NOT NULL,
         content_hash text NOT NULL,
         model text NOT NULL,
         dimensions integer NOT NULL,
         embedding extensions.vector(%4$s) NOT NULL,
         content_text text,
         metadata jsonb NOT NULL DEFAULT ''{}'',
         created_at timestamptz NOT NULL DEFAULT now(),
         UNIQUE (%2$I, content_type)
       )', owner.embeddings, owner.reference, owner.parent, dimensions);
    EXECUTE format('CREATE INDEX %I ON public.%I (content_hash)', owner.embeddings || '_content_hash', owner.embeddings);
  END LOOP;
END $$;

CREATE FUNCTION public.match_projects(query extensions.vector, count integer DEFAULT 10, threshold double precision DEFAULT 0)
RETURNS TABLE (project_id uuid, similarity double precision)
LANGUAGE sql STABLE SECURITY INVOKER SET search_path = '' AS $$
  SELECT e.project_id, 1 - (e.embedding OPERATOR(extensions.<=>) query)
  FROM public.project_embeddings e
  WHERE 1 - (e.embedding OPERATOR(extensions.<=>) query) >= threshold
  ORDER BY e.embedding OPERATOR(extensions.<=>) query LIMIT count
$$;

CREATE FUNCTION public.match_cases(query extensions.vector, count integer DEFAULT 10, threshold double precision DEFAULT 0)
RETURNS TABLE (case_id uuid, similarity double precision)
LANGUAGE sql STABLE SECURITY INVOKER SET search_path = '' AS $$
  SELECT e.case_id, 1 - (e.embedding OPERATOR(extensions.<=>) query)
  FROM public.case_embeddings e
  WHERE 1 - (e.embedding OPERATOR(extensions.<=>) query) >= threshold
  ORDER BY e.embedding OPERATOR(extensions.<=>) query LIMIT count
$$;

CREATE FUNCTION public.match_workflow_templates(query extensions.vector, count integer DEFAULT 10, threshold double precision DEFAULT 0)
RETURNS TABLE (workflow_template_task_id uuid, similarity double precision)
LANGUAGE sql STABLE SECURITY INVOKER SET search_path = '' AS $$
  SELECT e.workflow_template_task_id, 1 - (e.embedding OPERATOR(extensions.<=>) query)
  FROM public.workflow_template_embeddings e
  WHERE 1 - (e.embedding OPERATOR(extensions.<=>) query) >= threshold
  ORDER BY e.embedding OPERATOR(extensions.<=>) query LIMIT count
$$;

INSERT INTO migration.schema_versions (name) VALUES ('target/0003_embeddings.sql');
