"""What a rollback must bring back: everything in the tables that keep the journal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Rows = dict[str, list[str]]
"""Table with its schema → its rows as text, in the order of the text."""

_TABLES = (
    "SELECT DISTINCT concat(relnamespace::regnamespace, '.', relname) FROM pg_trigger"
    " JOIN pg_class c ON c.oid = tgrelid WHERE starts_with(tgname, 'journal_') ORDER BY 1"
)


def journaled_rows(read: Callable[[str], list[tuple[Any, ...]]]) -> Rows:
    """Every row of every such table.

    Args:
        read: gives the rows of a query.
    """
    return {
        table: [row for (row,) in read(f"SELECT t::text FROM {table} t ORDER BY 1")]
        for (table,) in read(_TABLES)
    }


def changed_tables(one: Rows, other: Rows) -> dict[str, tuple[list[str], list[str]]]:
    """Table → rows that only one of them has, of those that are not the same."""
    return {
        table: (sorted(set(one[table]) - set(other[table])), sorted(set(other[table]) - set(one[table])))
        for table in one
        if one[table] != other[table]
    }
