"""Rows between Arrow and PostgreSQL's COPY CSV text, exact: NULL and '' stay apart, no value is interpreted."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pyarrow as pa
from pyarrow import csv

_BYTE_ORDER_MARK = "\ufeff".encode()


def parse_rows(data: bytes, columns: Sequence[str]) -> pa.Table:
    """Parse ``COPY … TO STDOUT (FORMAT csv)`` output into a table of string columns.

    COPY writes NULL as nothing and the empty string as ``""``; the text ``NULL`` or ``n/a`` is just text.
    """
    schema = {name: pa.string() for name in columns}
    if not data:
        return pa.schema(schema).empty_table()
    if data.startswith(_BYTE_ORDER_MARK):
        data = _BYTE_ORDER_MARK + data  # the reader takes one away, also where it belongs to the first value
    return csv.read_csv(
        pa.BufferReader(data),
        # One block: a quoted value may hold line breaks, and a row must not straddle two blocks.
        read_options=csv.ReadOptions(column_names=list(columns), block_size=len(data) + 1, use_threads=False),
        # An empty line is a row: the NULL of a single column.
        parse_options=csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        convert_options=csv.ConvertOptions(
            column_types=schema, strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=[""]
        ),
    )


def format_rows(table: pa.Table) -> bytes:
    """Write a table of string columns as COPY CSV input: every value quoted, NULL as nothing."""
    sink = io.BytesIO()
    # One chunk: write_csv of pyarrow 26 writes stray memory for a table that begins with an empty chunk.
    csv.write_csv(
        table.combine_chunks(), sink, csv.WriteOptions(include_header=False, quoting_style="needed")
    )
    return sink.getvalue()
