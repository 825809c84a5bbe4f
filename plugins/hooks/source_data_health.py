"""Checks of the legacy data as a whole: counts, references, codes, texts. Aggregates only: no value of a row leaves.

Everything is SELECT and works on PostgreSQL 9.5. Tables and columns are those of the entities' declarations; what the
connected source lacks, or may not be read, is left out and said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from psycopg import sql

from include.core.errors import MigrationError
from include.core.mapping import configuration
from include.core.preflight import Outcome, failed, passed, skipped, warned
from include.core.spec import Entity, Kind, columns_of
from plugins.hooks.legacy_mdw import Snapshot
from plugins.hooks.session_health import HealthSession

# A statement that took too long, a table that may not be read, one that somebody holds locked.
_UNANSWERED = {"57014": "took too long", "42501": "may not be read", "55P03": "is locked"}

PARENTS: Mapping[str, str] = {
    **dict.fromkeys(("user_id", "doctor_id", "actor_id", "creator_id"), "auth_user"),
    "group_id": "auth_group",
    "patient_id": "dispatch_patient",
    "office_id": "dispatch_office",
    "course_id": "dispatch_course",
    "product_id": "dispatch_product",
    "upper_jaw_id": "dispatch_jaw",
    "lower_jaw_id": "dispatch_jaw",
    "instruction_id": "dispatch_instruction",
    "project_id": "dispatch_project",
    "category_id": "dispatch_category",
    "parent_id": "dispatch_category",
    "role_id": "dispatch_role",
    "template_id": "dispatch_template",
    "from_template_id": "dispatch_template",
    "to_template_id": "dispatch_template",
}
"""Column to the table that it refers to, wherever an entity reads it (docs/legacy-mdw.md section 1)."""
CODES: Mapping[str, tuple[str, str]] = {
    "gender": ("dispatch_patient", "sex"),
    "case_type": ("dispatch_instruction", "course_id"),
    "case_state": ("dispatch_instruction", "status"),
    "project_type": ("dispatch_project", "type"),
    "project_status": ("dispatch_project", "status"),
    "task_function": ("dispatch_template", "function"),
    "state_name": ("dispatch_state", "status"),
    "country": ("dispatch_office", "country"),
}
"""Table of include/mappings/codes.toml to the column that holds its codes."""
_ROLES = ("auth_user_groups", "group_id")
_ROLES_SETTING = "role"
_OVERRIDE = "In the file of MIGRATION_MAPPING_FILE copy from include/mappings/codes.toml"
# Numbers and single letters are codes; anything longer may be what somebody typed.
_PRINTABLE_CODE = re.compile(r"-?\d{1,9}|[A-Za-z]")
JSON_TEXTS = (("dispatch_patient", "schemes"), ("dispatch_instruction", "exports"))
"""Columns whose text is JSON."""

# Statistics are off by rounding and by what was written since; a table is full from so many rows on.
_FULL = 100
_LARGE = 10_000
_STATISTICS = """SELECT c.relname::text, greatest(c.reltuples, 0)::bigint, coalesce(s.n_live_tup, 0)::bigint,
  s.last_analyze IS NOT NULL OR s.last_autoanalyze IS NOT NULL
FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_stat_all_tables s ON s.relid = c.oid
WHERE pg_catalog.pg_table_is_visible(c.oid) AND c.relname = ANY (%s)"""
_UNIQUE_IDS = """SELECT DISTINCT c.relname::text FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = 'id' AND a.attnotnull
WHERE pg_catalog.pg_table_is_visible(c.oid) AND i.indnatts = 1 AND i.indkey[0] = a.attnum AND c.relname = ANY (%s)"""

_ALGORITHMS = (
    *("pbkdf2_sha256", "pbkdf2_sha1", "argon2", "argon2i", "argon2id", "bcrypt", "bcrypt_sha256", "scrypt"),
    *("sha1", "md5", "unsalted_sha1", "unsalted_md5", "crypt"),
)
_WEAK = {"sha1", "md5", "unsalted_sha1", "unsalted_md5", "crypt", "other"}
_SUPABASE_IMPORTS = {"bcrypt", "argon2", "argon2i", "argon2id"}
_MAY_READ = """SELECT pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'SELECT') FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
WHERE pg_catalog.pg_table_is_visible(c.oid) AND c.relname = %s AND a.attname = %s AND NOT a.attisdropped"""
# Only names of algorithms leave the server: a text that is none may be a password.
_PASSWORDS = """SELECT CASE WHEN password = '' THEN 'none' WHEN left(password, 1) = '!' THEN 'unusable'
  WHEN split_part(password, '$', 1) = ANY (%s) AND strpos(password, '$') > 0 THEN split_part(password, '$', 1)
  ELSE 'other' END AS algorithm, count(*) FROM auth_user GROUP BY 1 ORDER BY 2 DESC, 1"""
_ACCOUNTS = """SELECT count(*) FILTER (WHERE username ~* %s), count(*) FILTER (WHERE email ~* %s),
  count(*) FILTER (WHERE username ~* %s OR email ~* %s) FROM auth_user"""
_TEST_NAME = r"(^|[^a-z])(test|tester|testuser|demo|dummy|sample)([^a-z]|$)"
_TEST_EMAIL = r"@(example\.(com|org|net)|([^@]*\.)?(test|example|invalid|localhost|local|internal))$"
# Told as fixes, never sent.
_TWICE = "SELECT id, count(*) FROM {table} GROUP BY id HAVING count(*) > 1;"
_ORPHANS = (
    "SELECT id FROM {table} c WHERE c.{column} IS NOT NULL"
    " AND NOT EXISTS (SELECT 1 FROM {parent} p WHERE p.id = c.{column});"
)
_WITHOUT_NUL = (
    "UPDATE {table} SET {column} = replace({column}, '\\u0000', '') WHERE strpos({column}, '\\u0000') > 0;"
)
# Byte by byte, as a server without an encoding compares: everything that UTF-8 allows.
_VALID_UTF8 = (
    "^([\\u0001-\\u007f]|[\\u00c2-\\u00df][\\u0080-\\u00bf]|\\u00e0[\\u00a0-\\u00bf][\\u0080-\\u00bf]"
    "|[\\u00e1-\\u00ec\\u00ee\\u00ef][\\u0080-\\u00bf]{2}|\\u00ed[\\u0080-\\u009f][\\u0080-\\u00bf]"
    "|\\u00f0[\\u0090-\\u00bf][\\u0080-\\u00bf]{2}|[\\u00f1-\\u00f3][\\u0080-\\u00bf]{3}"
    "|\\u00f4[\\u0080-\\u008f][\\u0080-\\u00bf]{2})*$"
)


@dataclass
class _Answers:
    """What could not be asked of some tables, so that the others are asked all the same."""

    unanswered: list[str] = field(default_factory=list)

    def of(
        self, tables: Iterable[str], ask: Callable[[str], list[tuple[Any, ...]]]
    ) -> Iterator[tuple[str, Any]]:
        """Each table with the rows of its query."""
        for table in tables:
            try:
                rows = ask(table)
            except MigrationError as error:
                reason = _UNANSWERED.get(str(error.facts.get("sqlstate")))
                if reason is None:
                    raise
                self.unanswered.append(f"{table} {reason}")
            else:
                yield table, rows

    def outcome(self, problem: str, fix: str, good: str, **facts: Any) -> Outcome:
        """A warning where there is a problem, or a table could not be asked."""
        if not problem and not self.unanswered:
            return passed(good, **facts)
        told = [problem] if problem else []
        fixes = [fix] if problem else []
        if self.unanswered:
            told.append(f"Not known: {', '.join(self.unanswered)}.")
            fixes.append(
                "Ask again at a quieter hour for what is not known; source.select names missing rights."
            )
        return warned(" ".join(told), "\n".join(fixes), **facts)


class SourceDataChecks:
    """Checks of the rows that a run would read.

    Args:
        entities: those that a run would migrate.
    """

    def __init__(self, session: HealthSession, entities: Collection[Entity]) -> None:
        self._session = session
        self._entities = entities
        self._declared = declared_columns(entities)

    @cached_property
    def _columns(self) -> Mapping[str, Mapping[str, str]]:
        """Table → column → type, of what is both declared and there."""
        with self._session.reading() as connection:
            found = Snapshot(connection).columns(sorted(self._declared))
        return {
            table: {column: kind for column, (kind, _) in columns.items() if column in self._declared[table]}
            for table, columns in found.items()
        }

    def rows(self) -> Outcome:
        """Counts, and tables of which the statistics say something else."""
        answers = _Answers()
        known = {row[0]: row[1:] for row in self._session.ask(_STATISTICS, [sorted(self._columns)])}
        found = {
            table: rows[0]
            for table, rows in answers.of(
                sorted(self._columns), lambda table: self._session.ask(_size(table), [table])
            )
        }
        counted = {table: int(rows) for table, (rows, _) in found.items()}
        emptied = [name for name, rows in counted.items() if not rows and max(known[name][:2]) >= _FULL]
        unknown = [
            name
            for name, rows in counted.items()
            if rows >= _LARGE and not known[name][2] and not known[name][0]
        ]
        problems, fixes = [], []
        if emptied:
            listed = ", ".join(f"{name} ({max(known[name][:2]):,})" for name in emptied)
            problems.append(f"Empty, though by its statistics it has rows: {listed}.")
            fixes += ["Find out who emptied it, or whether this is the right database. If it is right:"]
            fixes += [f"VACUUM ANALYZE {name};" for name in emptied]
        if unknown:
            problems.append(f"Large and never analysed, so reads may be planned badly: {', '.join(unknown)}.")
            fixes += [f"ANALYZE {name};" for name in unknown]
        estimated = {name: int(known[name][0]) for name in known if name not in counted}
        rows = {**estimated, **counted}
        good = f"{sum(rows.values()):,} rows in {len(rows)} tables, as the statistics say."
        sizes = {table: int(size) for table, (_, size) in found.items()}
        return answers.outcome(" ".join(problems), "\n".join(fixes), good, rows=rows, bytes=sizes)

    def keys(self) -> Outcome:
        """Ids that occur twice, or not at all."""
        answers = _Answers()
        tables = [table for table, columns in self._columns.items() if "id" in columns]
        unique = {name for (name,) in self._session.ask(_UNIQUE_IDS, [tables])}
        repeats = sql.SQL("SELECT count(*) - count(DISTINCT id), count(*) - count(id) FROM {}")
        asked = [table for table in sorted(tables) if table not in unique]
        found = {
            table: rows[0]
            for table, rows in answers.of(
                asked, lambda table: self._session.ask(repeats.format(sql.Identifier(table)))
            )
        }
        repeated = [table for table, (twice, _) in found.items() if twice]
        if repeated:
            told = ", ".join(f"{table} ({found[table][0]:,} too many)" for table in repeated)
            fixes = [_TWICE.format(table=table) for table in repeated]
            return failed(f"Ids that are not unique: {told}.", "\n".join(fixes))
        unguarded = f" {len(asked)} of them have no index that makes sure of it." if asked else ""
        return answers.outcome("", "", f"The ids of {len(tables)} tables are unique.{unguarded}")

    def references(self) -> Outcome:
        """Rows that refer to nothing, for each reference."""
        answers = _Answers()
        asked = {table: links for table in self._columns if (links := self._links(table))}
        orphans: dict[str, int] = {}
        for table, rows in answers.of(
            sorted(asked), lambda table: self._session.ask(_orphans(table, asked[table]))
        ):
            orphans |= {
                f"{table}.{column}": n for (column, _), n in zip(asked[table], rows[0], strict=True) if n
            }
        told = ", ".join(
            f"{name} {count:,}" for name, count in sorted(orphans.items(), key=lambda item: -item[1])
        )
        fixes = [
            _ORPHANS.format(table=table, column=column, parent=PARENTS[column])
            for table, column in (name.split(".") for name in sorted(orphans))
        ]
        fix = (
            "Mend them in the source, or accept it: quarantine and findings of a run count them. They are:\n"
        )
        good = f"{sum(map(len, asked.values()))} references, none of them to a row that does not exist."
        problem = f"Refer to rows that do not exist: {told}." if orphans else ""
        return answers.outcome(problem, fix + "\n".join(fixes), good, orphans=orphans)

    def _links(self, table: str) -> list[tuple[str, str]]:
        """Columns of a table that refer to another one that is there."""
        return [
            (column, PARENTS[column])
            for column in sorted(self._columns[table])
            if column in PARENTS and "id" in self._columns.get(PARENTS[column], {})
        ]

    def codes(self) -> Outcome:
        """Codes without a meaning, by table of the mapping."""
        answers = _Answers()
        problems: list[str] = []
        fixes: list[str] = []
        silent: dict[str, int] = {}
        places = {**CODES, _ROLES_SETTING: _ROLES}
        present = {
            name: place for name, place in places.items() if place[1] in self._columns.get(place[0], {})
        }
        for name, rows in answers.of(present, lambda name: self._session.ask(_frequencies(*present[name]))):
            known, meant = _known_codes(name)
            silent[name] = sum(count for code, count in rows if code in known - meant)
            unknown = {code: count for code, count in rows if code not in known and code != ""}
            if unknown:
                problems.append(f"{name}: {_shown(unknown)} ({'.'.join(present[name])})")
                fixes += _meanings_to_add(name, unknown)
        told = f"Not in the mapping: {'; '.join(problems)}." if problems else ""
        without = sum(silent.values())
        good = f"Every code of {len(present)} mappings is known; {without:,} rows have one whose meaning nobody knows."
        return answers.outcome(
            told, "\n".join(fixes), good, without_meaning={k: n for k, n in silent.items() if n}
        )

    def timestamps(self) -> Outcome:
        """Columns of stamps whose zone nobody states."""
        naive = [
            f"{table}.{column}"
            for table, columns in sorted(self._columns.items())
            for column, kind in sorted(columns.items())
            if kind == "timestamp" and Kind.TIMESTAMP in self._declared[table][column]
        ]
        if not naive:
            return passed("Every stamp has a time zone.")
        fixes = (name.split(".") for name in naive)
        return warned(
            f"Without time zone, read as UTC: {', '.join(naive)}.",
            "Nothing, if Django ran with TIME_ZONE = 'UTC'. Else give them their zone in the source:\n"
            + "\n".join(
                f"ALTER TABLE {table} ALTER {column} TYPE timestamptz USING {column} AT TIME ZONE '<TIME_ZONE>';"
                for table, column in fixes
            ),
            columns=naive,
        )

    def text(self) -> Outcome:
        """Texts that would not arrive as they are."""
        answers = _Answers()
        ascii_only = (
            self._session.single("SELECT pg_catalog.current_setting('server_encoding')") == "SQL_ASCII"
        )
        problems, fixes = [], []
        if ascii_only:
            broken = self._broken(answers)
            if broken:
                problems.append(f"No valid UTF-8: {_counted(broken)}.")
                fixes.append(
                    "Repair these columns in the source, for instance by convert_from(convert_to(…), 'WIN1252'),"
                    " before a run reads them: it stops at the first one."
                )
        nuls = self._nuls(answers)
        if nuls:
            problems.append(f"JSON texts with a NUL (\\u0000), kept as raw text only: {_counted(nuls)}.")
            fixes += [
                _WITHOUT_NUL.format(table=table, column=column)
                for table, column in (name.split(".") for name in nuls)
            ]
        good = "Texts are valid UTF-8; no JSON text holds a NUL."
        return answers.outcome(" ".join(problems), "\n".join(fixes), good)

    def _broken(self, answers: _Answers) -> dict[str, int]:
        texts = {
            table: columns
            for table in sorted(self._columns)
            if (columns := [c for c, kind in sorted(self._columns[table].items()) if kind in _TEXT_TYPES])
        }
        found: dict[str, int] = {}
        for table, rows in answers.of(
            texts,
            lambda table: self._session.ask(
                _not_matching(table, texts[table]), [_VALID_UTF8] * len(texts[table])
            ),
        ):
            found |= {f"{table}.{column}": n for column, n in zip(texts[table], rows[0], strict=True) if n}
        return found

    def _nuls(self, answers: _Answers) -> dict[str, int]:
        columns = {table: column for table, column in JSON_TEXTS if column in self._columns.get(table, {})}
        query = sql.SQL("SELECT count(*) FROM {} WHERE strpos({}, %s) > 0")
        asked = answers.of(
            columns,
            lambda table: self._session.ask(
                query.format(sql.Identifier(table), sql.Identifier(columns[table])), ["\\u0000"]
            ),
        )
        return {f"{table}.{columns[table]}": rows[0][0] for table, rows in asked if rows[0][0]}

    def passwords(self) -> Outcome:
        """By which algorithm passwords are hashed."""
        allowed = self._session.single(_MAY_READ, ["auth_user", "password"])
        if not allowed:
            return skipped(
                "The role may not read auth_user.password, and need not: passwords are not migrated."
            )
        counts = dict(self._session.ask(_PASSWORDS, [list(_ALGORITHMS)]))
        told = ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "no account"
        weak = sorted(_WEAK & set(counts))
        if weak:
            return warned(
                f"Hashed by: {told}.",
                f"Have these accounts ({', '.join(weak)}) set a new password: their hashes are weak, or none.",
                algorithms=counts,
            )
        imported = "some" if _SUPABASE_IMPORTS & set(counts) else "none"
        return passed(f"Hashed by: {told}. Supabase Auth imports {imported} of these.", algorithms=counts)

    def accounts(self) -> Outcome:
        """Accounts that look like tests."""
        if not {"username", "email"} <= set(self._columns.get("auth_user", {})):
            return skipped("No chosen entity reads names and addresses of accounts.")
        ((names, addresses, either),) = self._session.ask(
            _ACCOUNTS, [_TEST_NAME, _TEST_EMAIL, _TEST_NAME, _TEST_EMAIL]
        )
        if not either:
            return passed("No account looks like a test.")
        return warned(
            f"{either:,} accounts look like tests: {names:,} by user name, {addresses:,} by e-mail.",
            "Nothing, if they may migrate like all others; else remove them in the source:\n"
            f"SELECT id FROM auth_user WHERE username ~* '{_TEST_NAME}' OR email ~* '{_TEST_EMAIL}';",
            accounts=either,
        )


_TEXT_TYPES = ("text", "varchar", "bpchar")


def declared_columns(entities: Collection[Entity]) -> dict[str, dict[str, set[Kind]]]:
    """Legacy table → column → kinds that it may have."""
    declared: dict[str, dict[str, set[Kind]]] = {}
    for entity in entities:
        for table in entity.source.all_tables():
            columns = declared.setdefault(table.name, {})
            for column, kinds in columns_of(table).items():
                columns.setdefault(column, set()).update(kinds if isinstance(kinds, tuple) else (kinds,))
    return declared


def _size(table: str) -> sql.Composed:
    """Rows of a table, and its bytes without indexes."""
    query = sql.SQL("SELECT count(*), pg_catalog.pg_table_size(pg_catalog.quote_ident(%s)::regclass) FROM {}")
    return query.format(sql.Identifier(table))


def _orphans(table: str, links: Sequence[tuple[str, str]]) -> sql.Composed:
    """Counts of rows whose parent is missing, all references of a table in one reading of it."""
    counts, joins = [], []
    for number, (column, parent) in enumerate(links):
        alias, child = sql.Identifier(f"p{number}"), sql.Identifier("c", column)
        counts.append(
            sql.SQL("count(*) FILTER (WHERE {} IS NOT NULL AND {}.id IS NULL)").format(child, alias)
        )
        joins.append(
            sql.SQL("LEFT JOIN {} {} ON {}.id = {}").format(sql.Identifier(parent), alias, alias, child)
        )
    return sql.SQL("SELECT {} FROM {} c {}").format(
        sql.SQL(", ").join(counts), sql.Identifier(table), sql.SQL(" ").join(joins)
    )


def _frequencies(table: str, column: str) -> sql.Composed:
    return sql.SQL(
        "SELECT {0}::text, count(*) FROM {1} WHERE {0} IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"
    ).format(sql.Identifier(column), sql.Identifier(table))


def _not_matching(table: str, columns: Sequence[str]) -> sql.Composed:
    counts = (
        sql.SQL("count(*) FILTER (WHERE {} !~ %s)").format(sql.Identifier(column)) for column in columns
    )
    return sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(counts), sql.Identifier(table))


def _known_codes(name: str) -> tuple[set[str], set[str]]:
    """Codes that the mapping lists, and those of them with a meaning."""
    table = configuration()[name]
    if name == _ROLES_SETTING:
        groups = {str(line["group"]) for line in table["precedence"] if "group" in line}
        return groups, groups
    codes = table["codes"]
    return set(codes), {code for code, entry in codes.items() if "value" in entry}


def _shown(unknown: Mapping[str, int]) -> str:
    """Codes with their counts; what may have been typed by somebody is only counted."""
    codes = {code: count for code, count in unknown.items() if _PRINTABLE_CODE.fullmatch(code)}
    told = [f"{code} ({count:,})" for code, count in codes.items()]
    others = {code: count for code, count in unknown.items() if code not in codes}
    if others:
        told.append(f"{len(others)} other texts ({sum(others.values()):,})")
    return ", ".join(told)


def _meanings_to_add(name: str, unknown: Mapping[str, int]) -> list[str]:
    """Lines for the file of MIGRATION_MAPPING_FILE."""
    if name == _ROLES_SETTING:
        return [
            f'{_OVERRIDE} [role], and add to precedence: {{ when = "group", group = {code}, role = "…" }}'
            for code in unknown
        ]
    codes = [code if _PRINTABLE_CODE.fullmatch(code) else '"…"' for code in unknown]
    return [
        f'{_OVERRIDE} [{name}], and add to [{name}.codes]: {code} = {{ value = "…", certainty = "sure" }}'
        for code in dict.fromkeys(codes)
    ]


def _counted(found: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in found.items())
