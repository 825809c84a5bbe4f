"""Row versions of a real source: what changes them, what does not, and which rows are selected for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg
import pyarrow as pa
import pytest

from include.core.batches import Partition
from include.core.errors import MigrationError
from include.core.mapping import mapping_version, rules_version
from include.core.spec import Entity, Expression, Kind, Source, Table
from include.core.transform import transform
from include.entities import ENTITIES
from plugins.hooks.legacy_mdw import LegacyMdwHook
from plugins.hooks.row_versions import RowVersions
from tests.hooks.loading import Target
from tests.hooks.test_legacy_mdw import hook_for

BOTH_WAYS = True
NOTES = Table("notes", "t", {"id": Kind.INTEGER, "text": Kind.TEXT, "author": Kind.INTEGER})
PEOPLE = Table("people", "p", {"id": Kind.INTEGER, "name": Kind.TEXT}, join="p.id = t.author")
TAGS = Expression(
    "tags",
    "(SELECT string_agg(g.tag, ',' ORDER BY g.tag) FROM tags g WHERE g.note = t.id)",
    (Table("tags", "g", {"note": Kind.INTEGER, "tag": Kind.TEXT}),),
)
ENTITY = Entity("notes", Source((NOTES, PEOPLE), expressions=(TAGS,)), ())
WHOLE = Partition("notes", 0, None, None)


@pytest.fixture
def source(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[psycopg.Connection]:
    """Three notes of two people, two tags; each row is a transaction of its own."""
    with psycopg.connect(database, autocommit=True) as connection:
        for statement in (
            "CREATE TABLE notes (id int PRIMARY KEY, text text, author int)",
            "CREATE TABLE people (id int PRIMARY KEY, name text)",
            "CREATE TABLE tags (note int, tag text)",
            "INSERT INTO people VALUES (7, 'A'), (8, 'B')",
            "INSERT INTO notes VALUES (1, 'a', 7)",
            "INSERT INTO notes VALUES (2, 'b', 8)",
            "INSERT INTO notes VALUES (3, NULL, NULL)",
            "INSERT INTO tags VALUES (1, 'x'), (1, 'y'), (2, 'x')",
        ):
            connection.execute(statement.encode())
        yield connection


@pytest.fixture
def hook(source: psycopg.Connection, database: str, monkeypatch: pytest.MonkeyPatch) -> LegacyMdwHook:
    return hook_for(database, monkeypatch)


def versions(hook: LegacyMdwHook, entity: Entity = ENTITY) -> dict[str, str]:
    """Legacy id to version."""
    with hook.snapshot() as snapshot:
        lines = b"".join(snapshot.versions(entity)).decode().splitlines()
    return {line.split(",")[0]: line.split(",")[-1] for line in lines}


@contextmanager
def changed(hook: LegacyMdwHook, *keys: str, entity: Entity = ENTITY) -> Iterator[None]:
    """What is done meanwhile changes the versions of these rows and of no others."""
    before = versions(hook, entity)
    yield
    after = versions(hook, entity)
    assert sorted(key for key in before if before[key] != after.get(key)) == sorted(keys)


@pytest.mark.parametrize(
    ("statement", "keys"),
    [
        ("UPDATE notes SET text = 'c' WHERE id = 1", ["1"]),
        ("UPDATE notes SET text = text WHERE id = 3", ["3"]),
        ("UPDATE people SET name = 'C' WHERE id = 7", ["1"]),
        ("DELETE FROM people WHERE id = 8", ["2"]),
        ("DELETE FROM people WHERE id = 8; INSERT INTO people VALUES (8, 'B')", ["2"]),
        ("DELETE FROM tags WHERE note = 1 AND tag = 'y'", ["1"]),
        ("INSERT INTO tags VALUES (3, 'z')", ["3"]),
        ("UPDATE notes SET author = 8 WHERE id = 1", ["1"]),
        ("INSERT INTO notes VALUES (4, 'new', NULL)", []),
        ("UPDATE people SET name = 'nobody' WHERE id = 9", []),
    ],
)
def test_whatever_a_row_is_made_of_changes_its_version(
    source: psycopg.Connection, hook: LegacyMdwHook, statement: str, keys: list[str]
) -> None:
    with changed(hook, *keys):
        source.execute(statement.encode())


@pytest.mark.parametrize("maintenance", ["VACUUM FREEZE", "VACUUM FULL", "ANALYZE", "REINDEX TABLE notes"])
def test_maintenance_does_not(source: psycopg.Connection, hook: LegacyMdwHook, maintenance: str) -> None:
    with changed(hook):
        source.execute(maintenance.encode())


def test_an_open_transaction_is_seen_when_it_is_over(
    source: psycopg.Connection, hook: LegacyMdwHook, database: str
) -> None:
    with psycopg.connect(database) as open_transaction:
        with changed(hook):
            open_transaction.execute("UPDATE notes SET text = 'late' WHERE id = 1")
            with open_transaction.transaction():  # a savepoint
                open_transaction.execute("UPDATE notes SET text = 'later' WHERE id = 2")
            with open_transaction.transaction(force_rollback=True):
                open_transaction.execute("UPDATE notes SET text = 'never' WHERE id = 3")
            source.execute("INSERT INTO tags VALUES (9, 'younger')")
        with changed(hook, "1", "2"):
            open_transaction.commit()


@pytest.mark.parametrize(
    ("statement", "keys"),
    [
        ("UPDATE people SET name = 'C' WHERE id = 7", ["1"]),
        ("UPDATE people SET name = name WHERE id = 7", []),
        ("UPDATE notes SET text = text WHERE id = 2", ["2"]),
    ],
)
def test_the_content_of_a_view_counts_for_it_has_no_transactions(
    source: psycopg.Connection, hook: LegacyMdwHook, statement: str, keys: list[str]
) -> None:
    source.execute("CREATE VIEW everybody AS SELECT * FROM people")
    viewing = replace(
        ENTITY, source=replace(ENTITY.source, tables=(NOTES, replace(PEOPLE, name="everybody")))
    )
    with hook.snapshot() as snapshot:
        assert snapshot.without_transactions({"notes", "everybody"}) == ["everybody"]
    with changed(hook, *keys, entity=viewing):
        source.execute(statement.encode())


def test_rows_are_extracted_with_the_version_that_the_scan_sees(
    source: psycopg.Connection, hook: LegacyMdwHook
) -> None:
    with hook.snapshot() as snapshot:
        (raw,) = snapshot.batches(ENTITY, WHOLE, 10)
    found = dict(zip(raw["legacy_id"].to_pylist(), raw["source_version"].to_pylist(), strict=True))
    assert found == versions(hook)


def test_rows_made_of_several_have_the_version_of_all(
    source: psycopg.Connection, hook: LegacyMdwHook
) -> None:
    def one_per_author(raw: pa.Table) -> pa.Table:
        assert "source_version" not in raw.column_names
        return pa.table({"legacy_id": pa.array(sorted(set(raw["legacy_id"].to_pylist())), pa.string())})

    grouped = Entity(
        "authors",
        Source((NOTES,), key="coalesce(t.author, 0)::text", partition_by="t.author", group_by="t.author"),
        (),
        shape=one_per_author,
    )
    source.execute("INSERT INTO notes VALUES (4, 'second of 7', 7)")
    with hook.snapshot() as snapshot:
        raw = pa.concat_tables(snapshot.batches(grouped, WHOLE, 10))
    clean = transform(grouped, raw).clean
    found = dict(zip(clean["legacy_id"].to_pylist(), clean["source_version"].to_pylist(), strict=True))
    assert found == versions(hook, grouped)
    with changed(hook, "7", entity=grouped):
        source.execute("DELETE FROM notes WHERE id = 4")


def test_a_row_that_is_gone_shows_in_the_others_of_its_group(
    source: psycopg.Connection, hook: LegacyMdwHook
) -> None:
    """What is made of one key of a group may depend on the rows of another."""
    grouped = Entity(
        "texts",
        Source((NOTES,), key="t.author || ':' || t.text", partition_by="t.author", group_by="t.author"),
        (),
        shape=lambda raw: raw,
    )
    source.execute("INSERT INTO notes VALUES (4, 'second', 7)")
    with changed(hook, "7:a", "7:second", entity=grouped):
        source.execute("DELETE FROM notes WHERE id = 4")


@pytest.mark.parametrize(
    ("keys", "after", "rows"),
    [
        ([1, 3], None, ["1", "3"]),
        ([1, 3], 1, ["3"]),
        ([3, None], None, ["3", None]),
        ([3, None], 3, [None]),
        ([99], None, []),
    ],
)
def test_rows_are_read_by_their_keys(
    source: psycopg.Connection,
    hook: LegacyMdwHook,
    keys: list[int | None],
    after: int | None,
    rows: list[str | None],
) -> None:
    source.execute("CREATE TABLE loose (id int, key int)")
    source.execute("INSERT INTO loose SELECT g, g FROM generate_series(1, 5) g UNION ALL SELECT 6, NULL")
    loose = Entity(
        "loose",
        Source((Table("loose", "t", {"id": Kind.INTEGER, "key": Kind.INTEGER}),), partition_by="t.key"),
        (),
    )
    with hook.snapshot() as snapshot:
        batches = list(snapshot.batches(loose, WHOLE, 10, after, keys))
    assert [key for raw in batches for key in raw["t.key"].to_pylist()] == rows


KNOWN = ENTITIES["practices"]


def csv(**rows: str) -> Iterator[bytes]:
    """What the source sends: legacy id to the first digit of its version; partition keys are the ids."""
    yield "".join(f"{key[1:]},{key[1:]},{digit * 32}\n" for key, digit in rows.items()).encode()


def remember(target: Target, key: str, digit: str, state: str = "live", **changes: str) -> None:
    """A row that was loaded before."""
    row = {"mapping_version": mapping_version(), "rules_version": rules_version(), **changes}
    target.connection.execute(
        "INSERT INTO migration.id_map (entity, legacy_id, target_id, source_version, state, mapping_version,"
        " rules_version, first_run, last_run) VALUES ('practices', %s, gen_random_uuid(), %s, %s, %s, %s, 'r', 'r')",
        [key, digit * 32, state, row["mapping_version"], row["rules_version"]],
    )


def read(target: Target, scope: str, **rows: str) -> tuple[list[int | None], list[str]]:
    """Partition keys of the selected rows, and gone keys."""
    staged: list[str | None] = []
    found = RowVersions(target.api, KNOWN).compare(csv(**rows), scope, lambda k: staged.extend(k.to_pylist()))
    assert staged == [key[1:] for key in rows]
    assert found.rows == len(rows)
    assert len(found.keys) == (found.selected if scope != "everything" else 0)
    return found.keys, sorted(found.gone.to_pylist())


class TestSelection:
    def test_new_changed_and_returned_rows_are_selected_and_known_ones_are_not(self, target: Target) -> None:
        remember(target, "1", "a")
        remember(target, "2", "b")
        remember(target, "3", "c", state="deleted")
        assert read(target, "changes", k1="a", k2="c", k3="c", k4="d") == ([2, 3, 4], [])

    @pytest.mark.parametrize("part", ["mapping_version", "rules_version"])
    def test_rows_made_by_another_mapping_or_other_rules_are_selected(
        self, target: Target, part: str
    ) -> None:
        remember(target, "1", "a", **{part: "older"})
        remember(target, "2", "b")
        assert read(target, "changes", k1="a", k2="b")[0] == [1]

    def test_what_waits_in_quarantine_is_selected_and_alone_when_only_that_is_wanted(
        self, target: Target
    ) -> None:
        remember(target, "1", "a")
        reject = ("2", "name_empty", "name", "{}")
        target.load("practices", [], rejects=[reject])
        assert read(target, "changes", k1="a", k2="b", k3="c")[0] == [2, 3]
        assert read(target, "quarantine", k1="b", k2="b", k3="c")[0] == [2]

    def test_keys_that_the_source_lacks_are_gone_wherever_they_were(self, target: Target) -> None:
        remember(target, "1", "a")
        remember(target, "2", "b", state="quarantined")
        remember(target, "3", "c", state="deleted")
        target.load("practices", [], rejects=[("4", "name_empty", "name", "{}")])
        assert read(target, "changes", k9="a")[1] == ["1", "2", "4"]

    def test_rows_without_a_key_are_selected_together(self, target: Target) -> None:
        lines = ('"",,' + "a" * 32 + "\n", "1,1," + "b" * 32 + "\n", "2,," + "c" * 32 + "\n")
        staged: list[str | None] = []
        found = RowVersions(target.api, KNOWN).compare(
            ["".join(lines).encode()], "changes", lambda keys: staged.extend(keys.to_pylist())
        )
        assert staged == ["", "1", "2"]
        assert (found.selected, found.keys) == (3, [1, None])

    def test_an_empty_source_says_that_everything_is_gone(self, target: Target) -> None:
        remember(target, "1", "a")
        assert read(target, "changes") == ([], ["1"])
        assert read(target, "quarantine") == ([], [])

    def test_a_run_of_everything_selects_all_and_still_knows_what_is_gone(self, target: Target) -> None:
        remember(target, "1", "a")
        remember(target, "2", "b", state="deleted")
        found = RowVersions(target.api, KNOWN).compare(csv(k3="a", k4="b"), "everything")
        assert (found.rows, found.known, found.selected, found.keys) == (2, 1, 2, [])
        assert found.gone.to_pylist() == ["1"]

    def test_an_error_of_the_source_stays_one_and_leaves_nothing_behind(self, target: Target) -> None:
        def breaking() -> Iterator[bytes]:
            yield next(csv(k1="a"))
            raise MigrationError("SOURCE_INTERRUPTED", "")

        with pytest.raises(MigrationError) as caught:
            RowVersions(target.api, KNOWN).compare(breaking(), "changes")
        assert caught.value.code == "SOURCE_INTERRUPTED"
        assert read(target, "changes", k1="a")[0] == [1]
