"""Fills a PostgreSQL database with a synthetic legacy MDW source.

``python -m local.legacy_source --dsn postgresql://… --patients 7850 --seed 1`` on an empty database.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pyarrow as pa
import pyarrow.csv
from psycopg import sql

from include.synthetic.generate import generate_tables
from include.synthetic.sizes import SourceSize

DDL = Path(__file__).parents[1] / "include" / "sql" / "source" / "synthetic_mdw.sql"
_PARTS = "-- part: keys\n"
# NULL is an unquoted nothing and the empty string a quoted one: what COPY's CSV format expects by default.
_CSV = pyarrow.csv.WriteOptions(include_header=False, quoting_style="needed")

Progress = Callable[[str], None]


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def fill(dsn: str, size: SourceSize, seed: int, progress: Progress = _say) -> None:
    """Creates and fills the legacy tables in an empty database.

    All or nothing: everything up to the keys is one transaction. Keys and foreign keys are built after the
    rows, so the database itself proves that every declared reference resolves. Statistics and visibility
    are brought up to date at the end, and sequences continue after the highest id.

    Args:
        dsn: libpq connection string of a database without these tables.
        size: rows per table.
        seed: the same size and seed give the same rows.
        progress: takes one line per table; standard output by default.

    Raises:
        psycopg.errors.DuplicateTable: if the database already holds such tables; it is left as it was.
    """
    started = time.monotonic()
    tables, keys = DDL.read_text(encoding="utf-8").split(_PARTS)
    with psycopg.connect(dsn) as connection:
        # Stamps are sent with a zone; this only keeps what is shown while loading unambiguous.
        connection.execute("SET LOCAL TimeZone = 'UTC'")
        connection.execute(tables.encode())
        for name, chunks in generate_tables(size, seed):
            begun = time.monotonic()
            rows = copy_table(connection, name, chunks)
            progress(f"{name:<32}{rows:>12,} rows {time.monotonic() - begun:>7.1f} s")
            _set_sequence(connection, name)
        begun = time.monotonic()
        connection.execute(keys.encode())
        progress(f"{'keys and indexes':<49} {time.monotonic() - begun:>7.1f} s")
    begun = time.monotonic()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")
    progress(f"{'vacuum and analyze':<49} {time.monotonic() - begun:>7.1f} s")
    progress(f"{'all':<49} {time.monotonic() - started:>7.1f} s")


def copy_table(connection: psycopg.Connection, name: str, chunks: Iterator[pa.Table]) -> int:
    """Appends Arrow tables to one database table by COPY; columns go by name. Returns the number of rows.

    Raises:
        psycopg.Error: if the database refuses a row; the transaction is then broken.
    """
    first = next(chunks, None)
    if first is None:
        return 0
    statement = sql.SQL("COPY {} ({}) FROM STDIN WITH (FORMAT csv, ENCODING 'UTF8')").format(
        sql.Identifier(name), sql.SQL(", ").join(map(sql.Identifier, first.column_names))
    )
    rows = 0
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for chunk in _with(first, chunks):
            buffer = io.BytesIO()
            pyarrow.csv.write_csv(chunk, buffer, _CSV)
            copy.write(buffer.getbuffer())
            rows += chunk.num_rows
    return rows


def _with(first: pa.Table, others: Iterator[pa.Table]) -> Iterator[pa.Table]:
    yield first
    yield from others


def _set_sequence(connection: psycopg.Connection, name: str) -> None:
    highest = sql.SQL("SELECT setval(pg_get_serial_sequence({}, 'id'), max(id)) FROM {}").format(
        sql.Literal(name), sql.Identifier(name)
    )
    connection.execute(highest)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Fill an empty database with a synthetic legacy source.")
    parser.add_argument("--dsn", required=True, help="connection string of an empty database")
    parser.add_argument(
        "--patients", type=int, default=SourceSize().patients, help="size; all else in proportion"
    )
    parser.add_argument("--seed", type=int, default=1, help="another seed gives other rows")
    arguments = parser.parse_args()
    fill(arguments.dsn, SourceSize.real().scaled(arguments.patients), arguments.seed)


if __name__ == "__main__":
    main()
