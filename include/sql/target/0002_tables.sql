-- Business tables. NOT NULL only where the source always has the value or a rule supplies it.
CREATE TABLE public.practices (
  id uuid PRIMARY KEY,
  legacy_office_id bigint NOT NULL UNIQUE,
  name text,
  address jsonb NOT NULL DEFAULT '{}',
  phone text,
  tax_rate numeric,
  square_customer_id text,
  email_notifications boolean,
  is_active boolean,
  settings jsonb NOT NULL DEFAULT '{}',
  metadata jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz,
  updated_at timestamptz,
  deleted_at timestamptz
);

CREATE TABLE public.profiles (
  id uuid PRIMARY KEY,
  legacy_user_id bigint NOT NULL UNIQUE,
  auth_user_id uuid UNIQUE,
  username text,
  first_name text,
  last_name text,
  email text,
  role public.user_role NOT NULL,
  is_active boolean NOT NULL,
  last_login_at timestamptz,
  metadata jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz,
  updated_at timestamptz,
  deleted_at timestamptz
);

CREATE TABLE public.practice_members (
  id uuid PRIMARY KEY,
  legacy_office_doctor_id bigint NOT NULL UNIQUE,
  practice_id uuid NOT NULL REFERENCES public.practices DEFERRABLE,
  profile_id uuid NOT NULL REFERENCES public.profiles DEFERRABLE,
  role public.practice_role NOT NULL,
  metadata jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz,
  updated_at timestamptz,
  deleted_at timestamptz,
  -- A link that was removed and made again is another row of the source. Unique among live rows, and behind a
  -- whole statement, so that rows may exchange their values.
  CONSTRAINT practice_members_link EXCLUDE USING btree (practice_id WITH =, profile_id WITH =)
    WHERE (deleted_at IS NULL) DEFERRABLE
);

CREATE TABLE public.patients (
  id uuid PRIMARY KEY,
  legacy_patient_id bigint NOT NULL UNIQUE,
  profile_id uuid REFERENCES public.profiles DEFERRABLE,
  practice_id uuid REFERENCES public.practices DEFERRABLE,
  primary_doctor_id uuid REFERENCES public.profiles DEFERRABLE,
  patient_number text NOT NULL UNIQUE,
  first_name text,
  last_name text,
  email text,
  date_of_birth date,
  gender public.gender_type,
  phone text,
  address jsonb,
  insurance_info jsonb,
  emergency_contact jsonb,
  medical_history jsonb NOT NULL DEFAULT '{}',
  preferences jsonb NOT NULL DEFAULT '{}',
  suffix text,
  status_code integer,
  archived boolean,
  suspended boolean,
  schemes jsonb,
  submitted_at timestamptz,
  merged_into uuid REFERENCES public.patients DEFERRABLE,
  metadata jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz,
  updated_at timestamptz,
  deleted_at timestamptz,
  CHECK (merged_into <> id)
);

CREATE TABLE public.cases (
  id uuid PRIMARY KEY,
  legacy_instruction_id bigint NOT NULL UNIQUE,
  patient_id uuid NOT NULL REFERENCES public.patients DEFERRABLE,
  practice_id uuid REFERENCES public.practices DEFERRABLE,
  assigned_practitioner_id uuid REFERENCES public.profiles DEFERRABLE,
  case_number text NOT NULL UNIQUE,
  title text,
  description text,
  case_type public.case_type_enum,
  priority public.priority_level,
  current_state public.case_state_enum,
  sequence integer,
  price numeric,
  clinical jsonb NOT NULL DEFAULT '{}',
  suffix text,
  is_deleted boolean,
  submitted_at timestamptz,
  metadata jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz,
  updated_at timestamptz,
  deleted_at timestamptz
);

CREATE TABLE public.projects (
  id uuid PRIMARY KEY,
  legacy_project_id bigint NOT NULL UNIQUE,
  legacy_uid uuid,
  case_id uuid REFERENCES public.cases DEFERRABLE,
  practice_id uuid REFERENCES public.practices DEFERRABLE,
  creator_id uuid REFERENCES public.profiles DEFERRABLE,
  name text NOT NULL,
  project_type public.project_type_enum NOT NULL,
  type_code integer,
  status public.project_status_enum NOT NULL,
  status_code integer,
  file_size bigint,
  storage_bucket text NOT NULL,
  storage_path text,
  -- What became of the file: written by migration_api.record_files, never by the merge of rows.
  storage_status public.storage_status NOT NULL DEFAULT 'pending',
  checksum text,
  mime_type text,
  is_public boolean,
  version integer,
  parent_project_id uuid REFERENCES public.projects DEFERRABLE,
  metadata jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz,
  updated_at timestamptz,
  deleted_at timestamptz,
  CONSTRAINT projects_legacy_uid_key EXCLUDE USING btree (legacy_uid WITH =) WHERE (deleted_at IS NULL) DEFERRABLE
);

CREATE TABLE public.instruction_states (
  id uuid PRIMARY KEY,
  legacy_state_id bigint NOT NULL UNIQUE,
  case_id uuid NOT NULL REFERENCES public.cases DEFERRABLE,
  legacy_instruction_id bigint NOT NULL,
  instruction_type text NOT NULL,
  status_code integer NOT NULL,
  status_name text NOT NULL,
  is_active boolean NOT NULL,
  changed_by uuid REFERENCES public.profiles DEFERRABLE,
  changed_at timestamptz,
  notes text,
  metadata jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz,
  updated_at timestamptz,
  deleted_at timestamptz
);

CREATE TABLE public.state_analytics (
  id uuid PRIMARY KEY,
  legacy_state_id bigint NOT NULL UNIQUE,
  case_id uuid NOT NULL REFERENCES public.cases DEFERRABLE,
  instruction_state_id uuid NOT NULL UNIQUE REFERENCES public.instruction_states DEFERRABLE,
  from_state text,
  to_state text NOT NULL,
  duration_minutes bigint,
  actor_id uuid REFERENCES public.profiles DEFERRABLE,
  bottleneck_detected boolean NOT NULL,
  metadata jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz,
  updated_at timestamptz,
  deleted_at timestamptz
);

CREATE TABLE public.workflow_templates (
  id uuid PRIMARY KEY,
  legacy_category_id bigint NOT NULL UNIQUE,
  name text,
  description text,
  case_type public.case_type_enum,
  active boolean,
  parent_id uuid REFERENCES public.workflow_templates DEFERRABLE,
  metadata jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz,
  updated_at timestamptz,
  deleted_at timestamptz
);

CREATE TABLE public.workflow_template_tasks (
  id uuid PRIMARY KEY,
  legacy_template_id bigint NOT NULL UNIQUE,
  workflow_template_id uuid NOT NULL REFERENCES public.workflow_templates DEFERRABLE,
  task_name text,
  task_order integer NOT NULL,
  function_type public.task_function_enum,
  function_code integer,
  is_predefined boolean,
  action_name text,
  text_prompt text,
  estimated_duration interval,
  required_roles text[],
  view_roles text[],
  category text,
  read_only boolean,
  extensions text[],
  predecessor_tasks uuid[] NOT NULL DEFAULT '{}',
  metadata jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz,
  updated_at timestamptz,
  deleted_at timestamptz,
  -- One place per live task; deferrable, because tasks may change places within one statement.
  CONSTRAINT workflow_template_tasks_place EXCLUDE USING btree (workflow_template_id WITH =, task_order WITH =)
    WHERE (deleted_at IS NULL) DEFERRABLE
);

CREATE TABLE public.workflow_performance (
  id uuid PRIMARY KEY,
  legacy_category_id bigint NOT NULL,
  legacy_instruction_id bigint NOT NULL,
  workflow_template_id uuid NOT NULL REFERENCES public.workflow_templates DEFERRABLE,
  case_id uuid NOT NULL REFERENCES public.cases DEFERRABLE,
  task_performance jsonb NOT NULL DEFAULT '[]',
  completion_rate numeric(5, 2),
  average_task_duration interval,
  bottleneck_tasks uuid[] NOT NULL DEFAULT '{}',
  metadata jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz,
  updated_at timestamptz,
  deleted_at timestamptz,
  UNIQUE (legacy_category_id, legacy_instruction_id)
);

-- Each patient once: the default for whoever reads patients. Under row security a survivor may be out of sight, because
-- it belongs to another practice: then the merged row stands for the patient, and merged_into is what cases refer to.
CREATE VIEW public.current_patients WITH (security_invoker = true) AS
SELECT id, legacy_patient_id, profile_id, practice_id, primary_doctor_id, patient_number, first_name, last_name, email,
  date_of_birth, gender, phone, address, insurance_info, emergency_contact, medical_history, preferences, suffix,
  status_code, archived, suspended, schemes, submitted_at, merged_into, metadata, created_at, updated_at
FROM public.patients p WHERE deleted_at IS NULL
  AND NOT EXISTS (SELECT FROM public.patients s WHERE s.id = p.merged_into AND s.deleted_at IS NULL);

-- One index per foreign key that no unique constraint serves.
CREATE INDEX practice_members_practice_id ON public.practice_members (practice_id);
CREATE INDEX practice_members_profile_id ON public.practice_members (profile_id);
CREATE INDEX patients_profile_id ON public.patients (profile_id);
CREATE INDEX patients_practice_id ON public.patients (practice_id);
CREATE INDEX patients_primary_doctor_id ON public.patients (primary_doctor_id);
CREATE INDEX patients_merged_into ON public.patients (merged_into) WHERE merged_into IS NOT NULL;
CREATE INDEX cases_patient_id ON public.cases (patient_id);
CREATE INDEX cases_practice_id ON public.cases (practice_id);
CREATE INDEX cases_assigned_practitioner_id ON public.cases (assigned_practitioner_id);
CREATE INDEX projects_case_id ON public.projects (case_id);
CREATE INDEX projects_practice_id ON public.projects (practice_id);
CREATE INDEX projects_creator_id ON public.projects (creator_id);
CREATE INDEX projects_parent_project_id ON public.projects (parent_project_id) WHERE parent_project_id IS NOT NULL;
CREATE INDEX instruction_states_case_id ON public.instruction_states (case_id);
CREATE INDEX instruction_states_changed_by ON public.instruction_states (changed_by);
CREATE INDEX state_analytics_case_id ON public.state_analytics (case_id);
CREATE INDEX state_analytics_actor_id ON public.state_analytics (actor_id);
CREATE INDEX workflow_templates_parent_id ON public.workflow_templates (parent_id);
CREATE INDEX workflow_template_tasks_workflow_template_id ON public.workflow_template_tasks (workflow_template_id);
CREATE INDEX workflow_performance_workflow_template_id ON public.workflow_performance (workflow_template_id);
CREATE INDEX workflow_performance_case_id ON public.workflow_performance (case_id);

INSERT INTO migration.schema_versions (name) VALUES ('target/0002_tables.sql');
