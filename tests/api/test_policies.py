"""Who sees what through the API: every policy, asked with real tokens through the real PostgREST.

Every row carries a label in its metadata, and a test compares the labels that somebody gets.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from psycopg import sql

from local.postgres import EmbeddedPostgres
from local.supabase_api import SupabaseApi
from plugins.hooks.target_schema import deploy_schema
from tests.conftest import fresh_database

# What a hosted project grants by itself; the platform's SQL file leaves it out on purpose.
HOSTED_DEFAULTS = """
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON SEQUENCES TO anon, authenticated, service_role;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON FUNCTIONS TO anon, authenticated, service_role"""

PEOPLE = {
    "anna": UUID(int=0xA1),  # of practice A
    "bert": UUID(int=0xB1),  # of practice B
    "both": UUID(int=0xC1),  # of A and B
    "idle": UUID(int=0xD1),  # of A, with an inactive profile
    "gone": UUID(int=0xD2),  # of A, with a deleted profile
    "left": UUID(int=0xD3),  # was of A: the membership is deleted
    "shut": UUID(int=0xD4),  # of a practice that is deleted
    "stranger": UUID(int=0xFF),  # has an account and no profile
}
NOBODY = ("idle", "gone", "stranger")
WITHOUT_PRACTICE = ("left", "shut")

# {id} makes an id of a label, {label} metadata of one.
ROWS = """
CREATE FUNCTION pg_temp.id(text) RETURNS uuid LANGUAGE sql RETURN md5($1)::uuid;
CREATE FUNCTION pg_temp.label(text) RETURNS jsonb LANGUAGE sql RETURN jsonb_build_object('label', $1);

INSERT INTO public.practices (id, legacy_office_id, deleted_at, metadata)
SELECT pg_temp.id('practice ' || p), row_number() OVER (), gone, pg_temp.label(p)
FROM (VALUES ('A', NULL::timestamptz), ('B', NULL), ('shut', now())) v (p, gone);

INSERT INTO public.profiles (id, legacy_user_id, role, is_active, auth_user_id, deleted_at, metadata)
SELECT pg_temp.id(p.key), row_number() OVER (), 'doctor', p.key <> 'idle', p.value::uuid,
  CASE p.key WHEN 'gone' THEN now() END, pg_temp.label(p.key)
FROM jsonb_each_text(%(people)s) p WHERE p.key <> 'stranger';

INSERT INTO public.practice_members
  (id, legacy_office_doctor_id, practice_id, profile_id, role, deleted_at, metadata)
SELECT pg_temp.id(p || who), row_number() OVER (), pg_temp.id('practice ' || p), pg_temp.id(who), 'doctor',
  CASE who WHEN 'left' THEN now() END, pg_temp.label(p || ' ' || who)
FROM (VALUES ('A', 'anna'), ('A', 'both'), ('A', 'idle'), ('A', 'gone'), ('A', 'left'), ('B', 'bert'), ('B', 'both'),
  ('shut', 'shut')) v (p, who);

CREATE TEMPORARY TABLE places AS
SELECT row_number() OVER () AS n, label, practice, gone
FROM (VALUES ('A', 'A', NULL::timestamptz), ('A deleted', 'A', now()), ('B', 'B', NULL), ('none', NULL, NULL),
  ('shut', 'shut', NULL)) v (label, practice, gone);

INSERT INTO public.patients (id, legacy_patient_id, practice_id, patient_number, deleted_at, metadata)
SELECT pg_temp.id('patient ' || label), n, pg_temp.id('practice ' || practice), n::text, gone, pg_temp.label(label)
FROM places;
INSERT INTO public.patients (id, legacy_patient_id, practice_id, patient_number, merged_into, metadata)
VALUES (pg_temp.id('merged'), 100, pg_temp.id('practice A'), '100', pg_temp.id('patient B'),
  pg_temp.label('A merged into B'));

INSERT INTO public.cases
  (id, legacy_instruction_id, patient_id, practice_id, case_number, is_deleted, deleted_at, metadata)
SELECT pg_temp.id('case ' || label), n, pg_temp.id('patient ' || label), pg_temp.id('practice ' || practice), n::text,
  false, gone, pg_temp.label(label) FROM places
UNION ALL
SELECT pg_temp.id('case of merged'), 100, pg_temp.id('patient B'), pg_temp.id('practice A'), '100', true, NULL,
  pg_temp.label('A of a patient of B');

INSERT INTO public.projects (id, legacy_project_id, case_id, practice_id, name, project_type, status, storage_bucket,
  deleted_at, metadata)
SELECT pg_temp.id('project ' || label), n, pg_temp.id('case ' || label), pg_temp.id('practice ' || practice), 'x',
  'scan', 'draft', 'b', gone, pg_temp.label(label) FROM places;

CREATE TEMPORARY TABLE parts AS
SELECT row_number() OVER () AS n, label, pg_temp.id('case ' || whose) AS case_id, gone
FROM (VALUES ('A', 'A', NULL::timestamptz), ('A deleted', 'A', now()), ('of a deleted case', 'A deleted', NULL),
  ('B', 'B', NULL), ('none', 'none', NULL), ('shut', 'shut', NULL)) v (label, whose, gone);
INSERT INTO public.instruction_states (id, legacy_state_id, case_id, legacy_instruction_id, instruction_type,
  status_code, status_name, is_active, deleted_at, metadata)
SELECT pg_temp.id('state ' || label), n, case_id, 1, 'x', 1, 'x', true, gone, pg_temp.label(label) FROM parts;
INSERT INTO public.state_analytics (id, legacy_state_id, case_id, instruction_state_id, to_state, bottleneck_detected,
  deleted_at, metadata)
SELECT pg_temp.id('step ' || label), n, case_id, pg_temp.id('state ' || label), 'x', false, gone, pg_temp.label(label)
FROM parts;

INSERT INTO public.workflow_templates (id, legacy_category_id, deleted_at, metadata)
VALUES (pg_temp.id('workflow'), 1, NULL, pg_temp.label('live')),
  (pg_temp.id('old workflow'), 2, now(), pg_temp.label('deleted'));
INSERT INTO public.workflow_template_tasks (id, legacy_template_id, workflow_template_id, task_order, deleted_at,
  metadata)
VALUES (pg_temp.id('task'), 1, pg_temp.id('workflow'), 1, NULL, pg_temp.label('live')),
  (pg_temp.id('old task'), 2, pg_temp.id('workflow'), 2, now(), pg_temp.label('deleted'));
INSERT INTO public.workflow_performance (id, legacy_category_id, legacy_instruction_id, workflow_template_id, case_id,
  deleted_at, metadata)
SELECT pg_temp.id('performance ' || label), 1, n, pg_temp.id('workflow'), case_id, gone, pg_temp.label(label)
FROM parts;

INSERT INTO public.case_embeddings
  (id, case_id, content_type, content_hash, model, dimensions, embedding, metadata)
SELECT gen_random_uuid(), id, 'case_summary', '', 'm', 16, array_fill(1, ARRAY[16])::extensions.vector, metadata
FROM public.cases;
INSERT INTO public.patient_embeddings
  (id, patient_id, content_type, content_hash, model, dimensions, embedding, metadata)
SELECT gen_random_uuid(), id, 'notes', '', 'm', 16, array_fill(1, ARRAY[16])::extensions.vector, metadata
FROM public.patients;
INSERT INTO public.project_embeddings
  (id, project_id, content_type, content_hash, model, dimensions, embedding, metadata)
SELECT gen_random_uuid(), id, 'notes', '', 'm', 16, array_fill(1, ARRAY[16])::extensions.vector, metadata
FROM public.projects;
INSERT INTO public.workflow_template_embeddings
  (id, workflow_template_task_id, content_type, content_hash, model, dimensions, embedding, metadata)
SELECT gen_random_uuid(), id, 'notes', '', 'm', 16, array_fill(1, ARRAY[16])::extensions.vector, metadata
FROM public.workflow_template_tasks"""

# What a member of practice A, of practice B, and of both sees; and who has a profile but no practice.
PARTS: tuple[list[str], list[str], list[str]] = (["A"], ["B"], [])
SEEN: dict[str, tuple[list[str], list[str], list[str]]] = {
    "practices": (["A"], ["B"], []),
    "profiles": (["anna", "both", "idle"], ["bert", "both"], ["self"]),
    "practice_members": (["A anna", "A both", "A gone", "A idle"], ["B bert", "B both"], []),
    "patients": (["A", "A merged into B"], ["B"], []),
    "cases": (["A", "A of a patient of B"], ["B"], []),
    "projects": PARTS,
    "instruction_states": PARTS,
    "state_analytics": PARTS,
    "workflow_performance": PARTS,
    "project_embeddings": PARTS,
    "case_embeddings": (["A", "A of a patient of B"], ["B"], []),
    "patient_embeddings": (["A", "A merged into B"], ["B"], []),
    "workflow_templates": (["live"], ["live"], ["live"]),
    "workflow_template_tasks": (["live"], ["live"], ["live"]),
    "workflow_template_embeddings": (["live"], ["live"], ["live"]),
}
EVERY_TABLE = pytest.mark.parametrize("table", SEEN)
VECTOR = json.dumps([1] * 16)
SEARCHES = {
    "match_cases": ("case_id", "cases"),
    "match_patients": ("patient_id", "patients"),
    "match_projects": ("project_id", "projects"),
    "match_workflow_templates": ("workflow_template_task_id", "workflow_template_tasks"),
}
REFUSED = "42501"


class Target:
    """A deployed target with rows of two practices, and its API as different people use it."""

    def __init__(self, dsn: str, api: SupabaseApi) -> None:
        self.dsn = dsn
        self._api = api
        self._client = httpx.Client(base_url=f"{api.url}/rest/v1", trust_env=False, timeout=30)

    def as_(self, who: str, method: str, path: str, **options: Any) -> httpx.Response:
        """A request of a person, of `anon` or of `service_role`."""
        keys = self._api.keys
        headers = {
            "apikey": keys.secret if who == "service_role" else keys.anon,
            **options.pop("headers", {}),
        }
        if who in PEOPLE:
            headers["Authorization"] = f"Bearer {keys.user_token(PEOPLE[who])}"
        return self._client.request(method, path, headers=headers, **options)

    def labels(self, who: str, table: str) -> list[str]:
        """Labels of the rows that somebody sees of a table."""
        answer = self.as_(who, "GET", f"/{table}", params={"select": "label:metadata->>label"})
        assert answer.status_code == 200, answer.text
        return sorted(row["label"] for row in answer.json())

    def stored(self, table: str) -> list[str]:
        """Labels of all rows of a table."""
        with psycopg.connect(self.dsn) as connection:
            query = sql.SQL("SELECT metadata ->> 'label' FROM {}").format(sql.Identifier("public", table))
            return sorted(label for (label,) in connection.execute(query))

    def close(self) -> None:
        """Close the client."""
        self._client.close()


@pytest.fixture(scope="module")
def target(server: EmbeddedPostgres, target_template: str, supabase_api: SupabaseApi) -> Iterator[Target]:
    with fresh_database(server, template=target_template, owner="postgres") as name:
        dsn = server.dsn(name, role="postgres")
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(HOSTED_DEFAULTS)
            deploy_schema(connection, 16)
            people = json.dumps({who: str(user) for who, user in PEOPLE.items()})
            psycopg.ClientCursor(connection).execute(ROWS.encode(), {"people": people})
        with supabase_api.serving(server.dsn(name, role="authenticator")):
            opened = Target(dsn, supabase_api)
            yield opened
            opened.close()


def refused(answer: httpx.Response, who: str) -> None:
    """Without a token one is asked for one, with a token one is forbidden."""
    assert (answer.status_code, answer.json()["code"]) == (401 if who == "anon" else 403, REFUSED)


@EVERY_TABLE
class TestReading:
    def test_a_member_sees_the_own_practice_alone(self, target: Target, table: str) -> None:
        of_a, of_b, _ = SEEN[table]
        assert target.labels("anna", table) == of_a
        assert target.labels("bert", table) == of_b
        assert target.labels("both", table) == sorted({*of_a, *of_b})

    @pytest.mark.parametrize("who", NOBODY)
    def test_without_a_live_profile_nothing_is_seen(self, target: Target, table: str, who: str) -> None:
        assert target.labels(who, table) == []

    @pytest.mark.parametrize("who", WITHOUT_PRACTICE)
    def test_without_a_live_practice_no_practice_is_seen(self, target: Target, table: str, who: str) -> None:
        expected = [who if label == "self" else label for label in SEEN[table][2]]
        assert target.labels(who, table) == expected

    def test_anon_is_refused(self, target: Target, table: str) -> None:
        refused(target.as_("anon", "GET", f"/{table}"), "anon")

    def test_service_role_sees_all(self, target: Target, table: str) -> None:
        stored = target.stored(table)
        assert target.labels("service_role", table) == stored
        assert len(stored) > len(SEEN[table][0])


def test_every_table_of_the_api_is_tested(target: Target) -> None:
    with psycopg.connect(target.dsn) as connection:
        tables = connection.execute(
            "SELECT c.relname, array_agg(p.polcmd::text) FROM pg_class c LEFT JOIN pg_policy p ON p.polrelid = c.oid"
            " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v', 'm', 'p', 'f')"
            " GROUP BY c.relname"
        ).fetchall()
    assert dict(tables) == {**{table: ["r"] for table in SEEN}, "current_patients": [None]}


def test_the_view_shows_each_patient_once_to_whoever_may_see_it(target: Target) -> None:
    """It has no policy of its own; of a survivor that is out of sight, the merged row is shown."""
    view = "current_patients"
    assert target.labels("anna", view) == ["A", "A merged into B"]
    assert target.labels("bert", view) == ["B"]
    assert target.labels("both", view) == ["A", "B"]
    assert target.labels("service_role", view) == ["A", "B", "none", "shut"]
    for who in (*NOBODY, *WITHOUT_PRACTICE):
        assert target.labels(who, view) == []
    refused(target.as_("anon", "GET", f"/{view}"), "anon")
    for who in ("anon", "anna", "service_role"):
        refused(target.as_(who, "PATCH", f"/{view}?suffix=is.null", json={"suffix": "x"}), who)


def test_a_case_of_a_merged_patient_leads_to_the_own_row_of_the_patient(target: Target) -> None:
    """Deduplication knows no practices: the survivor may belong to another one, which stays out of sight."""
    (case,) = target.as_("anna", "GET", "/cases?metadata->>label=eq.A of a patient of B").json()
    survivor = case["patient_id"]
    assert target.as_("anna", "GET", f"/patients?id=eq.{survivor}").json() == []
    (own,) = target.as_("anna", "GET", f"/patients?merged_into=eq.{survivor}").json()
    assert own["metadata"]["label"] == "A merged into B"


@EVERY_TABLE
@pytest.mark.parametrize("who", ["anon", "anna"])
def test_nobody_but_the_service_writes(target: Target, table: str, who: str) -> None:
    before = target.stored(table)
    row = {"id": str(UUID(int=1)), "metadata": {"label": "written"}}
    for method, path, options in (
        ("POST", f"/{table}", {"json": row}),
        ("POST", f"/{table}", {"json": row, "headers": {"Prefer": "resolution=merge-duplicates"}}),
        ("PATCH", f"/{table}?metadata->>label=eq.A", {"json": {"metadata": {}}}),
        ("DELETE", f"/{table}?metadata->>label=eq.A", {}),
    ):
        refused(target.as_(who, method, path, **options), who)
    assert target.stored(table) == before


def test_the_service_writes(target: Target) -> None:
    row = {"id": str(UUID(int=1)), "legacy_office_id": 999, "metadata": {"label": "written"}}
    assert target.as_("service_role", "POST", "/practices", json=row).status_code == 201
    assert "written" in target.stored("practices")
    assert target.as_("service_role", "DELETE", f"/practices?id=eq.{row['id']}").status_code == 204


@pytest.mark.parametrize("function", SEARCHES)
class TestSearches:
    def found(self, target: Target, who: str, function: str) -> list[str]:
        column, table = SEARCHES[function]
        answer = target.as_(who, "POST", f"/rpc/{function}", json={"query": VECTOR, "count": 100})
        assert answer.status_code == 200, answer.text
        ids = ",".join(row[column] for row in answer.json())
        rows = target.as_("service_role", "GET", f"/{table}?id=in.({ids})&select=label:metadata->>label")
        return sorted(row["label"] for row in rows.json())

    def test_find_what_the_person_may_see(self, target: Target, function: str) -> None:
        _, table = SEARCHES[function]
        for who, labels in (("anna", SEEN[table][0]), ("bert", SEEN[table][1])):
            assert self.found(target, who, function) == labels
        assert self.found(target, "stranger", function) == []
        assert self.found(target, "service_role", function) == target.stored(table)

    def test_anon_is_refused(self, target: Target, function: str) -> None:
        refused(target.as_("anon", "POST", f"/rpc/{function}", json={"query": VECTOR}), "anon")


@pytest.fixture(scope="module")
def functions(target: Target) -> list[tuple[str, str, list[str]]]:
    """Schema, signature and names of the parameters of every function that was deployed."""
    with psycopg.connect(target.dsn) as connection:
        return connection.execute(
            "SELECT p.pronamespace::regnamespace::text, p.oid::regprocedure::text,"
            " coalesce(p.proargnames[1:p.pronargs], '{}') FROM pg_proc p"
            " WHERE p.pronamespace::regnamespace::text IN ('public', 'private', 'migration', 'migration_api')"
        ).fetchall()


ALLOWED = {
    "public": {"authenticated": True, "service_role": True},
    "private": {"authenticated": True, "service_role": True},
    "migration": {"authenticated": False, "service_role": True},
    "migration_api": {"authenticated": False, "service_role": True},
}


def test_functions_are_executable_by_whom_they_are_for(
    target: Target, functions: list[tuple[str, str, list[str]]]
) -> None:
    assert {schema for schema, _, _ in functions} == set(ALLOWED)
    query = "SELECT has_function_privilege(%s, %s, 'EXECUTE'), has_schema_privilege(%s, %s, 'USAGE')"
    with psycopg.connect(target.dsn) as connection:
        for schema, signature, _ in functions:
            for role, allowed in {"anon": False, **ALLOWED[schema]}.items():
                found = connection.execute(query, [role, signature, role, schema]).fetchone()
                assert found == (allowed, allowed or schema == "public"), (role, signature)


@pytest.mark.parametrize("who", ["anon", "anna"])
def test_the_functions_of_the_migration_are_refused(
    target: Target, functions: list[tuple[str, str, list[str]]], who: str
) -> None:
    asked = 0
    for schema, signature, parameters in functions:
        if schema == "migration_api":
            name = signature.removeprefix("migration_api.").partition("(")[0]
            arguments = dict.fromkeys(parameters)
            headers = {"Content-Profile": "migration_api"}
            refused(target.as_(who, "POST", f"/rpc/{name}", json=arguments, headers=headers), who)
            asked += 1
    assert asked > 10


@pytest.mark.parametrize("schema", ["migration", "private", "auth", "pg_catalog"])
@pytest.mark.parametrize("who", ["anon", "anna", "service_role"])
def test_other_schemas_are_out_of_reach(target: Target, who: str, schema: str) -> None:
    for method, header in (("GET", "Accept-Profile"), ("POST", "Content-Profile")):
        answer = target.as_(
            who, method, "/runs", headers={header: schema}, json={} if method == "POST" else None
        )
        assert (answer.status_code, answer.json()["code"]) == (406, "PGRST106")


def test_anon_is_not_even_told_what_there_is(target: Target) -> None:
    for schema in ("public", "migration_api"):
        answer = target.as_("anon", "GET", "/", headers={"Accept-Profile": schema})
        told = answer.json().get("paths", {}) if answer.status_code == 200 else {}
        assert set(told) <= {"/"}, schema


def test_an_expired_token_is_refused(target: Target, supabase_api: SupabaseApi) -> None:
    expired = supabase_api.keys.user_token(PEOPLE["anna"], seconds=-60)
    answer = target.as_("anon", "GET", "/cases", headers={"Authorization": f"Bearer {expired}"})
    assert answer.status_code == 401


MANY = """
CREATE FUNCTION pg_temp.id(text, bigint) RETURNS uuid LANGUAGE sql RETURN md5($1 || $2)::uuid;
INSERT INTO public.practices (id, legacy_office_id) SELECT pg_temp.id('o', n), n FROM generate_series(1001, 1200) n;
INSERT INTO public.profiles (id, legacy_user_id, role, is_active, auth_user_id)
  SELECT pg_temp.id('u', n), n, 'doctor', true, pg_temp.id('a', n) FROM generate_series(1001, 3000) n;
INSERT INTO public.practice_members (id, legacy_office_doctor_id, practice_id, profile_id, role)
  SELECT pg_temp.id('m', n), n, pg_temp.id('o', 1001 + n % 200), pg_temp.id('u', n), 'doctor'
  FROM generate_series(1001, 1400) n;
INSERT INTO public.patients (id, legacy_patient_id, practice_id, patient_number)
  SELECT pg_temp.id('p', n), n, pg_temp.id('o', 1001 + n % 200), n::text FROM generate_series(1001, 51000) n;
INSERT INTO public.cases (id, legacy_instruction_id, patient_id, practice_id, case_number)
  SELECT pg_temp.id('c', n), n, pg_temp.id('p', n), pg_temp.id('o', 1001 + n % 200), n::text
  FROM generate_series(1001, 21000) n;
INSERT INTO public.instruction_states
    (id, legacy_state_id, case_id, legacy_instruction_id, instruction_type, status_code, status_name, is_active)
  SELECT pg_temp.id('s', n), n, pg_temp.id('c', n), n, 'x', 1, 'x', true FROM generate_series(1001, 21000) n;
SELECT setseed(0.5);
INSERT INTO public.case_embeddings (id, case_id, content_type, content_hash, model, dimensions, embedding)
  SELECT pg_temp.id('e', n), pg_temp.id('c', n), 'case_summary', n::text, 'm', 16,
    ARRAY(SELECT random() + 0 * n FROM generate_series(1, 16))::extensions.vector FROM generate_series(1001, 11000) n;
SELECT migration.refresh_contents('case_embeddings');
CREATE INDEX case_contents_hnsw ON migration.case_contents USING hnsw (embedding extensions.halfvec_cosine_ops);
ANALYZE"""
MEMBER = "SELECT set_config('request.jwt.claims', json_build_object('sub', md5('a1001')::uuid)::text, true)"


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


@pytest.fixture(scope="module")
def crowded_target(server: EmbeddedPostgres, target_template: str) -> Iterator[str]:
    """DSN of a target with 200 practices, 50,000 patients and an index of vectors."""
    with fresh_database(server, template=target_template, owner="postgres") as name:
        dsn = server.dsn(name, role="postgres")
        with psycopg.connect(dsn, autocommit=True) as connection:
            deploy_schema(connection, 16)
            connection.execute(MANY)
        yield dsn


@pytest.fixture
def crowded(crowded_target: str) -> Iterator[psycopg.Connection[Any]]:
    """A member's session in that target."""
    with psycopg.connect(crowded_target) as connection:
        connection.execute(MEMBER)
        connection.execute("SET LOCAL ROLE authenticated")
        yield connection


def test_policies_cost_a_member_no_look_at_others_rows(crowded: psycopg.Connection[Any]) -> None:
    for query, rows, most_touched in (
        ("SELECT * FROM public.patients", 250, 250),
        ("SELECT * FROM public.cases", 100, 100),
        ("SELECT * FROM public.profiles", 2, 2),
        ("SELECT * FROM public.instruction_states WHERE case_id = md5('c1201')::uuid", 1, 1),
        # Without a condition of its own, the rows are gone through once, against a set that is made once.
        ("SELECT * FROM public.instruction_states", 100, 20_000),
    ):
        ((explained,),) = crowded.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}".encode()).fetchall()
        plan = explained[0]["Plan"]
        assert plan["Actual Rows"] == rows, query
        every = list(nodes(plan))
        touched = [n for n in every if n.get("Relation Name") and n["Actual Loops"]]
        seen = max(n["Actual Rows"] + n.get("Rows Removed by Filter", 0) for n in touched)
        assert seen <= most_touched, query
        once = [n for n in every if n.get("Subplan Name", "").startswith(("InitPlan", "SubPlan"))]
        assert once
        assert {n["Actual Loops"] for n in once} == {1}, query


def test_a_search_finds_the_own_rows_among_many_others(crowded: psycopg.Connection[Any]) -> None:
    """Without going on, the index yields the 40 nearest of all practices, and hardly one is the member's."""
    query = "FROM public.match_cases(array_fill(1::real, ARRAY[16])::extensions.vector, 10)"
    assert crowded.execute(f"SELECT count(*) {query}".encode()).fetchone() == (10,)
    crowded.execute("SET LOCAL enable_indexscan = off")
    exact = crowded.execute(f"SELECT array_agg(case_id) {query}".encode()).fetchone()
    crowded.execute("SET LOCAL enable_indexscan = on")
    crowded.execute("SET LOCAL enable_seqscan = off")
    by_index = crowded.execute(f"SELECT array_agg(case_id) {query}".encode()).fetchone()
    assert exact is not None
    assert by_index is not None
    assert len(set(exact[0]) & set(by_index[0])) >= 8
