"""The target through the Supabase client: functions as RPC, rows as JSON; all it needs is the URL and the service key.

A bulk call carries a token by which the target knows it again, so that it is done once however often it is asked for.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from mdw_supabase.hook import CONNECTION_ID

from include.core.errors import MigrationError
from plugins.hooks.rest_client import SEND, RestClient
from plugins.hooks.supabase_project import supabase_project
from plugins.hooks.target import Rows, Target

_CHUNK_BYTES = 1 << 20
_PAGE_ROWS = 10_000
_STATEMENT_TIMEOUT = "57014"


@contextmanager
def open_rest(*, max_retries: int, batch_size: int) -> Iterator[RestTarget]:
    """The target on a client of its own.

    Raises:
        MigrationError: CONNECTION_MISSING, CONNECTION_INVALID, TARGET_PLAINTEXT.
    """
    with RestClient(supabase_project(), max_retries=max_retries) as client:
        yield RestTarget(client, batch_size=batch_size)


class RestTarget:
    """Calls functions over a client that the caller owns.

    Args:
        batch_size: most rows of one request.
    """

    way = "rest"
    conn_id = CONNECTION_ID

    def __init__(self, client: RestClient, *, batch_size: int) -> None:
        self._client = client
        self.plaintext = client.plaintext
        self._chunk_rows = batch_size

    def call(
        self, function: str, /, *, incoming: Mapping[str, pa.Table | Rows] | None = None, **arguments: Any
    ) -> Any:
        """See :class:`Target`."""
        if incoming is None:
            return self._client.call(function, _named(arguments))
        token = uuid.uuid4().hex
        sent = {name: self._send(token, name, Rows.of(rows)) for name, rows in incoming.items()}
        once = {"call": token, "function": function, "incoming": sent, "arguments": _named(arguments)}
        return self._client.call("call_once", _named(once))

    def rows(self, function: str, columns: Sequence[str], /, **arguments: Any) -> Iterator[pa.Table]:
        """See :class:`Target`. A page ends where the server caps it, so only an empty one is the last."""
        schema = pa.schema([(column, pa.string()) for column in columns])
        yield schema.empty_table()
        after = None
        while page := self._client.call(function, _named({**arguments, "after": after, "most": _PAGE_ROWS})):
            yield pa.Table.from_pylist(page, schema=schema)
            after = page[-1][columns[0]]

    @contextmanager
    def another(self) -> Iterator[Target]:
        """See :class:`Target`."""
        with self._client.another() as client:
            yield RestTarget(client, batch_size=self._chunk_rows)

    def cancel(self) -> None:
        """See :class:`Target`: nothing that runs behind the API can be stopped, but nothing more is asked."""
        self._client.cancel()

    def _send(self, token: str, name: str, rows: Rows) -> dict[str, Any]:
        """Send rows in chunks; returns what the target has to know to find them."""
        parcel = _Parcel(token, name)
        for table in map(_as_texts, rows.tables):
            start = 0
            while start < table.num_rows:
                start += self._send_some(parcel, table.slice(start))
        return {"columns": rows.schema.names, "types": rows.types, "chunks": parcel.arrived}

    def _send_some(self, parcel: _Parcel, table: pa.Table) -> int:
        """Send as many of the first rows as get through at once; returns how many."""
        tried, size = 0, self._rows_per_chunk(table)

        def attempt() -> int:
            nonlocal tried, size
            # Of the next attempt: fewer may escape what these meet.
            tried, size = size, max(1, size // 2)
            chunk = table.slice(0, tried)
            self._client.request(SEND, parcel.content(chunk))
            parcel.arrived.append(parcel.number)
            return int(chunk.num_rows)

        while True:
            try:
                return self._client.repeated(attempt)
            except MigrationError as error:
                if not _is_too_much(error) or tried == 1:
                    raise
                self._chunk_rows = size  # the same limit awaits the next ones

    def _rows_per_chunk(self, table: pa.Table) -> int:
        bytes_per_row = max(1, table.nbytes // table.num_rows)
        rows: int = min(self._chunk_rows, _CHUNK_BYTES // bytes_per_row, table.num_rows)
        return max(1, rows)


@dataclass
class _Parcel:
    """Rows on their way under one name of one call.

    Attributes:
        number: of the last chunk. Every attempt has one of its own: what was given up may still arrive.
        arrived: numbers of the chunks that did.
    """

    token: str
    name: str
    number: int = -1
    arrived: list[int] = field(default_factory=list)

    def content(self, chunk: pa.Table) -> dict[str, Any]:
        """The arguments that send a chunk."""
        self.number += 1
        rows = [list(row) for row in zip(*(column.to_pylist() for column in chunk.columns), strict=True)]
        return _named({"call": self.token, "name": self.name, "chunk": self.number, "rows": rows})


def _named(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {f"p_{name}": value for name, value in arguments.items()}


def _as_texts(table: pa.Table) -> pa.Table:
    return pa.table({name: _texts(table.column(name).combine_chunks()) for name in table.column_names})


def _texts(column: pa.Array) -> pa.Array:
    """A column as it is; vectors as their literals, of the shortest numbers that give back every bit."""
    if not pa.types.is_fixed_size_list(column.type):
        return column
    numbers = pc.cast(column.flatten(), pa.string())
    offsets = pa.array(range(0, len(numbers) + 1, column.type.list_size), pa.int32())
    members = pc.binary_join(pa.ListArray.from_arrays(offsets, numbers), ",")
    return pc.binary_join_element_wise("[", members, "]", "")


def _is_too_much(error: MigrationError) -> bool:
    return error.code == "TARGET_REQUEST_TOO_LARGE" or error.facts.get("sqlstate") == _STATEMENT_TIMEOUT
