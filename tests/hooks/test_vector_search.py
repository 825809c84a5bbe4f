"""Searching by meaning: through the index, exact in its similarities, and for whoever asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import sql

from include.core.errors import MigrationError
from include.embedding.provider import Vectors
from include.entities import ENTITIES
from local.environment import PLATFORM_SQL
from local.postgres import EmbeddedPostgres, run_script
from plugins.hooks.target_postgres import PostgresTarget
from plugins.hooks.target_schema import deploy, fit_dimensions, vector_dimensions
from plugins.hooks.vectors import VectorStore
from tests.conftest import FAST_SETTINGS, fresh_database

DIMENSIONS = 96
CLUSTERS, ROWS, COPIES = 40, 4_000, 60
Connection = psycopg.Connection[Any]

ROW = """
WITH new AS (
  INSERT INTO public.projects (id, legacy_project_id, name, project_type, status, storage_bucket)
  SELECT gen_random_uuid(), n, 'x', 'scan', 'draft', 'b' FROM generate_series(1, %s) n RETURNING id, legacy_project_id)
INSERT INTO public.project_embeddings (id, project_id, content_type, content_hash, model, dimensions, embedding)
SELECT gen_random_uuid(), new.id, 'notes', md5(v.embedding::text), 'm', extensions.vector_dims(v.embedding), v.embedding
FROM unnest(%s::extensions.vector[]) WITH ORDINALITY AS v (embedding, n) JOIN new ON new.legacy_project_id = v.n"""
SEARCH = (
    "SELECT p.legacy_project_id, m.similarity FROM public.match_projects(%s::extensions.vector, %s, %s)"
    " WITH ORDINALITY AS m (id, similarity, place) JOIN public.projects p ON p.id = m.id ORDER BY place"
)


def literal(vector: Vectors) -> str:
    return f"[{','.join(map(str, vector.tolist()))}]"


def fill(connection: Connection, vectors: Vectors) -> None:
    """A project for each vector, its legacy id the place, from 1."""
    connection.execute(ROW.encode(), [len(vectors), [literal(vector) for vector in vectors]])
    connection.execute("ANALYZE public.project_embeddings")


def build_index(connection: Connection) -> str:
    entity = ENTITIES["projects"]
    assert entity.embeddings is not None
    return VectorStore(PostgresTarget(connection), "r", entity, entity.embeddings).build_index()


def found(
    connection: Connection, query: Vectors, count: int = 10, threshold: float = -1
) -> list[tuple[int, float]]:
    return connection.execute(SEARCH.encode(), [literal(query), count, threshold]).fetchall()


def scans(connection: Connection) -> int:
    """How often the index of vectors was used."""
    connection.execute("SELECT pg_stat_force_next_flush()")
    row = connection.execute(
        "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'project_contents_hnsw'"
    ).fetchone()
    assert row is not None
    return int(row[0])


def similarities(vectors: Vectors, query: Vectors) -> Any:
    """Exact cosine similarities."""
    exact, asked = vectors.astype(np.float64), query.astype(np.float64)
    return (exact @ asked) / np.linalg.norm(exact, axis=1) / np.linalg.norm(asked)


def clustered(rows: int = ROWS, dimensions: int = DIMENSIONS) -> Any:
    """Rows around a few centres, among them many that are equal, as short documents are."""
    chance = np.random.default_rng(6)
    centres = chance.standard_normal((CLUSTERS, dimensions))
    vectors = centres[chance.integers(0, CLUSTERS, rows)] + 0.35 * chance.standard_normal((rows, dimensions))
    copied = chance.choice(rows, rows // 2, replace=False)
    vectors[copied] = vectors[copied[np.arange(len(copied)) % (len(copied) // COPIES)]]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module", params=[18, 16])
def crowded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """A target of one major version with thousands of vectors and their index."""
    settings = {name: value for name, value in FAST_SETTINGS.items() if name != "max_prepared_transactions"}
    with EmbeddedPostgres(
        tmp_path_factory.mktemp("search") / "server", major=request.param, settings=settings
    ) as own:
        own.create_login("postgres")
        run_script(own.create_database("target", owner="postgres"), PLATFORM_SQL)
        with psycopg.connect(own.dsn("target", role="postgres"), autocommit=True) as connection:
            deploy(connection, DIMENSIONS)
            fill(connection, clustered())
            assert build_index(connection) == "built"
            assert build_index(connection) == "exists"
            # So few are quicker compared one by one.
            connection.execute("SET enable_seqscan = off")
            yield connection


def test_the_index_finds_nearly_all_that_is_nearest(crowded: Connection) -> None:
    vectors, chance = clustered(), np.random.default_rng(7)
    queries = vectors[chance.choice(len(vectors), 100)] + 0.02 * chance.standard_normal((100, DIMENSIONS))
    used, hits = scans(crowded), 0
    for query in queries.astype(np.float32):
        exact = similarities(vectors, query)
        tenth = np.sort(exact)[-10]
        rows = found(crowded, query)
        assert len(rows) == 10
        hits += sum(exact[key - 1] >= tenth - 1e-6 for key, _ in rows)
        # Half the precision is the index's alone.
        assert [similarity for _, similarity in rows] == pytest.approx(
            [exact[key - 1] for key, _ in rows], abs=1e-6
        )
        assert [similarity for _, similarity in rows] == sorted((s for _, s in rows), reverse=True)
    assert scans(crowded) >= used + len(queries)
    assert hits / (10 * len(queries)) >= 0.97


@pytest.mark.parametrize("count", [1, 40, 300])
def test_as_many_are_found_as_asked_for(crowded: Connection, count: int) -> None:
    vectors = clustered()
    exact = similarities(vectors, vectors[5])
    rows = found(crowded, vectors[5], count)
    assert len({key for key, _ in rows}) == count
    last = np.sort(exact)[-count]
    assert sum(exact[key - 1] >= last - 1e-6 for key, _ in rows) >= 0.97 * count


def test_a_query_of_any_length_finds_the_same(crowded: Connection) -> None:
    """Half precision ends at 65,504."""
    query = clustered()[3]
    for scale in (1e-20, 1e6):
        assert [key for key, _ in found(crowded, query * np.float32(scale))] == [
            key for key, _ in found(crowded, query)
        ]


def test_texts_that_thousands_share_hide_none(empty: Connection) -> None:
    """An index of all rows found four of ten: equal vectors were each other's only neighbours."""
    chance = np.random.default_rng(1)
    distinct = chance.standard_normal(16) + 0.6 * chance.standard_normal((101, 16))
    vectors = np.repeat(distinct, [2_000] + [1] * 100, axis=0)[chance.permutation(2_100)].astype(np.float32)
    fit_dimensions(empty, 16)
    fill(empty, vectors)
    assert build_index(empty) == "built"
    empty.execute("SET enable_seqscan = off")
    hits = 0
    for query in (distinct[1:51] + 0.01 * chance.standard_normal((50, 16))).astype(np.float32):
        exact = similarities(vectors, query)
        hits += sum(exact[key - 1] >= np.sort(exact)[-10] - 1e-6 for key, _ in found(empty, query))
    assert hits / 500 >= 0.97
    assert scans(empty) >= 50


def test_the_search_follows_the_rows(empty: Connection) -> None:
    """What is deleted is not found; its content goes with the next run."""
    fit_dimensions(empty, 8)
    fill(empty, np.stack([plane(degrees, 8) for degrees in DEGREES]))
    assert build_index(empty) == "built"
    empty.execute(
        "DELETE FROM public.project_embeddings WHERE content_hash = md5(%s::extensions.vector::text)",
        [literal(plane(10, 8))],
    )
    assert [key for key, _ in found(empty, plane(10, 8), 2)] == [1, 3]
    assert build_index(empty) == "exists"
    assert empty.execute("SELECT count(*) FROM migration.project_contents").fetchone() == (4,)


def plane(degrees: float, dimensions: int) -> Vectors:
    """A unit vector in the plane of the first two axes."""
    vector = np.zeros(dimensions, np.float32)
    vector[:2] = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return vector


DEGREES = (0, 10, 40, 60, 90)


@pytest.fixture
def empty(server: EmbeddedPostgres, target_template: str) -> Iterator[Connection]:
    """A target without vectors, of 1,536 dimensions."""
    with (
        fresh_database(server, template=target_template, owner="postgres") as name,
        psycopg.connect(server.dsn(name, role="postgres"), autocommit=True) as connection,
    ):
        deploy(connection, None)
        yield connection


@pytest.mark.parametrize("indexed", [False, True])
class TestFew:
    @pytest.fixture(autouse=True)
    def rows(self, empty: Connection, indexed: bool) -> None:
        fit_dimensions(empty, 8)
        fill(empty, np.stack([plane(degrees, 8) for degrees in DEGREES]))
        if indexed:
            assert build_index(empty) == "built"
            empty.execute("SET enable_seqscan = off")

    def test_the_nearest_come_first(self, empty: Connection, indexed: bool) -> None:
        rows = found(empty, plane(8, 8), 3)
        assert [key for key, _ in rows] == [2, 1, 3]
        expected = [np.cos(np.radians(d)) for d in (2, 8, 32)]
        assert [similarity for _, similarity in rows] == pytest.approx(expected, abs=1e-6)
        assert not indexed or scans(empty) == 1

    @pytest.mark.parametrize(
        ("threshold", "keys"), [(-1, [1, 2, 3, 4, 5]), (0.49, [1, 2, 3, 4]), (0.9, [1, 2]), (1.1, [])]
    )
    def test_nothing_below_the_threshold(
        self, empty: Connection, indexed: bool, threshold: float, keys: list[int]
    ) -> None:
        assert [key for key, _ in found(empty, plane(0, 8), 10, threshold)] == keys

    def test_another_number_of_dimensions_is_refused(self, empty: Connection, indexed: bool) -> None:
        with pytest.raises(psycopg.errors.DataException, match="dimensions"):
            found(empty, plane(0, 9))


@pytest.mark.parametrize(
    "function", ["match_projects", "match_cases", "match_patients", "match_workflow_templates"]
)
def test_a_search_of_nothing_finds_nothing(empty: Connection, function: str) -> None:
    query = sql.SQL("SELECT * FROM {}(%s::extensions.vector)").format(sql.Identifier("public", function))
    assert empty.execute(query, [literal(plane(0, 1_536))]).fetchall() == []


class TestDimensions:
    STORAGE = (
        "SELECT attstorage::text, atttypmod FROM pg_attribute WHERE attname = 'embedding'"
        " AND attrelid = ANY (SELECT to_regclass('public.' || vectors) FROM migration.vector_tables())"
    )

    @pytest.mark.parametrize(
        ("dimensions", "storage", "index"),
        [(384, "p", "built"), (1_900, "p", "built"), (3_072, "e", "built"), (4_000, "e", "built"),
         (4_001, "e", "too_many_dimensions")],
    )  # fmt: skip
    def test_every_size_can_be_stored_and_searched(
        self, empty: Connection, dimensions: int, storage: str, index: str
    ) -> None:
        fit_dimensions(empty, dimensions)
        assert vector_dimensions(empty) == dimensions
        assert empty.execute(self.STORAGE).fetchall() == [(storage, dimensions)] * 4
        # Numbers of full length, and long texts beside them.
        chance = np.random.default_rng(1)
        vectors = np.stack([plane(d, dimensions) for d in DEGREES])
        vectors[:, 2:] += 1e-4 * chance.standard_normal((len(DEGREES), dimensions - 2)).astype(np.float32)
        fill(empty, vectors)
        empty.execute(
            "UPDATE public.project_embeddings SET model = repeat('m', 60),"
            " content_text = (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 500) n)"
        )
        assert build_index(empty) == index
        empty.execute("SET enable_seqscan = off")
        rows = found(empty, vectors[2], 3)
        exact = similarities(vectors, vectors[2])
        assert [key for key, _ in rows] == [3, 4, 2]
        assert [similarity for _, similarity in rows] == pytest.approx(
            [exact[2], exact[3], exact[1]], abs=1e-5
        )
        assert index != "built" or scans(empty) == 1

    def test_they_change_as_long_as_there_are_no_vectors(self, empty: Connection) -> None:
        assert build_index(empty) == "built"
        fit_dimensions(empty, 8)
        fill(empty, np.stack([plane(0, 8)]))
        assert build_index(empty) == "built"
        fit_dimensions(empty, 8)
        with pytest.raises(MigrationError) as caught:
            fit_dimensions(empty, 16)
        assert caught.value.code == "TARGET_DIMENSIONS"
        assert [key for key, _ in found(empty, plane(0, 8))] == [1]

    def test_a_change_keeps_who_may_search(self, empty: Connection) -> None:
        asked = (
            "SELECT proacl::text, proconfig FROM pg_proc WHERE proname ~ '^(match|nearest)_'"
            " AND pronamespace::regnamespace::text IN ('public', 'private') ORDER BY proname"
        )
        before = empty.execute(asked).fetchall()
        fit_dimensions(empty, 8)
        assert empty.execute(asked).fetchall() == before
        assert len(before) == 8
        assert {len(settings) for _, settings in before} == {2, 4}
