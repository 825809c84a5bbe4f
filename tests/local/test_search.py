"""What the README's tour promises: rows of a small demo, found by meaning with the model that is built in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
import pytest

from include.synthetic.sizes import SourceSize
from local.databases import SEED
from local.legacy_source import fill
from local.postgres import EmbeddedPostgres
from plugins.hooks.embeddings import LocalProvider
from plugins.hooks.target_postgres import PostgresTarget
from plugins.search.nearest import nearest
from tests.conftest import fresh_database
from tests.end_to_end.conftest import READER, allow_reading
from tests.end_to_end.runs import Databases
from tests.incremental.runner import FULL, run

SIZE = SourceSize.real().scaled(240, tasks=0)
ENTITIES = ["practices", "profiles", "patients", "cases", "projects"]
TABLES = {"projects": ("project_embeddings", "project_id"), "cases": ("case_embeddings", "case_id")}
QUESTIONS = (
    "large scan that was shipped",
    "treatment plan of a refinement",
    "simulation for an active treatment",
    "small files from the summer of 2018",
    "design of aligners, approved",
    "what came in during December 2022",
    "Scan eines versandten Falls",
    "invoice",
)
ASKED_BY_DOCUMENT = 60


@dataclass(frozen=True)
class Demo:
    """A target with vectors of the local model.

    Attributes:
        connection: of the target's owner, for which indexes come before reading all rows.
    """

    connection: psycopg.Connection[Any]
    provider: LocalProvider

    def read(self, query: str, values: list[Any] | None = None) -> list[tuple[Any, ...]]:
        return self.connection.execute(query.encode(), values).fetchall()

    def found(self, entity: str, question: str, count: int = 10) -> list[str]:
        """Documents, as `python -m plugins.search` finds them."""
        rows = nearest(
            PostgresTarget(self.connection), entity, self.provider, question, count=count, threshold=0
        )
        return [row.text or "" for row in rows]


@pytest.fixture(scope="module")
def demo(
    server: EmbeddedPostgres, target_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Demo]:
    """The demo's source, smaller, migrated and embedded."""
    server.create_login(READER)
    with (
        fresh_database(server) as source,
        fresh_database(server, template=target_template, owner="postgres") as target,
    ):
        fill(server.dsn(source), SIZE, SEED, progress=lambda _: None)
        allow_reading(server.dsn(source))
        databases = Databases(
            source=server.dsn(source, role=READER),
            target=server.dsn(target, role="postgres"),
            source_admin=server.dsn(source),
        )
        local = {"MIGRATION_EMBEDDING_PROVIDER": "local"}
        folder = tmp_path_factory.mktemp("demo")
        run(FULL, databases, folder, environment=local, dry_run=False, entities=ENTITIES).raise_errors()
        with psycopg.connect(databases.target, autocommit=True) as connection:
            # So few are quicker compared one by one.
            connection.execute("SET enable_seqscan = off")
            yield Demo(connection, LocalProvider())


@pytest.mark.parametrize("entity", TABLES)
def test_the_index_finds_nearly_all_that_is_nearest(demo: Demo, entity: str) -> None:
    """Against exact search; of equally similar rows any is right."""
    table, owner = TABLES[entity]
    rows = demo.read(f"SELECT {owner}, embedding::text FROM public.{table} ORDER BY {owner}")
    vectors = np.array([np.fromstring(text.strip("[]"), sep=",") for _, text in rows])
    place = {key: number for number, (key, _) in enumerate(rows)}
    assert len(rows) > 500
    chance = np.random.default_rng(6)
    documents = vectors[chance.choice(len(vectors), ASKED_BY_DOCUMENT, replace=False)]
    queries = np.concatenate([demo.provider.embed(QUESTIONS).vectors, documents])
    used, hits = _scans(demo, entity), 0
    for query in queries:
        similarities = vectors @ query
        tenth = np.sort(similarities)[-10]
        found = demo.read(
            f"SELECT {owner} FROM public.match_{entity}(%s::extensions.vector, 10, -1)",
            [str(query.tolist())],
        )
        assert len(found) == 10
        hits += sum(similarities[place[key]] >= tenth - 1e-6 for (key,) in found)
    assert _scans(demo, entity) >= used + len(queries)
    recall = hits / (10 * len(queries))
    assert recall >= 0.95


def _scans(demo: Demo, entity: str) -> int:
    """How often the entity's index of vectors was used."""
    demo.read("SELECT pg_stat_force_next_flush()")
    name = f"{entity.removesuffix('s')}_contents_hnsw"
    [(scans,)] = demo.read("SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = %s", [name])
    return int(scans)


@pytest.mark.parametrize(
    ("entity", "question", "wanted"),
    [
        (
            "projects",
            "shipped scans of a refinement",
            ("type scan", "type refinement", "state shipped"),
        ),
        ("projects", "Scan eines versandten Falls", ("type scan", "state shipped")),
        (
            "projects",
            "simulation of a finished treatment that has been delivered",
            ("type simulation", "state shipped"),
        ),
        ("cases", "refinement submitted in 2019", ("Order Refinement", " 2019.")),
        ("cases", "a bill", ("Order Invoice",)),
        ("cases", "Rechnung", ("Order Invoice",)),
    ],
)
def test_what_is_meant_is_found_in_other_words_and_languages(
    demo: Demo, entity: str, question: str, wanted: tuple[str, ...]
) -> None:
    table, _ = TABLES[entity]
    texts = [text for (text,) in demo.read(f"SELECT content_text FROM public.{table}")]
    right = [text for text in texts if all(words in text for words in wanted)]
    assert 5 <= len(right) < len(texts) / 4, "nothing that chance would find"
    found = demo.found(entity, question, count=5)
    assert len(found) == 5
    assert set(found) <= set(right)
