-- Row-level security everywhere: anon sees nothing, authenticated the live rows of its practices, service_role all.
CREATE SCHEMA IF NOT EXISTS private;
REVOKE ALL ON SCHEMA private FROM PUBLIC;
GRANT USAGE ON SCHEMA private TO authenticated, service_role;

-- Who asks. Security definer, because a policy on practice_members that reads practice_members would recurse; in a
-- schema that the API does not expose.
CREATE FUNCTION private.own_profile() RETURNS uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS $$
  SELECT p.id FROM public.profiles p
  WHERE p.auth_user_id = (SELECT auth.uid()) AND p.is_active AND p.deleted_at IS NULL
$$;

CREATE FUNCTION private.own_practices() RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS $$
  SELECT m.practice_id FROM public.practice_members m JOIN public.practices p ON p.id = m.practice_id
  WHERE m.profile_id = (SELECT private.own_profile()) AND m.deleted_at IS NULL AND p.deleted_at IS NULL
$$;

CREATE FUNCTION private.own_colleagues() RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS $$
  SELECT private.own_profile()
  UNION
  SELECT m.profile_id FROM public.practice_members m
  WHERE m.practice_id IN (SELECT private.own_practices()) AND m.deleted_at IS NULL
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA private FROM PUBLIC, anon;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA private TO authenticated, service_role;

-- Supabase grants everything new in schema public to anon and authenticated, so both are named here.
DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY[
    'practices', 'profiles', 'practice_members', 'patients', 'cases', 'projects', 'instruction_states',
    'state_analytics', 'workflow_templates', 'workflow_template_tasks', 'workflow_performance',
    'project_embeddings', 'case_embeddings', 'patient_embeddings', 'workflow_template_embeddings'
  ] LOOP
    EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('REVOKE ALL ON public.%I FROM PUBLIC, anon, authenticated', name);
    EXECUTE format('GRANT SELECT ON public.%I TO authenticated', name);
    EXECUTE format('GRANT ALL ON public.%I TO service_role', name);
  END LOOP;
END $$;
-- A view for reading; it shows what the policies of its table show to whoever asks.
REVOKE ALL ON public.current_patients FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.current_patients TO authenticated, service_role;

-- ANY (ARRAY (…)) is computed once for a query and compared by index; IN (…) would be looked up for every row.
CREATE POLICY own_practices ON public.practices FOR SELECT TO authenticated
  USING (deleted_at IS NULL AND id = ANY (ARRAY(SELECT private.own_practices())));
CREATE POLICY own_colleagues ON public.profiles FOR SELECT TO authenticated
  USING (deleted_at IS NULL AND id = ANY (ARRAY(SELECT private.own_colleagues())));
CREATE POLICY own_practices ON public.practice_members FOR SELECT TO authenticated
  USING (deleted_at IS NULL AND practice_id = ANY (ARRAY(SELECT private.own_practices())));
CREATE POLICY own_practices ON public.patients FOR SELECT TO authenticated
  USING (deleted_at IS NULL AND practice_id = ANY (ARRAY(SELECT private.own_practices())));
CREATE POLICY own_practices ON public.cases FOR SELECT TO authenticated
  USING (deleted_at IS NULL AND practice_id = ANY (ARRAY(SELECT private.own_practices())));
CREATE POLICY own_practices ON public.projects FOR SELECT TO authenticated
  USING (deleted_at IS NULL AND practice_id = ANY (ARRAY(SELECT private.own_practices())));
-- What hangs on a row is as visible as that row: the inner select runs under its policy.
CREATE POLICY as_case ON public.instruction_states FOR SELECT TO authenticated
  USING (deleted_at IS NULL AND EXISTS (SELECT FROM public.cases c WHERE c.id = case_id));
CREATE POLICY as_case ON public.state_analytics FOR SELECT TO authenticated
  USING (deleted_at IS NULL AND EXISTS (SELECT FROM public.cases c WHERE c.id = case_id));
CREATE POLICY as_case ON public.workflow_performance FOR SELECT TO authenticated
  USING (deleted_at IS NULL AND EXISTS (SELECT FROM public.cases c WHERE c.id = case_id));
CREATE POLICY as_case ON public.case_embeddings FOR SELECT TO authenticated
  USING (EXISTS (SELECT FROM public.cases c WHERE c.id = case_id));
CREATE POLICY as_patient ON public.patient_embeddings FOR SELECT TO authenticated
  USING (EXISTS (SELECT FROM public.patients p WHERE p.id = patient_id));
CREATE POLICY as_project ON public.project_embeddings FOR SELECT TO authenticated
  USING (EXISTS (SELECT FROM public.projects p WHERE p.id = project_id));
-- Workflow definitions hold no personal data, but are not for everybody who can make an account.
CREATE POLICY every_profile ON public.workflow_templates FOR SELECT TO authenticated
  USING (deleted_at IS NULL AND (SELECT private.own_profile()) IS NOT NULL);
CREATE POLICY every_profile ON public.workflow_template_tasks FOR SELECT TO authenticated
  USING (deleted_at IS NULL AND (SELECT private.own_profile()) IS NOT NULL);
CREATE POLICY as_task ON public.workflow_template_embeddings FOR SELECT TO authenticated
  USING (EXISTS (SELECT FROM public.workflow_template_tasks t WHERE t.id = workflow_template_task_id));

REVOKE ALL ON FUNCTION public.match_projects, public.match_cases, public.match_patients, public.match_workflow_templates
  FROM PUBLIC, anon, authenticated;
GRANT EXECUTE ON FUNCTION public.match_projects, public.match_cases, public.match_patients, public.match_workflow_templates
  TO authenticated, service_role;
GRANT USAGE ON SCHEMA extensions TO authenticated, service_role;

INSERT INTO migration.schema_versions (name) VALUES ('target/0004_security.sql');
