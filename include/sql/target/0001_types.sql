-- Enums of the target (docs/target-schema.md). Unknown is always NULL, never a value of its own.
CREATE TYPE public.user_role AS ENUM ('master', 'admin', 'doctor', 'technician', 'support', 'patient');
CREATE TYPE public.practice_role AS ENUM ('owner', 'doctor', 'technician', 'assistant', 'admin');
CREATE TYPE public.gender_type AS ENUM ('male', 'female', 'other', 'prefer_not_to_say');
CREATE TYPE public.case_type_enum AS ENUM (
  'initial_consultation', 'treatment_planning', 'active_treatment', 'refinement', 'retention', 'emergency', 'follow_up'
);
CREATE TYPE public.priority_level AS ENUM ('low', 'medium', 'high', 'urgent');
CREATE TYPE public.case_state_enum AS ENUM (
  'submitted', 'under_review', 'planning', 'approved', 'in_production', 'quality_check', 'shipped', 'delivered',
  'completed', 'on_hold', 'cancelled'
);
CREATE TYPE public.project_type_enum AS ENUM (
  'scan', 'model', 'simulation', 'treatment_plan', 'aligner_design', 'impression', 'xray', 'photo', 'document', 'other'
);
CREATE TYPE public.project_status_enum AS ENUM (
  'draft', 'in_progress', 'review', 'approved', 'archived', 'deleted'
);
CREATE TYPE public.storage_status AS ENUM ('pending', 'copied', 'verified', 'missing');
CREATE TYPE public.task_function_enum AS ENUM (
  'submit', 'review', 'approve', 'process', 'notify', 'archive', 'scan', 'model', 'manufacture', 'quality_check', 'ship'
);
CREATE TYPE public.embedding_content_type AS ENUM ('case_summary', 'treatment_plan', 'notes', 'diagnosis');

INSERT INTO migration.schema_versions (name) VALUES ('target/0001_types.sql');
