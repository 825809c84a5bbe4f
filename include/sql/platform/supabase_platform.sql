-- What a hosted Supabase project has and a plain PostgreSQL (16 or later) lacks, as far as this project relies
-- on it: the API roles, the schemas auth and extensions, the functions that read the caller's token, pgvector.
-- For local and test databases only, run by a superuser once per database; running it again changes nothing.
--
-- Not copied on purpose: Supabase's default privileges, which grant every new table in public to anon and
-- authenticated. This project grants each table explicitly, so that a forgotten grant shows up here as a
-- refusal instead of a table that is open to the internet there. Nor is Supabase's search_path, which includes
-- extensions: this project names schemas, and code that forgets to fails here.

-- Roles belong to the whole server; two databases may be prepared at the same moment.
DO $roles$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['anon', 'authenticated', 'service_role', 'authenticator', 'postgres'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I', role_name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;  -- the other one was faster
            END;
        END IF;
    END LOOP;
END
$roles$;

-- Written out only where something differs: ALTER ROLE locks a row that all databases share.
DO $attributes$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname IN ('anon', 'authenticated', 'service_role')
               AND (rolcanlogin OR rolinherit OR rolbypassrls <> (rolname = 'service_role'))) THEN
        ALTER ROLE anon NOLOGIN NOINHERIT NOBYPASSRLS;
        ALTER ROLE authenticated NOLOGIN NOINHERIT NOBYPASSRLS;
        ALTER ROLE service_role NOLOGIN NOINHERIT BYPASSRLS;
    END IF;

    -- The API logs in as authenticator and takes on one of the three roles above for each request.
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'authenticator' AND (rolinherit OR NOT rolcanlogin)) THEN
        ALTER ROLE authenticator LOGIN NOINHERIT;
    END IF;
    IF NOT pg_has_role('authenticator', 'service_role', 'MEMBER') THEN
        GRANT anon, authenticated, service_role TO authenticator;
    END IF;

    -- The owner's role on Supabase: it may nearly everything and is still no superuser. Where the server was
    -- set up with postgres as its superuser, it stays that.
    IF NOT (SELECT rolsuper OR (rolcreaterole AND rolcreatedb AND rolbypassrls AND rolreplication)
            FROM pg_roles WHERE rolname = 'postgres') THEN
        ALTER ROLE postgres CREATEROLE CREATEDB BYPASSRLS REPLICATION;
    END IF;
    IF NOT pg_has_role('postgres', 'service_role', 'MEMBER') THEN
        GRANT anon, authenticated, service_role TO postgres;
    END IF;
END
$attributes$;

DO $owner$
BEGIN
    IF (SELECT pg_get_userbyid(datdba) <> 'postgres' FROM pg_database WHERE datname = current_database()) THEN
        EXECUTE format('ALTER DATABASE %I OWNER TO postgres', current_database());
    END IF;
END
$owner$;

CREATE SCHEMA IF NOT EXISTS auth;
CREATE SCHEMA IF NOT EXISTS extensions;
CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA extensions;

-- The API puts the claims of the verified token into this setting for the length of one transaction.
CREATE OR REPLACE FUNCTION auth.jwt() RETURNS jsonb
    LANGUAGE sql STABLE
    RETURN nullif(current_setting('request.jwt.claims', true), '')::jsonb;

CREATE OR REPLACE FUNCTION auth.uid() RETURNS uuid
    LANGUAGE sql STABLE
    RETURN nullif(auth.jwt() ->> 'sub', '')::uuid;

CREATE OR REPLACE FUNCTION auth.role() RETURNS text
    LANGUAGE sql STABLE
    RETURN nullif(auth.jwt() ->> 'role', '');

GRANT USAGE ON SCHEMA public, auth, extensions TO anon, authenticated, service_role, postgres;
GRANT CREATE ON SCHEMA extensions TO postgres;
GRANT EXECUTE ON FUNCTION auth.jwt(), auth.uid(), auth.role() TO anon, authenticated, service_role, postgres;
