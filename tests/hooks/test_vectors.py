"""Documents into vectors and searching them, with a provider that counts what it is sent."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from psycopg.rows import dict_row

from include.core.batches import Partition
from include.core.errors import MigrationError
from include.core.ids import target_id
from include.core.settings import check, params
from include.embedding.content_hash import content_hashes
from include.entities import ENTITIES
from plugins.hooks.embeddings import HashProvider
from plugins.hooks.vectors import VectorStore
from plugins.operators import embed
from plugins.operators.embed import BuildIndexOperator, EmbedOperator
from plugins.operators.step import Run
from tests.hooks.loading import DIMENSIONS, Target, case, patient, project, task, workflow

BOTH_WAYS = True
RUN = "run-1"


class CountingProvider(HashProvider):
    """Keeps every request it is sent."""

    max_inputs = 3

    def __init__(self) -> None:
        super().__init__(DIMENSIONS)
        self.requests: list[list[str]] = []

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """See the base class."""
        self.requests.append(list(texts))
        return super().embed(texts)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> CountingProvider:
    counting = CountingProvider()
    monkeypatch.setattr(embed, "choose_provider", lambda: counting)
    return counting


@pytest.fixture(autouse=True)
def the_way_of_the_target(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators take it too: the client's, where there is no other."""
    if target.api.way == "rest":
        monkeypatch.delenv("AIRFLOW_CONN_SUPABASE_DB")


def step_of(entity: str) -> Run:
    settings = check({"dry_run": False}, params(ENTITIES, kind="incremental", environment={}))
    return Run(RUN, "mdw_full_migration", "full", settings, entity, 1, "test", None)  # type: ignore[arg-type]


def embed_all(entity: str, low: int | None = None, high: int | None = None) -> dict[str, int]:
    partition = {**Partition(entity, 0, low, high).to_json(), "label": entity}
    operator = EmbedOperator(task_id=f"ai_enhancement_{entity}", entity=entity, partition=partition)
    return operator.step(step_of(entity))


def vectors(target: Target, table: str = "project_embeddings") -> list[tuple[str, ...]]:
    return target.all(f"SELECT id::text, xmin::text, content_hash FROM public.{table} ORDER BY 1")


@pytest.mark.parametrize(("chosen", "remembered"), [([], True), (["practices"], False)])
def test_only_a_run_of_the_entity_has_all_its_documents(
    target: Target, provider: CountingProvider, chosen: list[str], remembered: bool
) -> None:
    target.load("projects", [project(1)], run=RUN)
    settings = check({"entities": chosen}, params(ENTITIES, kind="incremental", environment={}))
    run = replace(step_of("projects"), settings=settings)
    BuildIndexOperator(task_id="ai_enhancement_projects_index", entity="projects").step(run)
    assert (
        bool(target.all("SELECT 1 FROM migration.watermarks WHERE name = 'project_embeddings'")) is remembered
    )


def test_equal_texts_are_sent_once(target: Target, provider: CountingProvider) -> None:
    target.load("projects", [project(key) for key in range(1, 11)], run=RUN)
    assert embed_all("projects") == {"documents": 10, "lacking": 10, "sent": 1}
    assert [len(request) for request in provider.requests] == [1]
    stored = target.all("SELECT count(*), count(DISTINCT embedding::text), min(model), min(dimensions)"
                        " FROM public.project_embeddings")  # fmt: skip
    assert stored == [(10, 1, "sha256-unit-vectors", DIMENSIONS)]


def test_a_rerun_sends_and_writes_nothing(target: Target, provider: CountingProvider) -> None:
    target.load("projects", [project(1), project(2, file_size="20000000")], run=RUN)
    embed_all("projects")
    before = vectors(target)
    assert embed_all("projects") == {"documents": 2, "lacking": 0, "sent": 0}
    assert (vectors(target), len(provider.requests)) == (before, 1)


def test_a_changed_text_is_embedded_alone(target: Target, provider: CountingProvider) -> None:
    rows = [
        project(key, type_code=str(key), project_type=kind)
        for key, kind in enumerate(("scan", "model", "xray"))
    ]
    target.load("projects", rows, run=RUN)
    embed_all("projects")
    before = vectors(target)
    changed = project(1, type_code="1", project_type="photo")
    target.load("projects", [rows[0], changed, rows[2]], run=RUN)
    assert embed_all("projects") == {"documents": 3, "lacking": 1, "sent": 1}
    assert [text for text in provider.requests[-1] if "photo" in text] == provider.requests[-1]
    assert len(set(before) - set(vectors(target))) == 1


def test_a_change_that_is_in_no_document_costs_nothing(target: Target, provider: CountingProvider) -> None:
    target.load("projects", [project(1)], run=RUN)
    embed_all("projects")
    target.load("projects", [project(1, name="Renamed")], run=RUN)
    assert embed_all("projects")["lacking"] == 0


def test_a_text_that_another_row_has_already_is_copied(target: Target, provider: CountingProvider) -> None:
    target.load("projects", [project(1)], run=RUN)
    embed_all("projects")
    target.load("projects", [project(2)], run=RUN, batch="p000-b0001")
    assert embed_all("projects") == {"documents": 2, "lacking": 1, "sent": 0}
    assert target.all("SELECT count(DISTINCT embedding::text) FROM public.project_embeddings") == [(1,)]


def test_requests_keep_the_providers_limit(target: Target, provider: CountingProvider) -> None:
    target.load("workflow_templates", [workflow(1)], run=RUN)
    rows = [{**task(key, 1, key), "task_name": f"Task {key}"} for key in range(1, 8)]
    target.load("workflow_template_tasks", rows, run=RUN)
    assert embed_all("workflow_template_tasks")["sent"] == 7
    assert [len(request) for request in provider.requests] == [3, 3, 1]
    assert len(vectors(target, "workflow_template_embeddings")) == 7


def test_answers_that_came_are_kept_when_a_later_one_fails(
    target: Target, provider: CountingProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.load("workflow_templates", [workflow(1)], run=RUN)
    rows = [{**task(key, 1, key), "task_name": f"Task {key}"} for key in range(1, 8)]
    target.load("workflow_template_tasks", rows, run=RUN)
    answer = provider.embed

    def fail_at_the_second(texts: Sequence[str]) -> np.ndarray:
        if len(provider.requests) == 1:
            raise TimeoutError
        return answer(texts)

    monkeypatch.setattr(provider, "embed", fail_at_the_second)
    with pytest.raises(TimeoutError):
        embed_all("workflow_template_tasks")
    monkeypatch.setattr(provider, "embed", answer)
    assert embed_all("workflow_template_tasks") == {"documents": 7, "lacking": 4, "sent": 4}


def test_partitions_see_their_own_rows(target: Target, provider: CountingProvider) -> None:
    target.load("projects", [project(key) for key in range(1, 8)], run=RUN)
    counts = [embed_all("projects", low, high)["documents"] for low, high in ((None, 3), (3, 6), (6, None))]
    assert counts == [2, 3, 2]


def test_only_live_rows_have_documents(target: Target, provider: CountingProvider) -> None:
    target.decide(RUN, {2: 1})
    target.load("patients", [patient(1)], run=RUN)
    target.load("patients", [patient(2)], run=RUN, batch="merged")
    target.load("projects", [project(1), project(2), project(3)], run=RUN)
    target.connection.execute("UPDATE public.projects SET deleted_at = now() WHERE legacy_project_id = 2")
    target.connection.execute("UPDATE migration.id_map SET state = 'quarantined' WHERE legacy_id = '3'")
    assert embed_all("projects")["documents"] == 1


def test_no_document_appears_in_the_log(
    target: Target, provider: CountingProvider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    target.load("workflow_templates", [workflow(1)], run=RUN)
    target.load("workflow_template_tasks", [{**task(1, 1, 1), "task_name": "Zweifelstein"}], run=RUN)
    embed_all("workflow_template_tasks")
    assert provider.requests
    assert "Zweifelstein" not in caplog.text


def test_the_index_is_built_once_and_kept_up_to_date(target: Target, provider: CountingProvider) -> None:
    target.load("projects", [project(1)], run=RUN)
    embed_all("projects")
    for _ in range(2):
        BuildIndexOperator(task_id="ai_enhancement_index", entity="projects").step(step_of("projects"))
    valid = target.all(
        "SELECT i.indisvalid, am.amname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
        " JOIN pg_am am ON am.oid = c.relam WHERE c.relname = 'project_embeddings_hnsw'"
    )
    assert valid == [(True, "hnsw")]
    target.load("projects", [project(2, project_type="model")], run=RUN, batch="p000-b0001")
    assert embed_all("projects")["sent"] == 1


def store_of(target: Target, name: str) -> VectorStore:
    entity = ENTITIES[name]
    assert entity.embeddings is not None
    return VectorStore(target.api, RUN, entity, entity.embeddings)


@pytest.fixture
def everything(target: Target) -> Target:
    """Rows with and without values in every column that a document reads."""
    target.load("patients", [patient(1)], run=RUN)
    cases = [
        case(1, 1, title="Aligner \u201cset\u201d, 2\n weeks", case_type="refinement", current_state="shipped",
             sequence="3", submitted_at="2024-02-29 23:30:00+00", is_deleted="f"),
        case(2, 1, submitted_at="1999-12-31 23:59:59.999999+00", sequence="-1", is_deleted="t"),
        case(3, 1),
    ]  # fmt: skip
    target.load("cases", cases, run=RUN)
    projects = [
        project(
            1, case_id=target_id("cases", "1"), file_size="50000000", created_at="2024-03-01 00:00:00+00"
        ),
        project(2, file_size="9223372036854775807", created_at="2023-12-31 23:59:59.5+00"),
        project(30, case_id=target_id("cases", "2")),
        project(4, status="approved"),
    ]
    target.load("projects", projects, run=RUN)
    target.load("workflow_templates", [workflow(1)], run=RUN)
    tasks = [
        {
            **task(1, 1, 1),
            "required_roles": '{"b c","a,\\"d",NULL}',
            "read_only": "t",
            "function_type": "scan",
        },
        {**task(2, 1, 2), "required_roles": "{}", "text_prompt": "\\ \t {x: 1}", "category": "\u00e9"},
        task(3, 1, 3),
    ]
    target.load("workflow_template_tasks", tasks, run=RUN)
    return target


@pytest.mark.parametrize("entity", ["cases", "projects", "workflow_template_tasks"])
@pytest.mark.parametrize("rows_per_chunk", [1, 2, 100])
def test_documents_that_came_as_json_are_those_of_the_columns(
    everything: Target, entity: str, rows_per_chunk: int
) -> None:
    embeddings = ENTITIES[entity].embeddings
    assert embeddings is not None
    with everything.connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(embeddings.document.select_sql().encode()).fetchall()
    plain = pa.Table.from_pylist([{**row, "id": str(row["id"])} for row in rows])
    expected = dict(zip(plain["id"].to_pylist(), embeddings.document.render(plain).to_pylist(), strict=True))
    chunks = list(store_of(everything, entity).documents(Partition(entity, 0, None, None), rows_per_chunk))
    found = [
        pair
        for chunk in chunks
        for pair in zip(chunk["id"].to_pylist(), embeddings.document.render(chunk).to_pylist(), strict=True)
    ]
    assert len(found) == len(expected)
    assert dict(found) == expected
    keys = [key for chunk in chunks for key in chunk["legacy_id"].to_pylist()]
    assert keys == sorted(keys)
    sizes = [chunk.num_rows for chunk in chunks]
    assert sizes[:-1] == [rows_per_chunk] * (len(sizes) - 1)


def test_a_page_of_documents_goes_on_behind_the_one_before(everything: Target) -> None:
    def page(after: str | None, most: int | None) -> list[str]:
        rows = everything.all(
            "SELECT legacy_id FROM migration_api.documents('projects', NULL, NULL, NULL, '1', '4', %s, %s)",
            [after, most],
        )
        return [key for (key,) in rows]

    assert page(None, None) == ["2", "30", "4"]
    assert page(None, 2) == ["2", "30"]
    assert page("30", 2) == ["4"]
    assert page("4", 2) == []


def test_only_what_was_written_or_refers_to_it_is_read_again(everything: Target) -> None:
    (since,) = everything.all("SELECT (clock_timestamp() + interval '1 s')::text")[0]
    later = (
        "UPDATE migration.id_map SET written_at = now() + interval '1 h' WHERE entity = %s AND legacy_id = %s"
    )
    everything.connection.execute(later.encode(), ["cases", "1"])
    everything.connection.execute(later.encode(), ["projects", "4"])

    def changed(entity: str) -> list[str]:
        chunks = store_of(everything, entity).documents(Partition(entity, 0, None, None), 100, since)
        return [key for chunk in chunks for key in chunk["legacy_id"].to_pylist()]

    assert changed("projects") == ["1", "4"]
    assert changed("cases") == ["1"]
    assert changed("workflow_template_tasks") == []


def test_the_moment_since_which_documents_may_lack_vectors(
    target: Target, provider: CountingProvider
) -> None:
    target.load("projects", [project(1)], run=RUN)
    vectors_of = store_of(target, "projects")
    assert vectors_of.complete_since(provider.model) is None
    embed_all("projects")
    vectors_of.remember_complete()
    since = vectors_of.complete_since(provider.model)
    assert since is not None
    assert list(vectors_of.documents(Partition("projects", 0, None, None), 10, since)) == []
    assert vectors_of.complete_since("another model") is None


def test_a_run_without_the_lock_stores_nothing(searchable: Target) -> None:
    searchable.connection.execute("DELETE FROM migration.run_lock")
    before = vectors(searchable)
    documents = pa.table(
        {"id": [target_id("projects", "1")], "legacy_id": ["1"], "hash": ["new"], "text": ["x"]}
    )
    for write in (
        lambda: store(searchable).store(documents, {"new": angle(1)}, "m", DIMENSIONS),
        lambda: store(searchable).remember_complete(),
    ):
        with pytest.raises(MigrationError) as caught:
            write()
        assert caught.value.code == "RUN_LOST"
    assert vectors(searchable) == before
    assert searchable.all("SELECT 1 FROM migration.watermarks WHERE name = 'project_embeddings'") == []


def store(target: Target) -> VectorStore:
    return store_of(target, "projects")


def angle(degrees: float) -> np.ndarray:
    """A unit vector in the plane of the first two axes."""
    vector = np.zeros(DIMENSIONS, np.float32)
    vector[:2] = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return vector


@pytest.fixture
def searchable(target: Target) -> Target:
    """Projects 1 to 5 at 0, 10, 40, 60 and 90 degrees."""
    degrees = {1: 0, 2: 10, 3: 40, 4: 60, 5: 90}
    target.load("projects", [project(key) for key in degrees], run=RUN)
    keys = [str(key) for key in degrees]
    texts = pa.array([f"{d} degrees" for d in degrees.values()])
    hashes = content_hashes(texts, "m", DIMENSIONS)
    documents = pa.table(
        {"id": [target_id("projects", key) for key in keys], "legacy_id": keys, "hash": hashes, "text": texts}
    )
    fresh = dict(zip(hashes.to_pylist(), map(angle, degrees.values()), strict=True))
    assert store(target).lacking(documents["id"].combine_chunks(), hashes).to_pylist() == [True] * 5
    store(target).store(documents, fresh, "m", DIMENSIONS)
    return target


SEARCH = (
    "SELECT p.legacy_project_id, m.similarity FROM public.match_projects(%s::real[]::extensions.vector, %s, %s)"
    " WITH ORDINALITY AS m (id, similarity, place) JOIN public.projects p ON p.id = m.id ORDER BY place"
)


@pytest.mark.parametrize("indexed", [False, True])
class TestSearch:
    @pytest.fixture(autouse=True)
    def maybe_indexed(self, searchable: Target, indexed: bool) -> None:
        if indexed:
            assert store(searchable).build_index()
            assert not store(searchable).build_index()
            searchable.connection.execute("SET enable_seqscan = off")

    def test_the_nearest_come_first(self, searchable: Target, indexed: bool) -> None:
        found = searchable.all(SEARCH, [angle(8).tolist(), 3, -1])
        assert [key for key, _ in found] == [2, 1, 3]
        expected = [np.cos(np.radians(d)) for d in (2, 8, 32)]
        assert [similarity for _, similarity in found] == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize(
        ("threshold", "keys"), [(-1, [1, 2, 3, 4, 5]), (0.49, [1, 2, 3, 4]), (0.9, [1, 2]), (1.1, [])]
    )
    def test_nothing_below_the_threshold(
        self, searchable: Target, indexed: bool, threshold: float, keys: list[int]
    ) -> None:
        found = searchable.all(SEARCH, [angle(0).tolist(), 10, threshold])
        assert [key for key, _ in found] == keys


@pytest.mark.parametrize("function", ["match_projects", "match_cases", "match_workflow_templates"])
def test_a_search_of_nothing_finds_nothing(target: Target, function: str) -> None:
    query = f"SELECT * FROM public.{function}(%s::real[]::extensions.vector)"
    assert target.all(query, [angle(0).tolist()]) == []
