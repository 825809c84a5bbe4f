"""Vectors are of the texts that their rows have now, well formed, and what searches find them by."""

from __future__ import annotations

import pyarrow as pa
import pytest

from include.core.batches import Partition
from include.core.ids import target_id
from include.core.tracking import Check
from include.embedding import redaction
from include.embedding.documents import recipe
from include.embedding.redaction import Redactor
from include.embedding.rendering import rendered
from include.entities import ENTITIES
from plugins.hooks.embeddings import HashProvider
from plugins.hooks.target_schema import fit_dimensions
from plugins.hooks.vector_check import VectorCheck
from plugins.hooks.vectors import VectorStore
from tests.hooks.loading import Target, case, patient, project

BOTH_WAYS = True
RUN = "run-1"
PROVIDER = HashProvider()


def embed(target: Target, name: str, *, free_text: bool = False, complete: bool = True) -> None:
    """What a run does: vectors for all documents, an index, and the mark that all is done."""
    entity = ENTITIES[name]
    assert entity.embeddings is not None
    document = entity.embeddings.document
    store = VectorStore(target.api, RUN, entity, entity.embeddings)
    redactor = Redactor(store.known_names()) if free_text else None
    for rows in store.documents(Partition(name, 0, None, None), 100, free_text=free_text):
        documents = rendered(document, rows, PROVIDER, redactor).documents
        texts = dict(zip(*(documents.column(c).to_pylist() for c in ("hash", "text")), strict=True))
        vectors = PROVIDER.embed(list(texts.values())).vectors
        if free_text:
            documents = documents.drop_columns(["text"]).append_column(
                "text", pa.nulls(documents.num_rows, pa.string())
            )
        store.store(documents, (list(texts), vectors), PROVIDER.model, PROVIDER.dimensions)
    store.build_index()
    if complete:
        store.remember_complete(
            recipe(
                document,
                model=PROVIDER.model,
                dimensions=PROVIDER.dimensions,
                free_text=free_text,
                redaction=redaction.VERSION,
            )
        )


def checks(target: Target, name: str = "projects", *, free_text: bool = False) -> dict[str, Check]:
    entity = ENTITIES[name]
    assert entity.embeddings is not None
    check = VectorCheck(target.api, RUN, entity, entity.embeddings, PROVIDER)
    return {found.name: found for found in check.checks(free_text=free_text)}


def not_passed(found: dict[str, Check]) -> dict[str, tuple[str, ...]]:
    return {name: check.sample_keys for name, check in found.items() if not check.passed}


@pytest.fixture
def embedded(target: Target) -> Target:
    """Projects 1 to 6, the last two of the same text, each with its vector."""
    fit_dimensions(target.connection, PROVIDER.dimensions)
    months = [f"20{year}-01-15 10:00:00+00" for year in (10, 11, 12, 13, 14, 14)]
    target.load("projects", [project(key, created_at=month) for key, month in enumerate(months, 1)], run=RUN)
    embed(target, "projects")
    return target


def test_vectors_of_a_finished_run_pass(embedded: Target) -> None:
    found = checks(embedded)
    assert not_passed(found) == {}
    assert set(found) == {
        "vectors_well_formed",
        "vectors_as_indexed",
        "vectors_of_current_texts",
        "vectors_outdated",
    }


CORRUPTIONS = {
    "vector and hash of another text": (
        "UPDATE public.project_embeddings e SET (content_hash, embedding) = (o.content_hash, o.embedding)"
        " FROM public.project_embeddings o JOIN public.projects p ON p.id = o.project_id"
        f" WHERE p.legacy_project_id = 2 AND e.project_id = '{target_id('projects', '1')}'",
        {"vectors_of_current_texts": ("1",)},
    ),
    "vector of another text under the hash of this one": (
        "UPDATE public.project_embeddings e SET embedding = o.embedding"
        " FROM public.project_embeddings o JOIN public.projects p ON p.id = o.project_id"
        f" WHERE p.legacy_project_id = 2 AND e.project_id = '{target_id('projects', '1')}'",
        {"vectors_as_indexed": ("1",)},
    ),
    "text beside the vector": (
        "UPDATE public.project_embeddings SET content_text = content_text || ' ' WHERE project_id ="
        " (SELECT id FROM public.projects WHERE legacy_project_id = 3)",
        {"vectors_of_current_texts": ("3",)},
    ),
    "the row, not as a run writes it": (
        "UPDATE public.projects SET status = 'in_progress' WHERE legacy_project_id = 4",
        {"vectors_of_current_texts": ("4",)},
    ),
    "a vector of nothing": (
        "UPDATE public.project_embeddings SET embedding = array_fill(0, ARRAY[dimensions])::extensions.vector"
        " WHERE project_id = (SELECT id FROM public.projects WHERE legacy_project_id = 5)",
        {"vectors_well_formed": ("5",), "vectors_as_indexed": ("5",)},
    ),
    "another size said": (
        "UPDATE public.project_embeddings SET dimensions = 7 WHERE project_id ="
        " (SELECT id FROM public.projects WHERE legacy_project_id = 6)",
        {"vectors_well_formed": ("6",)},
    ),
    "a content that no search finds": (
        "DELETE FROM migration.project_contents WHERE content_hash = (SELECT v.content_hash"
        " FROM public.project_embeddings v JOIN public.projects p ON p.id = v.project_id WHERE legacy_project_id = 6)",
        {"vectors_as_indexed": ("5", "6")},
    ),
}


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_wrong_vector_is_noticed_and_named(embedded: Target, kind: str) -> None:
    statement, expected = CORRUPTIONS[kind]
    assert embedded.connection.execute(statement.encode()).rowcount > 0
    assert not_passed(checks(embedded)) == expected


def test_a_row_that_was_loaded_since_is_told_apart(embedded: Target) -> None:
    embedded.load("projects", [project(1, created_at="2020-05-15 10:00:00+00")], run=RUN, batch="later")
    found = checks(embedded)
    assert not_passed(found) == {"vectors_outdated": ("1",)}
    assert found["vectors_outdated"].severity == "warn"


def test_where_nobody_says_that_all_is_done_nothing_fails(embedded: Target) -> None:
    embedded.connection.execute("DELETE FROM migration.watermarks")
    embedded.connection.execute(
        "UPDATE public.projects SET status = 'in_progress' WHERE legacy_project_id = 4"
    )
    assert not_passed(checks(embedded)) == {"vectors_outdated": ("4",)}


@pytest.mark.parametrize("asked", [True, False])
def test_free_text_is_looked_at_where_the_vectors_were_made_with_it(target: Target, asked: bool) -> None:
    """Whatever the run that validates is set to."""
    fit_dimensions(target.connection, PROVIDER.dimensions)
    target.load("patients", [patient(1, last_name="Zweifelstein")], run=RUN)
    notes = '{{"notes": "Crown for Zweifelstein, shade {}"}}'
    target.load(
        "cases",
        [case(key, 1, clinical=notes.format(shade)) for key, shade in ((1, "A1"), (2, "B2"))],
        run=RUN,
    )
    embed(target, "cases", free_text=True)
    assert not_passed(checks(target, "cases", free_text=asked)) == {}
    target.connection.execute(
        "UPDATE public.cases SET clinical = jsonb_set(clinical, '{notes}', '\"Crown, shade C3\"')"
        " WHERE legacy_instruction_id = 2"
    )
    assert not_passed(checks(target, "cases", free_text=asked)) == {"vectors_of_current_texts": ("2",)}
