"""The queries of entities against a real PostgreSQL that holds legacy rows, dirt included."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from include.core.batches import Partition
from include.core.copytext import parse_rows
from include.core.source_query import count_rows, select_cuts, select_keys, select_rows
from include.core.spec import Entity, Kind, columns_of
from include.core.transform import transform
from include.entities import ENTITIES
from local.postgres import EmbeddedPostgres
from tests.conftest import fresh_database
from tests.entities.tables import Result, ids, result_of

TYPES = {
    **{Kind.INTEGER: "bigint", Kind.TEXT: "text", Kind.BOOLEAN: "boolean", Kind.TIMESTAMP: "timestamptz"},
    **{Kind.DATE: "date", Kind.NUMERIC: "numeric", Kind.UUID: "uuid"},
}
WHOLE = {name: Partition(name, 0, None, None) for name in ENTITIES}
Columns = dict[str, dict[str, str]]
Insert = Callable[..., None]


def declared(*, optional: bool, entities: Collection[Entity] = tuple(ENTITIES.values())) -> Columns:
    """Table → column → type of everything the entities read."""
    found: Columns = {}
    for entity in entities:
        for table in entity.source.all_tables():
            for name, kinds in (columns_of(table) if optional else table.columns).items():
                kind = kinds[0] if isinstance(kinds, tuple) else kinds
                found.setdefault(table.name, {})[name] = TYPES[kind]
    return found


@pytest.fixture(scope="module")
def source(server: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    """No constraints: what they would refuse can come from views and foreign tables."""
    with fresh_database(server) as name, psycopg.connect(server.dsn(name), autocommit=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for table, columns in declared(optional=True).items():
            listed = sql.SQL(", ").join(
                sql.SQL("{} {}").format(sql.Identifier(c), sql.SQL(t)) for c, t in columns.items()
            )
            connection.execute(sql.SQL("CREATE TABLE {} ({})").format(sql.Identifier(table), listed))
        yield connection


@pytest.fixture
def insert(source: psycopg.Connection) -> Iterator[Insert]:
    def rows(table: str, columns: str, *values: tuple[Any, ...]) -> None:
        names = sql.SQL(", ").join(map(sql.Identifier, columns.split()))
        marks = sql.SQL(", ").join([sql.Placeholder()] * len(columns.split()))
        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(sql.Identifier(table), names, marks)
        with source.cursor() as cursor:
            cursor.executemany(statement, values)

    with source.transaction(force_rollback=True):
        yield rows


def copied(source: psycopg.Connection, query: str, names: list[str]) -> list[dict[str, str | None]]:
    with source.cursor() as cursor, cursor.copy(query) as copy:  # type: ignore[arg-type]
        return parse_rows(b"".join(bytes(row) for row in copy), names).to_pylist()


def extract(
    source: psycopg.Connection, name: str, partition: Partition | None = None, *, optional: bool = True
) -> list[dict[str, str | None]]:
    query = select_rows(ENTITIES[name], declared(optional=optional), partition or WHOLE[name])
    return copied(source, query, list(ENTITIES[name].source.raw_columns))


def migrated(source: psycopg.Connection, name: str) -> Result:
    return result_of(ENTITIES[name], extract(source, name))


@pytest.mark.parametrize("name", ENTITIES)
def test_a_source_without_rows_gives_batches_without_rows(source: psycopg.Connection, name: str) -> None:
    rows = extract(source, name)
    expected = 1 if name == "workflow_templates" else 0  # the workflow of tasks without a category
    assert len(rows) == expected
    assert len(result_of(ENTITIES[name], rows).clean) == expected
    assert len(copied(source, select_keys(ENTITIES[name], declared(optional=True)), ["key"])) == expected


@pytest.mark.parametrize("name", ENTITIES)
def test_every_column_that_a_query_needs_is_declared_by_its_entity(
    server: EmbeddedPostgres, name: str
) -> None:
    """Else a source without it passes the check of preparation; optional columns are absent here."""
    needed = declared(optional=False, entities=[ENTITIES[name]])
    with fresh_database(server) as database, psycopg.connect(server.dsn(database), autocommit=True) as old:
        for table, columns in needed.items():
            listed = ", ".join(f'"{c}" {t}' for c, t in columns.items())
            old.execute(f"CREATE TABLE {table} ({listed})")  # type: ignore[arg-type]
        assert len(extract(old, name, optional=False)) == (name == "workflow_templates")


def test_the_previous_state_is_that_of_the_same_order_wherever_batches_are_cut(
    source: psycopg.Connection, insert: Insert
) -> None:
    day = "2024-01-0{}T00:00:00Z".format
    insert(
        "dispatch_state",
        "id status on changed_at actor_id instruction_id",
        (9, 11, True, day(1), 1, 42),
        (3, 12, True, day(2), None, 42),
        (5, 11, False, day(2), 1, 42),  # at the same moment as 3: ids decide
        (4, 12, True, "2024-01-02T12:30:59Z", 1, 43),
        (7, 12, False, "2024-01-02T13:00:00Z", 1, 43),
        (8, 12, True, None, 1, 43),
    )
    whole = migrated(source, "state_analytics").clean
    durations = {key: (row["from_state"], row["duration_minutes"]) for key, row in whole.items()}
    assert durations == {
        "9": (None, None),
        "3": ("legacy_11", "1440"),
        "5": ("legacy_12", "0"),
        "4": (None, None),
        "7": ("legacy_12", "29"),
        "8": (None, None),
    }
    assert whole["5"]["metadata"]["from_on"] is True
    parts = [
        Partition("state_analytics", n, low, high)
        for n, (low, high) in enumerate([(None, 5), (5, 8), (8, None)])
    ]
    entity = ENTITIES["state_analytics"]
    pieces = [result_of(entity, extract(source, "state_analytics", part)).clean for part in parts]
    assert {key: row for piece in pieces for key, row in piece.items()} == whole


def test_a_bottleneck_is_above_the_95th_percentile_of_twenty_observations(
    source: psycopg.Connection, insert: Insert
) -> None:
    def order(number: int, code: int, minutes: int) -> list[tuple[Any, ...]]:
        ends = f"2024-01-01T{minutes // 60:02d}:{minutes % 60:02d}:00Z"
        return [
            (number * 10, 11, True, "2024-01-01T00:00:00Z", number),
            (number * 10 + 1, code, True, ends, number),
        ]

    enough = [row for n in range(1, 21) for row in order(n, 12, n)]  # 1 … 20 minutes, percentile 19.05
    few = [row for n in range(31, 50) for row in order(n, 11, n)]  # 19 observations
    insert("dispatch_state", "id status on changed_at instruction_id", *enough, *few)
    slow = {
        k for k, row in migrated(source, "state_analytics").clean.items() if row["bottleneck_detected"] == "t"
    }
    assert slow == {"201"}


def test_of_several_plans_the_original_owns_the_project_else_the_lowest_number(
    source: psycopg.Connection, insert: Insert
) -> None:
    insert("dispatch_project", "id name type status", *((n, "a", 0, 0) for n in (1, 2, 3, 4)))
    insert(
        "dispatch_plan",
        "id project_id instruction_id number original name notes",
        (10, 1, 41, 1, False, "", 'said "x"'),
        (11, 1, 42, 2, True, None, None),
        (12, 2, 43, 3, None, None, None),
        (13, 2, 44, 2, False, None, None),
        (15, 3, 46, None, None, None, None),
        (14, 3, 45, None, None, None, None),
    )
    insert("dispatch_instruction", "id patient_id", (42, 8), (44, 999), (45, 8))
    insert("dispatch_patient", "id office_id", (8, 7))
    clean = migrated(source, "projects").clean
    owners = {key: row["metadata"].get("instruction_id") for key, row in clean.items()}
    assert owners == {"1": 42, "2": 44, "3": 45, "4": None}
    assert [clean[key]["version"] for key in "1234"] == ["2", "2", None, None]
    assert [clean[key]["practice_id"] is None for key in "1234"] == [False, True, False, True]
    assert [plan["id"] for plan in clean["1"]["metadata"]["plans"]] == [10, 11]
    assert clean["1"]["metadata"]["plans"][0]["notes"] == 'said "x"'


def test_a_user_has_all_groups_and_is_a_patient_by_having_a_patient_row(
    source: psycopg.Connection, insert: Insert
) -> None:
    insert(
        "auth_user",
        "id email is_superuser is_staff is_active",
        *((n, "", False, False, True) for n in (1, 2, 3)),
    )
    insert("auth_user_groups", "user_id group_id", (1, 11), (1, 2), (1, 11), (3, 7))
    insert("dispatch_patient", "id user_id", (50, 2), (51, 2))
    clean = migrated(source, "profiles").clean
    assert {key: row["role"] for key, row in clean.items()} == {"1": "doctor", "2": "patient", "3": "support"}
    assert clean["1"]["metadata"]["groups"] == [2, 11, 11]


def test_rows_of_joined_tables_are_optional(source: psycopg.Connection, insert: Insert) -> None:
    insert("dispatch_patient", "id user_id", (1, 404), (2, None))
    insert(
        "dispatch_instruction", "id patient_id course_id upper_jaw_id", (5, 1, 9, 77), (6, None, None, None)
    )
    insert("dispatch_jaw", "id bond_teeth labial", (78, "01", True))
    assert set(migrated(source, "patients").clean) == {"1", "2"}
    cases = migrated(source, "cases").clean
    assert set(cases) == {"5", "6"}
    assert cases["5"]["clinical"]["jaws"] == {"upper": None, "lower": None}
    assert cases["5"]["metadata"]["upper_jaw_id"] == 77


def test_of_repeated_links_the_first_loads_in_any_partition(
    source: psycopg.Connection, insert: Insert
) -> None:
    insert("dispatch_office_doctors", "id office_id user_id", (1, 7, 3), (2, 8, 3), (3, 7, 3))
    assert migrated(source, "practice_members").rejects == {("3", "link_repeated", "profile_id")}
    second = extract(source, "practice_members", Partition("practice_members", 1, 3, None))
    assert result_of(ENTITIES["practice_members"], second).clean == {}


def test_workflow_links_and_roles_come_with_their_template(
    source: psycopg.Connection, insert: Insert
) -> None:
    insert("dispatch_template", "id task_name category_id", (1, "A", 3), (2, "B", 3), (3, "C", None))
    insert(
        "dispatch_template_predecessors",
        "from_template_id to_template_id",
        (1, 2),
        (3, 1),
        (3, 2),
    )
    insert("dispatch_template_edit_roles", "template_id role_id", (1, 5), (1, 6), (1, 7))
    insert("dispatch_role", "id name", (5, "Quality Check"), (6, 'a"b'))
    insert("dispatch_template_view_groups", "template_id group_id", (2, 11), (2, 4))
    result = migrated(source, "workflow_template_tasks")
    clean = result.clean
    assert [clean[key]["task_order"] for key in "123"] == ["2", "1", "1"]
    assert clean["3"]["predecessor_tasks"] == ids("workflow_template_tasks", 1, 2)
    assert set(clean["1"]["required_roles"][1:-1].split(",")) == {'"Quality Check"', '"a\\"b"', '"role 7"'}
    assert clean["2"]["metadata"]["view_group_ids"] == [4, 11]
    assert ("3", "predecessor_elsewhere", "task_order") in result.findings


def test_tasks_of_one_order_are_read_together_whatever_their_ids(
    source: psycopg.Connection, insert: Insert
) -> None:
    insert("dispatch_template", "id category_id", (1, 3), (2, 4), (3, None))
    insert("dispatch_instruction", "id submitted_at", (42, "2024-01-01T00:00:00Z"))
    at = "2024-01-01T00:{}:00Z".format
    insert(
        "dispatch_task",
        "id template_id instruction_id checked done_at",
        (9, 1, 42, True, at(10)),
        (1, 1, 41, False, None),
        (5, 3, 42, True, at(20)),
        (2, 404, 42, False, None),
        (7, 2, 42, True, at(30)),
        (8, 2, None, True, at(30)),
    )
    raw = extract(source, "workflow_performance")
    assert [row["t.instruction_id"] for row in raw] == ["41", "42", "42", "42", "42", None]
    result = result_of(ENTITIES["workflow_performance"], raw)
    assert {key: row["average_task_duration"] for key, row in result.clean.items()} == {
        "3:41": None,
        "3:42": "00:10:00",
        "0:42": "00:20:00",
        "4:42": "00:30:00",
    }
    assert result.rejects == {("", "key_missing", "legacy_id")}
    keys = copied(source, select_keys(ENTITIES["workflow_performance"], declared(optional=True)), ["key"])
    assert {row["key"] for row in keys} == {*result.clean, ""}


@pytest.mark.parametrize("rows_per_partition", [1, 2, 3, 7, 100])
def test_cuts_give_partitions_of_that_many_rows(
    source: psycopg.Connection, insert: Insert, rows_per_partition: int
) -> None:
    keys = [1, 2, 5, 100, 101, 523_000, 523_001]
    insert("dispatch_office", "id", *((key,) for key in keys))
    entity = ENTITIES["practices"]
    assert source.execute(count_rows(entity.source)).fetchone() == (len(keys),)  # type: ignore[arg-type]
    cuts = {row[0] for row in source.execute(select_cuts(entity.source, rows_per_partition))}  # type: ignore[arg-type]
    assert cuts == set(keys[rows_per_partition::rows_per_partition])


def test_rows_without_a_key_never_become_a_cut(source: psycopg.Connection, insert: Insert) -> None:
    insert(
        "dispatch_task", "id template_id instruction_id", (1, 1, 4), (2, 1, None), (3, 1, None), (4, 1, None)
    )
    cuts = list(source.execute(select_cuts(ENTITIES["workflow_performance"].source, 1)))  # type: ignore[arg-type]
    assert cuts == []


def test_reading_goes_on_behind_a_key(source: psycopg.Connection, insert: Insert) -> None:
    insert("dispatch_office", "id name", *((key, "a") for key in (1, 2, 3, 4)))
    entity: Entity = ENTITIES["practices"]
    query = select_rows(entity, declared(optional=True), Partition("practices", 0, None, 4), after=2)
    assert [row["legacy_id"] for row in copied(source, query, list(entity.source.raw_columns))] == ["3"]


def test_a_raw_batch_of_the_source_transforms_without_loss(
    source: psycopg.Connection, insert: Insert
) -> None:
    insert("dispatch_office", "id name country", (1, 'a,"b"\n\\.\n', "USA"), (2, "", None), (3, None, "NULL"))
    entity = ENTITIES["practices"]
    query = select_rows(entity, declared(optional=True), WHOLE["practices"])
    with source.cursor() as cursor, cursor.copy(query) as copy:  # type: ignore[arg-type]
        raw = parse_rows(b"".join(bytes(row) for row in copy), entity.source.raw_columns)
    assert transform(entity, raw).clean.column("name").to_pylist() == ['a,"b"\n\\.\n', "", None]
