-- The tables that runs load keep the journal by which a run is rolled back (migration/0017_rollback.sql).
SELECT migration.keep_journal(('public.' || t)::regclass) FROM unnest(ARRAY['practices', 'profiles', 'practice_members',
  'patients', 'cases', 'projects', 'instruction_states', 'state_analytics', 'workflow_templates',
  'workflow_template_tasks', 'workflow_performance', 'project_embeddings', 'case_embeddings', 'patient_embeddings',
  'workflow_template_embeddings']) AS t;

INSERT INTO migration.schema_versions (name) VALUES ('target/0005_journal.sql');
