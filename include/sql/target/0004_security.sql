-- Row-level security everywhere: anon sees nothing, authenticated sees its practices, service_role all.
CREATE SCHEMA IF NOT EXISTS private;
REVOKE ALL ON SCHEMA private FROM PUBLIC;
GRANT USAGE ON SCHEMA private TO authenticated, service_role;

-- Security definer, because a policy on practice_members that reads practice_members would recurse.
CREATE FUNCTION private.own_profile() RETURNS uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS $$
  SELECT p.id FROM public.profiles p WHERE p.auth_user_id = (SELECT auth.uid()) AND p.is_active
$$;

CREATE FUNCTION private.own_practices() RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS $$
  SELECT m.practice_id FROM public.practice_members m
  WHERE m.profile_id = private.own_profile() AND m.deleted_at IS NULL
$$;

REVOKE ALL ON FUNCTION private.own_profile(), private.own_practices() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION private.own_profile(), private.own_practices() TO authenticated, service_role;

DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY[
    'practices', 'profiles', 'practice_members', 'patients', 'cases', 'projects', 'instruction_states',
    'state_analytics', 'workflow_templates', 'workflow_template_tasks', 'workflow_performance',
    'project_embeddings', 'case_embeddings', 'workflow_template_embeddings'
  ] LOOP
    EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('REVOKE ALL ON public.%I FROM PUBLIC, anon, authenticated', name);
    EXECUTE format('GRANT SELECT ON public.%I TO authenticated', name);
    EXECUTE format('GRANT ALL ON public.%I TO service_role', name);
  END LOOP;
END $$;

CREATE POLICY own_practices ON public.practices FOR SELECT TO authenticated
  USING (id IN (SELECT private.own_practices()));
CREATE POLICY own_profile ON public.profiles FOR SELECT TO authenticated
  USING (id = (SELECT private.own_profile()) OR id IN (
    SELECT m.profile_id FROM public.practice_members m WHERE m.practice_id IN (SELECT private.own_practices())));
CREATE POLICY own_practices ON public.practice_members FOR SELECT TO authenticated
  USING (practice_id IN (SELECT private.own_practices()));
CREATE POLICY own_practices ON public.patients FOR SELECT TO authenticated
  USING (practice_id IN (SELECT private.own_practices()));
CREATE POLICY own_practices ON public.cases FOR SELECT TO authenticated
  USING (practice_id IN (SELECT private.own_practices()));
CREATE POLICY own_practices ON public.projects FOR SELECT TO authenticated
  USING (practice_id IN (SELECT private.own_practices()));
-- What hangs on a case or project is as visible as that is: the inner select runs under its policy.
CREATE POLICY as_case ON public.instruction_states FOR SELECT TO authenticated
  USING (case_id IN (SELECT c.id FROM public.cases c));
CREATE POLICY as_case ON public.state_analytics FOR SELECT TO authenticated
  USING (case_id IN (SELECT c.id FROM public.cases c));
CREATE POLICY as_case ON public.workflow_performance FOR SELECT TO authenticated
  USING (case_id IN (SELECT c.id FROM public.cases c));
CREATE POLICY as_case ON public.case_embeddings FOR SELECT TO authenticated
  USING (case_id IN (SELECT c.id FROM public.cases c));
CREATE POLICY as_project ON public.project_embeddings FOR SELECT TO authenticated
  USING (project_id IN (SELECT p.id FROM public.projects p));
-- Workflow definitions hold no personal data.
CREATE POLICY everyone ON public.workflow_templates FOR SELECT TO authenticated USING (true);
CREATE POLICY everyone ON public.workflow_template_tasks FOR SELECT TO authenticated USING (true);
CREATE POLICY everyone ON public.workflow_template_embeddings FOR SELECT TO authenticated USING (true);

REVOKE ALL ON FUNCTION public.match_projects, public.match_cases, public.match_workflow_templates FROM PUBLIC;
GRANT EXECUTE ON FUNCTION public.match_projects, public.match_cases, public.match_workflow_templates
  TO authenticated, service_role;
GRANT USAGE ON SCHEMA extensions TO authenticated, service_role;

INSERT INTO migration.schema_versions (name) VALUES ('target/0004_security.sql');
