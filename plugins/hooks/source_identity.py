"""Whether the source is still the database that stored row versions came from, and who holds its horizon back.

A row version is made of transaction ids, which mean something in one history of one server only. Everything
here is SELECT, takes no lock on anything, and works on PostgreSQL 9.5: what newer releases named otherwise, or
what the role may not call, is looked up in the catalogue before it is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

Read = Callable[[str, Sequence[object]], list[tuple[Any, ...]]]
"""Runs a query with parameters and returns its rows."""

_POSITION = """SELECT pg_catalog.txid_snapshot_xmin(s), pg_catalog.txid_snapshot_xmax(s), d.datname, d.oid
FROM pg_catalog.txid_current_snapshot() s, pg_catalog.pg_database d
WHERE d.datname = pg_catalog.current_database()"""
_TABLES = """SELECT relname, oid FROM pg_catalog.pg_class
WHERE relkind IN ('r', 'v', 'm', 'f', 'p') AND pg_catalog.pg_table_is_visible(oid) AND relname = ANY (%s)
ORDER BY relname"""
_CALLABLE = """SELECT proname FROM pg_catalog.pg_proc
WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY (%s) AND has_function_privilege(oid, 'EXECUTE')"""
_IN_RECOVERY = "SELECT pg_catalog.pg_is_in_recovery()"

# Part of the identity → functions it needs → query; the first that can be called is used.
_Parts = Mapping[str, Sequence[tuple[frozenset[str], str]]]


def _asked(query: str, *functions: str) -> tuple[frozenset[str], str]:
    return frozenset(functions), query


_ANYWHERE: _Parts = {
    "system_identifier": [
        _asked("SELECT system_identifier::text FROM pg_catalog.pg_control_system()", "pg_control_system")
    ],
    "statistics_since": [
        _asked(
            "SELECT (pg_catalog.pg_stat_get_bgwriter_stat_reset_time() AT TIME ZONE 'UTC')::text",
            "pg_stat_get_bgwriter_stat_reset_time",
        )
    ],
}
# The first eight digits of a WAL file's name are the timeline. Names of WAL files are refused in recovery.
_ON_A_PRIMARY: _Parts = {
    "wal_position": [
        _asked("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn", "pg_current_wal_lsn"),
        _asked("SELECT pg_current_xlog_location() - '0/0'::pg_lsn", "pg_current_xlog_location"),
    ],
    "timeline": [
        _asked(
            "SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int",
            *("pg_walfile_name", "pg_current_wal_lsn"),
        ),
        _asked(
            "SELECT ('x' || left(pg_xlogfile_name(pg_current_xlog_location()), 8))::bit(32)::int",
            *("pg_xlogfile_name", "pg_current_xlog_location"),
        ),
    ],
}
_ON_A_STANDBY: _Parts = {
    "wal_position": [
        _asked("SELECT pg_last_wal_replay_lsn() - '0/0'::pg_lsn", "pg_last_wal_replay_lsn"),
        _asked("SELECT pg_last_xlog_replay_location() - '0/0'::pg_lsn", "pg_last_xlog_replay_location"),
    ],
    "timeline": [_asked("SELECT timeline_id FROM pg_control_checkpoint()", "pg_control_checkpoint")],
}
_FUNCTIONS = sorted(
    {"pg_is_in_recovery"}.union(
        *(
            functions
            for parts in (_ANYWHERE, _ON_A_PRIMARY, _ON_A_STANDBY)
            for ways in parts.values()
            for functions, _ in ways
        )
    )
)

# Every transaction that has written holds a lock on its own id (and on those of its savepoints, which are
# younger), and every role may see these locks. When it began is shown to its own user and to monitors only.
_HOLDERS = """WITH open AS (
SELECT l.pid, a.usename::text AS username, a.datname::text AS database,
  max(pg_catalog.age(l.transactionid)) AS transactions,
  extract(epoch FROM pg_catalog.clock_timestamp() - min(a.xact_start))::float8 AS seconds
FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted AND l.pid IS NOT NULL
GROUP BY 1, 2, 3
UNION ALL
SELECT NULL, owner::text, database::text, pg_catalog.age(transaction),
  extract(epoch FROM pg_catalog.clock_timestamp() - prepared)::float8
FROM pg_catalog.pg_prepared_xacts)
SELECT pid, username, database, transactions, seconds FROM open
WHERE (database IS NULL OR database = pg_catalog.current_database()
    OR transactions = (SELECT max(transactions) FROM open))
  AND (seconds > %s OR seconds IS NULL AND transactions > %s
    OR pg_catalog.age(%s::xid) BETWEEN 0 AND transactions)
ORDER BY transactions DESC, pid LIMIT %s"""


@dataclass(frozen=True)
class SourceIdentity:
    """What tells one database, at one time, from another. Parts that could not be read are None.

    Attributes:
        horizon: oldest transaction still running, with its epoch.
        next_xid: first transaction id not yet given when the snapshot was taken, with its epoch.
        tables: contributing table to its oid; another one after it was dropped and created.
        system_identifier: of the server's cluster (9.6 and later).
        timeline: raised by every recovery to a point in time and by every failover.
        wal_position: bytes written to the log so far.
        statistics_since: since when the server counts; kept over a restart, lost by a crash or a restored copy.
    """

    horizon: int
    next_xid: int
    database: str
    database_oid: int
    tables: Mapping[str, int]
    system_identifier: str | None = None
    timeline: int | None = None
    wal_position: int | None = None
    statistics_since: str | None = None

    def to_json(self) -> dict[str, Any]:
        """For a jsonb column."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SourceIdentity:
        """Back from `to_json`."""
        return cls(**values)


@dataclass(frozen=True)
class Holder:
    """A transaction that has written and is still open: what it wrote is seen by a later run only.

    Attributes:
        pid: None for a prepared transaction, which belongs to no session.
        transactions: how many ids were given since its own.
        seconds: since it began (was prepared); None where the role may not see that.
    """

    pid: int | None
    user: str | None
    database: str | None
    transactions: int
    seconds: float | None

    @property
    def note(self) -> str:
        """Code of the run note that names it (include/core/notes.py)."""
        return "horizon_held_prepared" if self.pid is None else "horizon_held"

    @property
    def facts(self) -> dict[str, Any]:
        """Facts of that note."""
        pid = {} if self.pid is None else {"pid": self.pid}
        seconds = None if self.seconds is None else round(self.seconds)
        return {
            **pid,
            **{"user": self.user, "database": self.database},
            **{"age_transactions": self.transactions, "age_seconds": seconds},
        }


def read_identity(read: Read, tables: Collection[str]) -> SourceIdentity:
    """The identity of the connected database; in a REPEATABLE READ transaction, that of its snapshot.

    Args:
        tables: every table that contributes to an entity; those that do not exist are left out.
    """
    ((horizon, next_xid, database, oid),) = read(_POSITION, [])
    known = {name for (name,) in read(_CALLABLE, [_FUNCTIONS])}
    parts = dict(_ANYWHERE)
    if "pg_is_in_recovery" in known:
        ((in_recovery,),) = read(_IN_RECOVERY, [])
        parts |= _ON_A_STANDBY if in_recovery else _ON_A_PRIMARY
    found = {part: _first_callable(read, ways, known) for part, ways in parts.items()}
    position = found.pop("wal_position", None)
    return SourceIdentity(
        *(int(horizon), int(next_xid), database, oid),
        tables=dict(read(_TABLES, [sorted(tables)])),
        wal_position=None if position is None else int(position),
        **found,
    )


def _first_callable(read: Read, ways: Sequence[tuple[frozenset[str], str]], known: Collection[str]) -> Any:
    query = next((query for functions, query in ways if functions <= set(known)), None)
    if query is None:
        return None
    ((value,),) = read(query, [])
    return value


def read_holders(
    read: Read,
    *,
    older_than_seconds: float = 60,
    older_than_transactions: int = 10_000,
    open_since: int | None = None,
    at_most: int = 10,
) -> list[Holder]:
    """Open transactions worth naming, oldest first: of this database, and the one that holds the horizon.

    Args:
        older_than_seconds: names it where its beginning is visible.
        older_than_transactions: names it where its beginning is not.
        open_since: names all that were open when this transaction id (with or without epoch) was given, as
            `next_xid` of the run before.
    """
    since = None if open_since is None else str(open_since % 2**32)
    rows = read(_HOLDERS, [older_than_seconds, older_than_transactions, since, at_most])
    return [Holder(*row) for row in rows]


def compare(remembered: SourceIdentity, found: SourceIdentity) -> str | None:
    """Why row versions stored under one identity mean nothing under a later one; None when they do.

    The text names servers, databases and tables, never a value of a row. Parts that either could not read
    are not compared.
    """
    for part, what in (
        ("system_identifier", "another server (its system identifier changed from {} to {})"),
        ("timeline", "restored to a point in time, or failed over (its timeline changed from {} to {})"),
        ("database_oid", "another database (its oid changed from {} to {})"),
        ("statistics_since", "crashed, restored or copied (statistics are kept since {1}, before since {0})"),
    ):
        before, now = getattr(remembered, part), getattr(found, part)
        if before is not None and now is not None and before != now:
            return what.format(before, now)
    renewed = [name for name, oid in remembered.tables.items() if found.tables.get(name, oid) != oid]
    if renewed:
        return f"tables were created anew: {', '.join(sorted(renewed))}"
    return _went_back(remembered, found)


def _went_back(remembered: SourceIdentity, found: SourceIdentity) -> str | None:
    """The signs of an older state of the same server, such as the snapshot of a virtual machine."""
    horizon = max(remembered.horizon, remembered.next_xid)
    if horizon > found.next_xid:
        return f"its time went back (transaction {horizon} is remembered, the next one is {found.next_xid})"
    before, now = remembered.wal_position, found.wal_position
    if before is not None and now is not None and now < before:
        return f"its time went back (log position {before} is remembered, it is at {now})"
    return None


def first_break(identities: Sequence[SourceIdentity]) -> str | None:
    """The first reason to distrust among identities in the order they were seen, None when there is none.

    Every pair counts: a part that one run could not read must not hide a change between its neighbours, and
    a source that went back and forth must not pass for one that stood still.
    """
    reasons = (compare(before, after) for before, after in combinations(identities, 2))
    return next((reason for reason in reasons if reason is not None), None)
