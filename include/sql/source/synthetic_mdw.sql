-- The tables of the legacy MDW database that the migration reads, as Django lays them out.
-- Columns, types and nullability: docs/legacy-mdw.md sections 1.2 to 1.14.
--
-- The file is in two parts, so that a loader can fill the tables between them: building the indexes and
-- checking the foreign keys once is many times faster than doing so row by row. Run as a whole it gives
-- an empty database. Syntax of PostgreSQL 9.5, the version of the real source.
--
-- A reference has a foreign key only where every value resolves in the real source. Those listed in
-- section 1.21 as dangling have an index but no constraint.

-- part: tables

CREATE TABLE auth_user (
    id serial PRIMARY KEY,
    password varchar(128) NOT NULL,
    last_login timestamptz,
    is_superuser boolean NOT NULL,
    username varchar(150) NOT NULL,
    first_name varchar(150) NOT NULL,
    last_name varchar(150) NOT NULL,
    email varchar(254) NOT NULL,
    is_staff boolean NOT NULL,
    is_active boolean NOT NULL,
    date_joined timestamptz NOT NULL
);

CREATE TABLE auth_group (
    id serial PRIMARY KEY,
    name varchar(150) NOT NULL
);

CREATE TABLE auth_user_groups (
    id serial PRIMARY KEY,
    user_id integer NOT NULL,
    group_id integer NOT NULL
);

CREATE TABLE dispatch_office (
    id serial PRIMARY KEY,
    name varchar(255),
    address varchar(255),
    apt varchar(50),
    city varchar(100),
    state varchar(100),
    zip varchar(20),
    country varchar(100),
    phone varchar(50),
    tax_rate numeric(7, 4) NOT NULL,
    valid boolean NOT NULL,
    sq_customer_id varchar(255),
    emails boolean NOT NULL
);

CREATE TABLE dispatch_office_doctors (
    id serial PRIMARY KEY,
    office_id integer NOT NULL,
    user_id integer NOT NULL
);

CREATE TABLE dispatch_patient (
    id serial PRIMARY KEY,
    user_id integer NOT NULL,
    doctor_id integer,
    office_id integer,
    birthdate date,
    sex integer,
    status integer NOT NULL,
    archived boolean NOT NULL,
    suspended boolean NOT NULL,
    schemes text,
    suffix varchar(10),
    submitted_at timestamptz,
    updated_at timestamptz
);

CREATE TABLE dispatch_course (
    id serial PRIMARY KEY,
    name varchar(100) NOT NULL
);

CREATE TABLE dispatch_product (
    id serial PRIMARY KEY,
    name varchar(100) NOT NULL,
    description text,
    free boolean NOT NULL,
    deleted boolean NOT NULL,
    customization text,
    type integer,
    substitute boolean NOT NULL,
    course_id integer
);

CREATE TABLE dispatch_jaw (
    id serial PRIMARY KEY,
    bond_teeth varchar(16) NOT NULL,
    extract_teeth varchar(16) NOT NULL,
    reason integer,
    product_id integer,
    labial boolean NOT NULL
);

CREATE TABLE dispatch_instruction (
    id serial PRIMARY KEY,
    patient_id integer NOT NULL,
    course_id integer NOT NULL,
    "order" integer,
    model integer,
    scanner integer,
    scanner_notes text,
    upper_jaw_id integer,
    lower_jaw_id integer,
    notes text,
    conditions text,
    complaint text,
    objective text,
    exports text,
    price numeric(10, 2),
    status integer NOT NULL,
    cbct boolean,
    accept_extraction boolean,
    comprehensive boolean,
    deleted boolean NOT NULL,
    suffix varchar(10) NOT NULL,
    submitted_at timestamptz,
    updated_at timestamptz
);

CREATE TABLE dispatch_project (
    id serial PRIMARY KEY,
    uid uuid NOT NULL,
    name varchar(255) NOT NULL,
    size bigint NOT NULL,
    type integer NOT NULL,
    status integer NOT NULL,
    creator_id integer,
    created_at timestamptz NOT NULL,
    public boolean NOT NULL
);

CREATE TABLE dispatch_plan (
    id serial PRIMARY KEY,
    instruction_id integer NOT NULL,
    project_id integer NOT NULL,
    notes text,
    number integer,
    name varchar(255),
    original boolean NOT NULL
);

CREATE TABLE dispatch_state (
    id serial PRIMARY KEY,
    status integer NOT NULL,
    "on" boolean NOT NULL,
    changed_at timestamptz NOT NULL,
    actor_id integer,
    instruction_id integer NOT NULL
);

CREATE TABLE dispatch_category (
    id serial PRIMARY KEY,
    name varchar(100) NOT NULL,
    parent_id integer
);

CREATE TABLE dispatch_role (
    id serial PRIMARY KEY,
    name varchar(100) NOT NULL,
    abbrev varchar(20) NOT NULL,
    type integer,
    "order" integer,
    user_id integer,
    group_id integer
);

CREATE TABLE dispatch_template (
    id serial PRIMARY KEY,
    task_name varchar(255),
    function integer,
    predefined boolean NOT NULL,
    status integer,
    action_name varchar(255),
    text_name varchar(255),
    duration integer,
    category_id integer,
    course_id integer,
    read_only boolean NOT NULL,
    extensions varchar(255),
    alerts boolean,
    separate boolean
);

CREATE TABLE dispatch_template_edit_roles (
    id serial PRIMARY KEY,
    template_id integer NOT NULL,
    role_id integer NOT NULL
);

CREATE TABLE dispatch_template_view_roles (
    id serial PRIMARY KEY,
    template_id integer NOT NULL,
    role_id integer NOT NULL
);

CREATE TABLE dispatch_template_view_groups (
    id serial PRIMARY KEY,
    template_id integer NOT NULL,
    group_id integer NOT NULL
);

CREATE TABLE dispatch_template_products (
    id serial PRIMARY KEY,
    template_id integer NOT NULL,
    product_id integer NOT NULL
);

CREATE TABLE dispatch_template_predecessors (
    id serial PRIMARY KEY,
    from_template_id integer NOT NULL,
    to_template_id integer NOT NULL
);

CREATE TABLE dispatch_task (
    id serial PRIMARY KEY,
    template_id integer NOT NULL,
    instruction_id integer NOT NULL,
    plan_id integer,
    file_id integer,
    actor_id integer,
    order_id integer,
    checked boolean NOT NULL,
    done_at timestamptz,
    text text,
    jaw integer
);

-- part: keys

ALTER TABLE auth_user ADD CONSTRAINT auth_user_username_key UNIQUE (username);
ALTER TABLE auth_group ADD CONSTRAINT auth_group_name_key UNIQUE (name);
ALTER TABLE auth_user_groups ADD CONSTRAINT auth_user_groups_user_id_group_id_uniq UNIQUE (user_id, group_id);
ALTER TABLE dispatch_office_doctors
    ADD CONSTRAINT dispatch_office_doctors_office_id_user_id_uniq UNIQUE (office_id, user_id);
ALTER TABLE dispatch_project ADD CONSTRAINT dispatch_project_uid_key UNIQUE (uid);
ALTER TABLE dispatch_template_edit_roles
    ADD CONSTRAINT dispatch_template_edit_roles_template_id_role_id_uniq UNIQUE (template_id, role_id);
ALTER TABLE dispatch_template_view_roles
    ADD CONSTRAINT dispatch_template_view_roles_template_id_role_id_uniq UNIQUE (template_id, role_id);
ALTER TABLE dispatch_template_view_groups
    ADD CONSTRAINT dispatch_template_view_groups_template_id_group_id_uniq UNIQUE (template_id, group_id);
ALTER TABLE dispatch_template_products
    ADD CONSTRAINT dispatch_template_products_template_id_product_id_uniq UNIQUE (template_id, product_id);
ALTER TABLE dispatch_template_predecessors
    ADD CONSTRAINT dispatch_template_predecessors_from_id_to_id_uniq UNIQUE (from_template_id, to_template_id);

ALTER TABLE auth_user_groups
    ADD CONSTRAINT auth_user_groups_user_id_fk FOREIGN KEY (user_id) REFERENCES auth_user (id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE auth_user_groups
    ADD CONSTRAINT auth_user_groups_group_id_fk FOREIGN KEY (group_id) REFERENCES auth_group (id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE dispatch_office_doctors
    ADD CONSTRAINT dispatch_office_doctors_office_id_fk FOREIGN KEY (office_id) REFERENCES dispatch_office (id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE dispatch_office_doctors
    ADD CONSTRAINT dispatch_office_doctors_user_id_fk FOREIGN KEY (user_id) REFERENCES auth_user (id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE dispatch_patient
    ADD CONSTRAINT dispatch_patient_user_id_fk FOREIGN KEY (user_id) REFERENCES auth_user (id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE dispatch_product
    ADD CONSTRAINT dispatch_product_course_id_fk FOREIGN KEY (course_id) REFERENCES dispatch_course (id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE dispatch_jaw
    ADD CONSTRAINT dispatch_jaw_product_id_fk FOREIGN KEY (product_id) REFERENCES dispatch_product (id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE dispatch_instruction
    ADD CONSTRAINT dispatch_instruction_course_id_fk FOREIGN KEY (course_id) REFERENCES dispatch_course (id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE dispatch_instruction
    ADD CONSTRAINT dispatch_instruction_upper_jaw_id_fk FOREIGN KEY (upper_jaw_id) REFERENCES dispatch_jaw (id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE dispatch_instruction
    ADD CONSTRAINT dispatch_instruction_lower_jaw_id_fk FOREIGN KEY (lower_jaw_id) REFERENCES dispatch_jaw (id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE dispatch_plan
    ADD CONSTRAINT dispatch_plan_project_id_fk FOREIGN KEY (project_id) REFERENCES dispatch_project (id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE dispatch_category
    ADD CONSTRAINT dispatch_category_parent_id_fk FOREIGN KEY (parent_id) REFERENCES dispatch_category (id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE dispatch_role
    ADD CONSTRAINT dispatch_role_user_id_fk FOREIGN KEY (user_id) REFERENCES auth_user (id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE dispatch_role
    ADD CONSTRAINT dispatch_role_group_id_fk FOREIGN KEY (group_id) REFERENCES auth_group (id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE dispatch_template
    ADD CONSTRAINT dispatch_template_category_id_fk FOREIGN KEY (category_id) REFERENCES dispatch_category (id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE dispatch_template
    ADD CONSTRAINT dispatch_template_course_id_fk FOREIGN KEY (course_id) REFERENCES dispatch_course (id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE dispatch_template_edit_roles
    ADD CONSTRAINT dispatch_template_edit_roles_template_id_fk FOREIGN KEY (template_id) REFERENCES dispatch_template (id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE dispatch_template_edit_roles
    ADD CONSTRAINT dispatch_template_edit_roles_role_id_fk FOREIGN KEY (role_id) REFERENCES dispatch_role (id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE dispatch_template_view_roles
    ADD CONSTRAINT dispatch_template_view_roles_template_id_fk FOREIGN KEY (template_id) REFERENCES dispatch_template (id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE dispatch_template_view_roles
    ADD CONSTRAINT dispatch_template_view_roles_role_id_fk FOREIGN KEY (role_id) REFERENCES dispatch_role (id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE dispatch_template_view_groups
    ADD CONSTRAINT dispatch_template_view_groups_template_id_fk FOREIGN KEY (template_id) REFERENCES dispatch_template (id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE dispatch_template_view_groups
    ADD CONSTRAINT dispatch_template_view_groups_group_id_fk FOREIGN KEY (group_id) REFERENCES auth_group (id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE dispatch_template_products
    ADD CONSTRAINT dispatch_template_products_template_id_fk FOREIGN KEY (template_id) REFERENCES dispatch_template (id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE dispatch_template_products
    ADD CONSTRAINT dispatch_template_products_product_id_fk FOREIGN KEY (product_id) REFERENCES dispatch_product (id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE dispatch_template_predecessors
    ADD CONSTRAINT dispatch_template_predecessors_from_template_id_fk FOREIGN KEY (from_template_id) REFERENCES dispatch_template (id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE dispatch_template_predecessors
    ADD CONSTRAINT dispatch_template_predecessors_to_template_id_fk FOREIGN KEY (to_template_id) REFERENCES dispatch_template (id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE dispatch_task
    ADD CONSTRAINT dispatch_task_plan_id_fk FOREIGN KEY (plan_id) REFERENCES dispatch_plan (id) DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE dispatch_task
    ADD CONSTRAINT dispatch_task_actor_id_fk FOREIGN KEY (actor_id) REFERENCES auth_user (id) DEFERRABLE INITIALLY DEFERRED;

CREATE INDEX auth_user_groups_user_id_idx ON auth_user_groups (user_id);
CREATE INDEX auth_user_groups_group_id_idx ON auth_user_groups (group_id);
CREATE INDEX dispatch_office_doctors_office_id_idx ON dispatch_office_doctors (office_id);
CREATE INDEX dispatch_office_doctors_user_id_idx ON dispatch_office_doctors (user_id);
CREATE INDEX dispatch_patient_user_id_idx ON dispatch_patient (user_id);
CREATE INDEX dispatch_product_course_id_idx ON dispatch_product (course_id);
CREATE INDEX dispatch_jaw_product_id_idx ON dispatch_jaw (product_id);
CREATE INDEX dispatch_instruction_course_id_idx ON dispatch_instruction (course_id);
CREATE INDEX dispatch_instruction_upper_jaw_id_idx ON dispatch_instruction (upper_jaw_id);
CREATE INDEX dispatch_instruction_lower_jaw_id_idx ON dispatch_instruction (lower_jaw_id);
CREATE INDEX dispatch_plan_project_id_idx ON dispatch_plan (project_id);
CREATE INDEX dispatch_category_parent_id_idx ON dispatch_category (parent_id);
CREATE INDEX dispatch_role_user_id_idx ON dispatch_role (user_id);
CREATE INDEX dispatch_role_group_id_idx ON dispatch_role (group_id);
CREATE INDEX dispatch_template_category_id_idx ON dispatch_template (category_id);
CREATE INDEX dispatch_template_course_id_idx ON dispatch_template (course_id);
CREATE INDEX dispatch_template_edit_roles_template_id_idx ON dispatch_template_edit_roles (template_id);
CREATE INDEX dispatch_template_edit_roles_role_id_idx ON dispatch_template_edit_roles (role_id);
CREATE INDEX dispatch_template_view_roles_template_id_idx ON dispatch_template_view_roles (template_id);
CREATE INDEX dispatch_template_view_roles_role_id_idx ON dispatch_template_view_roles (role_id);
CREATE INDEX dispatch_template_view_groups_template_id_idx ON dispatch_template_view_groups (template_id);
CREATE INDEX dispatch_template_view_groups_group_id_idx ON dispatch_template_view_groups (group_id);
CREATE INDEX dispatch_template_products_template_id_idx ON dispatch_template_products (template_id);
CREATE INDEX dispatch_template_products_product_id_idx ON dispatch_template_products (product_id);
CREATE INDEX dispatch_template_predecessors_from_template_id_idx ON dispatch_template_predecessors (from_template_id);
CREATE INDEX dispatch_template_predecessors_to_template_id_idx ON dispatch_template_predecessors (to_template_id);
CREATE INDEX dispatch_task_plan_id_idx ON dispatch_task (plan_id);
CREATE INDEX dispatch_task_actor_id_idx ON dispatch_task (actor_id);
CREATE INDEX dispatch_patient_doctor_id_idx ON dispatch_patient (doctor_id);
CREATE INDEX dispatch_patient_office_id_idx ON dispatch_patient (office_id);
CREATE INDEX dispatch_instruction_patient_id_idx ON dispatch_instruction (patient_id);
CREATE INDEX dispatch_project_creator_id_idx ON dispatch_project (creator_id);
CREATE INDEX dispatch_plan_instruction_id_idx ON dispatch_plan (instruction_id);
CREATE INDEX dispatch_state_actor_id_idx ON dispatch_state (actor_id);
CREATE INDEX dispatch_state_instruction_id_idx ON dispatch_state (instruction_id);
CREATE INDEX dispatch_task_instruction_id_idx ON dispatch_task (instruction_id);
CREATE INDEX dispatch_task_template_id_idx ON dispatch_task (template_id);
