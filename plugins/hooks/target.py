"""The target as every step sees it: functions of schema migration_api, over either way in.

Over a direct PostgreSQL connection rows travel by COPY; through the Supabase client, when only the URL and the
service key are known, as JSON. The functions, and so every fate of every row, are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
from mdw_supabase.hook import CONNECTION_ID

from include.core.errors import MigrationError
from plugins.hooks import supabase_project
from plugins.hooks.connect import TARGET, is_configured

# Through the API every statement has seconds, not minutes.
_MOST_ROWS_PER_BATCH = {"postgres": 250_000, "rest": 1_000}


@dataclass(frozen=True)
class Rows:
    """Rows on their way into a function, read once.

    Attributes:
        schema: string columns; a column of fixed-size lists of float32 arrives as ``vector``.
        tables: any number of tables with that schema.
    """

    schema: pa.Schema
    tables: Iterable[pa.Table]

    @classmethod
    def of(cls, rows: pa.Table | Rows) -> Rows:
        """A table as the only one."""
        return rows if isinstance(rows, Rows) else cls(rows.schema, [rows])

    @property
    def types(self) -> list[str]:
        """The PostgreSQL type of each column."""
        return [_type(field.type) for field in self.schema]


def _type(column: pa.DataType) -> str:
    return f"vector({column.list_size})" if pa.types.is_fixed_size_list(column) else "text"


class Target(Protocol):
    """One of the two ways to call the functions of schema migration_api.

    Errors are those of connection and server as registered (TARGET_…), and what the functions raise themselves.
    """

    way: str
    conn_id: str
    plaintext: bool
    """Whether what is sent crosses a network in the clear, as a setting allows."""

    def call(
        self, function: str, /, *, incoming: Mapping[str, pa.Table | Rows] | None = None, **arguments: Any
    ) -> Any:
        """The JSON value that a function returns; one transaction, once, whatever is repeated on the way.

        Args:
            incoming: what the function finds as tables ``pg_temp.incoming_<name>``, columns as here, beside ``place``,
                which numbers the rows.
            arguments: parameters without their ``p_``: texts, numbers, booleans, lists of texts, JSON objects.
        """
        ...

    def rows(self, function: str, columns: Sequence[str], /, **arguments: Any) -> Iterator[pa.Table]:
        """All rows that a function returns, in its order, as tables of string columns.

        Args:
            columns: exactly those of the function; the first one orders the rows, and tells each from the others.
        """
        ...

    def another(self) -> AbstractContextManager[Target]:
        """The same target for another thread."""
        ...

    def cancel(self) -> None:
        """Stop what runs in the server, if that can be reached; for a task that is being killed."""
        ...


def choose_way(load_via: str) -> str:
    """``postgres`` where that connection is configured, else ``rest``, unless the parameter says which.

    Args:
        load_via: auto, postgres or rest.

    Raises:
        MigrationError: CONNECTION_MISSING, where there is neither.
    """
    if load_via != "auto":
        return load_via
    if is_configured(TARGET):
        return "postgres"
    if supabase_project.is_configured():
        return "rest"
    raise MigrationError(
        "CONNECTION_MISSING",
        "Set AIRFLOW_CONN_SUPABASE_DB (the target's PostgreSQL address), or AIRFLOW_CONN_SUPABASE, or "
        "SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY (its API).",
        connection=f"{TARGET.conn_id} or {CONNECTION_ID}",
    )


def batch_rows(load_via: str, batch_size: int) -> int:
    """Rows in one transaction: what the run wants, and what the way can carry."""
    return min(batch_size, _MOST_ROWS_PER_BATCH[choose_way(load_via)])


@contextmanager
def naming(**facts: object) -> Iterator[None]:
    """Add facts to the target's errors."""
    try:
        yield
    except MigrationError as error:
        if not error.code.startswith(TARGET.prefix):
            raise
        raise error.about(**facts) from None


@contextmanager
def open_target(
    load_via: str = "auto", *, max_retries: int = 0, batch_size: int = 1_000, **facts: object
) -> Iterator[Target]:
    """A target, closed behind the block.

    Args:
        load_via: auto, postgres or rest.
        max_retries: how often a single request of the API is repeated after a transient error.
        batch_size: most rows of one request of the API.
        facts: added to errors.
    """
    with naming(**facts), _opened(choose_way(load_via), max_retries, batch_size) as target:
        yield target


def _opened(way: str, max_retries: int, batch_size: int) -> AbstractContextManager[Target]:
    if way == "postgres":
        from plugins.hooks.target_postgres import open_postgres  # noqa: PLC0415 - it needs this module

        return open_postgres()
    from plugins.hooks.target_rest import open_rest  # noqa: PLC0415 - the client takes a second to import

    return open_rest(max_retries=max_retries, batch_size=batch_size)
