"""Documents, their vectors, and searching them; what the operators make of it is tested beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from psycopg.rows import dict_row

from include.core.batches import Partition
from include.core.errors import MigrationError
from include.core.ids import target_id
from include.embedding.content_hash import content_hashes
from include.embedding.provider import Vectors
from include.entities import ENTITIES
from plugins.hooks.vectors import VectorStore
from tests.hooks.loading import DIMENSIONS, Target, case, patient, profile, project, task, workflow

BOTH_WAYS = True
RUN = "run-1"
MODEL = "m"
RECIPE = "recipe"


def store_of(target: Target, name: str = "projects", run: str = RUN) -> VectorStore:
    entity = ENTITIES[name]
    assert entity.embeddings is not None
    return VectorStore(target.api, run, entity, entity.embeddings)


def documents_of(
    texts: dict[int, str], *, entity: str = "projects", shortened: tuple[int, ...] = (), kept: bool = True
) -> pa.Table:
    """Rows as they are stored: legacy key to text; a text is not kept where it has free text."""
    hashes = content_hashes(pa.array(texts.values()), MODEL, DIMENSIONS)
    return pa.table(
        {
            "id": [target_id(entity, str(key)) for key in texts],
            "legacy_id": [str(key) for key in texts],
            "hash": hashes,
            "text": pa.array(texts.values() if kept else [None] * len(texts), pa.string()),
            "shortened": [key in shortened for key in texts],
        }
    )


def fresh(documents: pa.Table) -> tuple[list[str], Vectors]:
    """A vector of its own for each text."""
    hashes = sorted(set(documents.column("hash").to_pylist()))
    rows = [np.random.default_rng(int(text[:8], 16)).standard_normal(DIMENSIONS) for text in hashes]
    return hashes, np.array(rows, np.float32).reshape(-1, DIMENSIONS)


def stored(target: Target, table: str = "project_embeddings") -> dict[int, tuple[Any, ...]]:
    """Legacy key to text, metadata, hash and vector."""
    rows = target.all(
        "SELECT p.legacy_project_id, v.content_text, v.metadata, v.content_hash, v.embedding::text"
        f" FROM public.{table} v JOIN public.projects p ON p.id = v.project_id"
    )
    return {row[0]: row[1:] for row in rows}


def load_projects(target: Target, *keys: int) -> None:
    target.load("projects", [project(key) for key in keys], run=RUN)


class TestStoring:
    def test_every_row_gets_the_vector_of_its_text(self, target: Target) -> None:
        load_projects(target, 1, 2, 3)
        documents = documents_of({1: "a", 2: "b", 3: "a"}, shortened=(2,))
        hashes, matrix = fresh(documents)
        assert store_of(target).store(documents, (hashes, matrix), MODEL, DIMENSIONS) == 3
        found = stored(target)
        assert {key: row[:2] for key, row in found.items()} == {
            1: ("a", {}),
            2: ("b", {"shortened": True}),
            3: ("a", {}),
        }
        for _, _, content_hash, vector in found.values():
            read = np.array(vector.strip("[]").split(","), np.float32)
            assert read.tobytes() == matrix[hashes.index(content_hash)].tobytes()
        assert target.all(
            "SELECT DISTINCT model, dimensions, content_type::text FROM public.project_embeddings"
        ) == [(MODEL, DIMENSIONS, "treatment_plan")]

    def test_what_is_there_is_not_written_again(self, target: Target) -> None:
        load_projects(target, 1, 2)
        documents = documents_of({1: "a", 2: "b"})
        store_of(target).store(documents, fresh(documents), MODEL, DIMENSIONS)
        before = target.image("public.project_embeddings")
        hashes, matrix = fresh(documents)
        # A provider may answer a little differently.
        assert store_of(target).store(documents, (hashes, matrix + np.float32(1e-3)), MODEL, DIMENSIONS) == 0
        assert target.image("public.project_embeddings") == before

    def test_a_changed_text_replaces_the_vector(self, target: Target) -> None:
        load_projects(target, 1, 2)
        first = documents_of({1: "a", 2: "b"}, shortened=(1, 2))
        store_of(target).store(first, fresh(first), MODEL, DIMENSIONS)
        before = stored(target)
        second = documents_of({1: "c", 2: "b"})
        assert store_of(target).store(second, fresh(second), MODEL, DIMENSIONS) == 1
        after = stored(target)
        assert after[2] == before[2]
        assert after[1][:2] == ("c", {})
        assert after[1][3] != before[1][3]

    def test_a_text_that_another_row_has_is_copied(self, target: Target) -> None:
        load_projects(target, 1, 2, 3)
        first = documents_of({1: "a"})
        store_of(target).store(first, fresh(first), MODEL, DIMENSIONS)
        assert store_of(target).copy(documents_of({2: "a", 3: "a"}), MODEL, DIMENSIONS) == 2
        assert len({row[2:] for row in stored(target).values()}) == 1

    def test_a_text_without_any_vector_is_refused(self, target: Target) -> None:
        load_projects(target, 1)
        with pytest.raises(MigrationError, match="TARGET_"):
            store_of(target).copy(documents_of({1: "a"}), MODEL, DIMENSIONS)

    def test_text_that_is_not_to_be_kept_is_not(self, target: Target) -> None:
        load_projects(target, 1)
        documents = documents_of({1: "a"})
        store_of(target).store(documents, fresh(documents), MODEL, DIMENSIONS)
        vector = stored(target)[1][3]
        # The setting changed: what was kept goes.
        store_of(target).store(documents_of({1: "a"}, kept=False), fresh(documents), MODEL, DIMENSIONS)
        assert (stored(target)[1][0], stored(target)[1][3]) == (None, vector)

    def test_rows_that_are_live_no_more_get_none(self, target: Target) -> None:
        target.decide(RUN, {2: 1})
        target.load("patients", [patient(1), patient(2), patient(3)], run=RUN)
        target.delete("patients", "3", run=RUN)
        documents = documents_of({1: "a", 2: "b", 3: "c"}, entity="patients")
        assert store_of(target, "patients").store(documents, fresh(documents), MODEL, DIMENSIONS) == 1
        assert target.all("SELECT patient_id::text FROM public.patient_embeddings") == [
            (target_id("patients", "1"),)
        ]

    def test_vectors_go_with_their_row(self, target: Target) -> None:
        target.decide(RUN, {})
        target.load("patients", [patient(1), patient(2), patient(3)], run=RUN)
        documents = documents_of({1: "a", 2: "b", 3: "c"}, entity="patients")
        store_of(target, "patients").store(documents, fresh(documents), MODEL, DIMENSIONS)
        target.decide("run-2", {2: 1})
        target.load("patients", [patient(2)], run="run-2")
        target.delete("patients", "3", run="run-2")
        assert target.states("patients") == {"1": "live", "2": "merged", "3": "deleted"}
        assert target.all("SELECT patient_id::text FROM public.patient_embeddings") == [
            (target_id("patients", "1"),)
        ]
        assert failed(target, "patients") == {}

    def test_what_is_stored_once_the_index_is_there_is_found(self, target: Target) -> None:
        load_projects(target, 1, 2, 3)
        first, second = documents_of({1: "a"}), documents_of({2: "b", 3: "a"})
        store = store_of(target)
        store.store(first, fresh(first), MODEL, DIMENSIONS)
        assert store.build_index() == "built"
        hashes, matrix = fresh(second)
        store.store(second, (hashes, matrix), MODEL, DIMENSIONS)
        query = str(matrix[hashes.index(second.column("hash")[0].as_py())].tolist())
        found = target.all(
            "SELECT project_id::text FROM public.match_projects(%s::extensions.vector, 3, -1)", [query]
        )
        assert found[0] == (target_id("projects", "2"),)
        assert len(found) == 3
        assert store.build_index() == "exists"

    def test_a_matrix_of_another_shape_is_refused(self, target: Target) -> None:
        for matrix in (np.zeros((2, DIMENSIONS), np.float32), np.zeros((1, DIMENSIONS + 1), np.float32)):
            with pytest.raises(ValueError, match="shape"):
                store_of(target).store(documents_of({1: "a"}), (["x"], matrix), MODEL, DIMENSIONS)

    def test_a_run_without_the_lock_stores_nothing(self, target: Target) -> None:
        load_projects(target, 1)
        documents = documents_of({1: "a"})
        target.connection.execute("DELETE FROM migration.run_lock")
        store = store_of(target)
        for write in (
            lambda: store.store(documents, fresh(documents), MODEL, DIMENSIONS),
            lambda: store.quarantine(documents, dict.fromkeys(documents["hash"].to_pylist(), "X"), MODEL),
            lambda: store.remember_complete(RECIPE),
        ):
            with pytest.raises(MigrationError) as caught:
                write()
            assert caught.value.code == "RUN_LOST"
        for table in ("public.project_embeddings", "migration.embedding_quarantine", "migration.watermarks"):
            assert target.image(table) == []


def failed(target: Target, entity: str = "projects") -> dict[str, tuple[str, list[str]]]:
    """Checks that found something: name to severity and keys."""
    checks = target.api.call("check_embedded", entity=entity)
    assert [check["name"] for check in checks] == [
        "embedded",
        "embedding_quarantined",
        "vectors_of_live_rows",
    ]
    return {
        check["name"]: (check["severity"], check["sample_keys"])
        for check in checks
        if check["found"] != check["expected"]
    }


class TestQuarantine:
    @pytest.fixture
    def refused(self, target: Target) -> pa.Table:
        """Projects 1 and 2 have a text that the provider refuses, 3 another, and a vector."""
        load_projects(target, 1, 2, 3)
        documents = documents_of({1: "poison", 2: "poison", 3: "fine"})
        store = store_of(target)
        store.store(documents.slice(2), fresh(documents.slice(2)), MODEL, DIMENSIONS)
        self.refuse(target, documents.slice(0, 2))
        return documents

    def refuse(self, target: Target, documents: pa.Table) -> None:
        codes = dict.fromkeys(documents.column("hash").to_pylist(), "EMBEDDING_REFUSED")
        store_of(target).quarantine(documents, codes, MODEL)

    def test_its_texts_are_known(self, target: Target, refused: pa.Table) -> None:
        hashes = refused.column("hash").combine_chunks()
        assert store_of(target).quarantined_hashes(hashes) == {hashes[0].as_py(): "EMBEDDING_REFUSED"}
        assert store_of(target, "cases").quarantined_hashes(hashes) == {}

    def test_it_is_a_warning_and_in_the_report(self, target: Target, refused: pa.Table) -> None:
        assert failed(target) == {"embedding_quarantined": ("warn", ["1", "2"])}
        assert ["projects", "embedding", "EMBEDDING_REFUSED", 2] in target.api.call("finding_counts")
        target.delete("projects", "2", run=RUN)
        assert failed(target) == {"embedding_quarantined": ("warn", ["1"])}
        assert ["projects", "embedding", "EMBEDDING_REFUSED", 1] in target.api.call("finding_counts")

    def test_again_it_is_not_written_again(self, target: Target, refused: pa.Table) -> None:
        before = target.image("migration.embedding_quarantine")
        self.refuse(target, refused.slice(0, 2))
        assert target.image("migration.embedding_quarantine") == before

    def test_a_vector_ends_it(self, target: Target, refused: pa.Table) -> None:
        changed = documents_of({1: "better"})
        store_of(target).store(changed, fresh(changed), MODEL, DIMENSIONS)
        assert failed(target) == {"embedding_quarantined": ("warn", ["2"])}
        assert target.all(
            "SELECT legacy_id, resolved_run_id FROM migration.embedding_quarantine ORDER BY 1"
        ) == [
            ("1", RUN),
            ("2", None),
        ]

    def test_another_text_that_is_refused_takes_its_place(self, target: Target, refused: pa.Table) -> None:
        self.refuse(target, documents_of({1: "worse"}))
        hashes = documents_of({1: "worse", 2: "poison"}).column("hash").combine_chunks()
        assert sorted(store_of(target).quarantined_hashes(hashes)) == sorted(hashes.to_pylist())
        assert target.all("SELECT count(*) FROM migration.embedding_quarantine") == [(2,)]

    def test_a_vector_of_an_earlier_text_goes(self, target: Target, refused: pa.Table) -> None:
        self.refuse(target, documents_of({3: "worse"}))
        assert stored(target) == {}
        assert failed(target) == {"embedding_quarantined": ("warn", ["1", "2", "3"])}


def test_rows_without_a_vector_and_vectors_without_a_row_are_found(target: Target) -> None:
    load_projects(target, 1, 2)
    documents = documents_of({1: "a"})
    store_of(target).store(documents, fresh(documents), MODEL, DIMENSIONS)
    assert failed(target) == {"embedded": ("fail", ["2"])}
    target.connection.execute("UPDATE migration.id_map SET state = 'deleted' WHERE legacy_id = '1'")
    assert failed(target) == {"embedded": ("fail", ["2"]), "vectors_of_live_rows": ("fail", ["1"])}


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


def test_free_text_comes_when_asked_for(everything: Target) -> None:
    embeddings = ENTITIES["cases"].embeddings
    assert embeddings is not None
    texts = {text.alias for text in embeddings.document.free_text}
    assert texts
    for free_text in (False, True):
        (chunk,) = store_of(everything, "cases").documents(
            Partition("cases", 0, None, None), 100, free_text=free_text
        )
        assert chunk.num_rows == 3
        assert (texts <= set(chunk.column_names)) is free_text


def test_a_page_of_documents_goes_on_behind_the_one_before(everything: Target) -> None:
    def page(after: str | None, most: int | None) -> list[str]:
        rows = everything.all(
            "SELECT legacy_id FROM migration_api.documents('projects', NULL, NULL, NULL, '1', '4', false, %s, %s)",
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


def test_partitions_and_live_rows_alone(target: Target) -> None:
    load_projects(target, *range(1, 8))
    target.delete("projects", "7", run=RUN)

    def keys(low: int | None, high: int | None) -> list[str]:
        chunks = store_of(target).documents(Partition("projects", 0, low, high), 100)
        return [key for chunk in chunks for key in chunk["legacy_id"].to_pylist()]

    assert [keys(None, 3), keys(3, 6), keys(6, None)] == [["1", "2"], ["3", "4", "5"], ["6"]]


def test_names_of_everybody(target: Target) -> None:
    people = [
        patient(1, first_name="Anna  Maria", last_name="von Zweifelstein"),
        patient(2, first_name=None, last_name="O\u2019Neill"),
    ]
    target.load("patients", people, run=RUN)
    target.delete("patients", "1", run=RUN)
    target.load("profiles", [profile(1, first_name="ANNA", last_name="\u00c9milie-Rose ")], run=RUN)
    assert store_of(target).known_names() == {
        *("anna", "maria", "von", "zweifelstein", "o\u2019neill", "\u00e9milie-rose")
    }
    pages = [
        target.all("SELECT name FROM migration_api.known_names(%s, 4)", [after]) for after in (None, "o")
    ]
    assert pages == [
        [("anna",), ("maria",), ("o\u2019neill",), ("von",)],
        [("o\u2019neill",), ("von",), ("zweifelstein",), ("\u00e9milie-rose",)],
    ]


def test_columns_of_rows_as_they_are_staged(everything: Target) -> None:
    store = store_of(everything)
    ids = pa.array([target_id("cases", key) for key in ("1", "3", "9")])
    rows = store.stored_columns("cases", ["id", "title", "submitted_at", "is_deleted"], ids)
    assert rows.schema == pa.schema(
        [(name, pa.string()) for name in ("id", "title", "submitted_at", "is_deleted")]
    )
    assert {row["id"]: list(row.values())[1:] for row in rows.to_pylist()} == {
        ids[0].as_py(): ["Aligner \u201cset\u201d, 2\n weeks", "2024-02-29 23:30:00+00", "f"],
        ids[1].as_py(): [None, None, None],
    }
    tasks = pa.array([target_id("workflow_template_tasks", key) for key in ("1", "2")])
    roles = store.stored_columns("workflow_template_tasks", ["required_roles"], tasks).column(
        "required_roles"
    )
    assert set(roles.to_pylist()) == {'{"b c","a,\\"d",NULL}', "{}"}
    assert store.stored_columns("cases", ["title"], ids.slice(2)).num_rows == 0
    pages = [
        everything.all(
            "SELECT id FROM migration_api.stored_columns('cases', '{title}', %s, %s, 1)",
            [ids.to_pylist(), after],
        )
        for after in (None, min(ids[:2].to_pylist()))
    ]
    assert [key for page in pages for (key,) in page] == sorted(ids[:2].to_pylist())


@pytest.mark.parametrize(
    ("entity", "column"), [("cases", "deleted_at"), ("auth.users", "email"), ("cases", "x'; --")]
)
def test_only_columns_that_are_migrated_can_be_asked_for(target: Target, entity: str, column: str) -> None:
    with pytest.raises(MigrationError, match="TARGET_"):
        store_of(target).stored_columns(entity, [column], pa.array([target_id("cases", "1")]))


class TestCompleteness:
    def test_the_moment_since_which_documents_may_lack_vectors(self, target: Target) -> None:
        load_projects(target, 1)
        documents, store = documents_of({1: "a"}), store_of(target)
        assert store.complete_since(RECIPE) is None
        store.store(documents, fresh(documents), MODEL, DIMENSIONS)
        store.remember_complete(RECIPE)
        since = store.complete_since(RECIPE)
        assert since is not None
        assert list(store.documents(Partition("projects", 0, None, None), 10, since)) == []
        assert store.complete_since("another recipe") is None
        assert store_of(target, "cases").complete_since(RECIPE) is None

    def test_a_run_that_did_not_come_to_its_end_leaves_nothing_known(self, target: Target) -> None:
        """Its vectors may be of another recipe than those around them."""
        load_projects(target, 1)
        store_of(target).remember_complete(RECIPE)
        documents = documents_of({1: "a"})
        store_of(target).store(documents, fresh(documents), MODEL, DIMENSIONS)
        assert store_of(target).complete_since(RECIPE) is None


def test_which_rows_lack_a_vector_and_which_texts_have_one(target: Target) -> None:
    load_projects(target, 1, 2, 3)
    first = documents_of({1: "a", 2: "b"})
    store_of(target).store(first, fresh(first), MODEL, DIMENSIONS)
    now = documents_of({1: "a", 2: "c", 3: "b"})
    ids, hashes = (now.column(name).combine_chunks() for name in ("id", "hash"))
    assert store_of(target).lacking(ids, hashes).to_pylist() == [False, True, True]
    assert store_of(target).known_hashes(hashes) == {hashes[0].as_py(), hashes[2].as_py()}
