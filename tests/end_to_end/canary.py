"""Values that nobody else has, planted in every column of the source that tells of a person, and the search for them.

What identifies one patient and her doctor stands in the notes of all others as well (`IDENTIFIERS`). The others have
values of many shapes, each holding a `MARKER`, for it is the unusual ones that a quoting or cutting somewhere lets
through.
"""

from __future__ import annotations

import base64
import html
import json
import re
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import psycopg

# Unmistakable, and the date is nobody's.
CANARIES = (
    "Zyxqwcanary",
    "Vutsrcanary",
    "zyxqw.canary@mail.example",
    "canarylogin",
    "canary no address",
    "Plokjcanary",
    "Mnbvhcanary",
    "mnbvh.canary@clinic.example",
    "1897-03-29",
    "canarynote",
    "canaryscanner",
    "canaryscheme",
    "canaryproject",
    "canaryplan",
)
# Parts of names, of addresses and of the date in any notation.
IDENTIFIERS = (
    *CANARIES,
    *("zyxqw", "vutsr", "plokj", "mnbvh", ".example"),
    *(
        "1897",
        "29.3",
        "29.03",
        "29/3",
        "29/03",
        "3/29",
        "03/29",
        "29 march",
        "march 29",
        "29. märz",
        "290397",
    ),
)
MARKERS = ("Qanaryx", "Qänäryx")
EVERYTHING = (*CANARIES, *MARKERS, "(1897, 3, 29)")
"""What must not be found where nobody's data may be."""

# By name: around a text that says which column it stands in.
SHAPES: Mapping[str, str] = {
    "plain": "Qanaryx{} of the plain kind",
    "umlauts": "Qänäryx{} Größe ß é",
    "quotes": "Qanaryx{} \"double\" 'single' `back` \\ back\\slash",
    "braces": "Qanaryx{} {{0}} {{{{x}}}} %s %(name)s ${{HOME}} {{%% x %%}}",
    "lines": "Qanaryx{}\nsecond line\r\n\tthird line",
    "terminal": "\x1b[31mQanaryx{}\x1b[0m\x07",
    "json": '{{"name": "Qanaryx{}", "more": [1, null]}}',
    "csv": 'Qanaryx{},"quoted, ""twice""",\\N,\\.',
    "long": "Qanaryx{} " + "and so on without an end " * 400,
}
# Table: columns that get a shaped text, and how long it may be at most.
_SHAPED: Mapping[str, Mapping[str, int | None]] = {
    "auth_user": {"first_name": 150, "last_name": 150, "email": 254, "username": 150, "password": 128},
    "dispatch_office": {
        **{"name": 255, "address": 255, "apt": 50, "city": 100, "state": 100, "zip": 20},
        **{"country": 100, "phone": 50, "sq_customer_id": 255},
    },
    "dispatch_patient": {"schemes": None, "suffix": 10},
    "dispatch_instruction": {
        **{"notes": None, "conditions": None, "complaint": None, "objective": None},
        **{"scanner_notes": None, "exports": None, "suffix": 10},
    },
    "dispatch_project": {"name": 255},
    "dispatch_plan": {"notes": None, "name": 255},
    "dispatch_task": {"text": None},
}
_MARK = """
CREATE TEMPORARY TABLE marked AS
  SELECT i.patient_id, p.user_id, p.doctor_id, i.id AS instruction_id, pl.id AS plan_id, pl.project_id
  FROM dispatch_instruction i JOIN dispatch_patient p ON p.id = i.patient_id
  JOIN auth_user d ON d.id = p.doctor_id
  JOIN dispatch_plan pl ON pl.instruction_id = i.id ORDER BY i.id LIMIT 1
"""
_PLANT = """
UPDATE auth_user SET first_name = 'Zyxqwcanary', last_name = 'Vutsrcanary', email = 'zyxqw.canary@mail.example',
  username = 'canarylogin' FROM marked WHERE id = user_id;
UPDATE auth_user SET first_name = 'Plokjcanary', last_name = 'Mnbvhcanary', email = 'mnbvh.canary@clinic.example'
  FROM marked WHERE id = doctor_id;
UPDATE auth_user SET email = 'canary no address' WHERE id = (
  SELECT min(p.user_id) FROM dispatch_patient p, marked m WHERE p.user_id <> m.user_id);
UPDATE dispatch_patient SET birthdate = '1897-03-29', schemes = '{"canaryscheme": ' FROM marked WHERE id = patient_id;
-- Notes of all others tell of the same people.
UPDATE dispatch_instruction SET
  notes = notes || ' Sister of Zyxqwcanary Vutsrcanary, zyxqw.canary@mail.example.',
  conditions = conditions || '. As Mr Vutsrcanary, born 29.03.1897.',
  complaint = complaint || ', says Mnbvhcanary (mnbvh.canary@clinic.example)',
  objective = objective || '. Plokjcanary Mnbvhcanary agreed.';
UPDATE dispatch_instruction SET exports = '[canarynote', scanner_notes = 'canaryscanner of Zyxqwcanary',
  notes = 'canarynote: Zyxqwcanary Vutsrcanary, 1897-03-29, wrote from zyxqw.canary@mail.example as canarylogin.',
  conditions = 'VUTSRCANARY, zyxqwcanary; born 29.03.1897 or 3/29/1897, 29 March 1897, March 29th 1897, 29.3., 290397.',
  complaint = 'Dr. Plokjcanary Mnbvhcanary of mnbvh.canary@clinic.example saw Vutsrcanary''s overjet on 29. März 1897.',
  objective = 'Zyxqwcanary_Vutsrcanary.stl, zyxqwvutsr, Z. Vutsrcanary, ZyxqwcanaryVutsrcanary: align both arches.'
  FROM marked WHERE id = instruction_id;
UPDATE dispatch_project SET name = 'canaryproject' FROM marked WHERE id = project_id;
UPDATE dispatch_plan SET notes = 'canaryplan', name = 'canaryplan' FROM marked WHERE id = plan_id;
"""
# Rows of each table that tell of nobody above.
_OTHERS: Mapping[str, str] = {
    "auth_user": """SELECT min(p.user_id) FROM dispatch_patient p, marked m
        WHERE p.user_id NOT IN (m.user_id, m.doctor_id) GROUP BY p.id ORDER BY p.id DESC""",
    "dispatch_office": "SELECT id FROM dispatch_office ORDER BY id",
    "dispatch_patient": "SELECT p.id FROM dispatch_patient p, marked m WHERE p.id <> m.patient_id ORDER BY p.id DESC",
    "dispatch_instruction": """SELECT i.id FROM dispatch_instruction i, marked m
        WHERE i.id <> m.instruction_id ORDER BY i.id DESC""",
    "dispatch_project": "SELECT p.id FROM dispatch_project p, marked m WHERE p.id <> m.project_id ORDER BY p.id DESC",
    "dispatch_plan": "SELECT p.id FROM dispatch_plan p, marked m WHERE p.id <> m.plan_id ORDER BY p.id DESC",
    "dispatch_task": "SELECT id FROM dispatch_task ORDER BY id DESC",
}


def plant(dsn: str) -> None:
    """Plants all of it in a source."""
    with psycopg.connect(dsn) as connection:
        connection.execute(_MARK)
        connection.execute(_PLANT.encode())
        for table, columns in _SHAPED.items():
            rows = [key for (key,) in connection.execute(_OTHERS[table].encode()).fetchall()]
            for (shape, text), key in zip(SHAPES.items(), rows, strict=False):
                values = {
                    column: _shaped(text, column, shape)[:longest] for column, longest in columns.items()
                }
                assignments = ", ".join(f'"{column}" = %({column})s' for column in values)
                connection.execute(f"UPDATE {table} SET {assignments} WHERE id = {key}".encode(), values)


def _shaped(text: str, column: str, shape: str) -> str:
    if column == "suffix":  # too short for the others
        return "Qanaryx"
    if column == "email" and shape == "plain":
        return "Qanaryx.email@mail.example"
    return text.format(f" {column} {shape}")


def forms(words: Iterable[str]) -> dict[str, str]:
    """Every way in which a word may stand in a text → the word. Letters are lower, but for base64."""
    ways: dict[str, str] = {}
    for word in words:
        lower = word.lower()
        spelled = {lower, unicodedata.normalize("NFD", lower), unicodedata.normalize("NFC", lower)}
        for text in spelled:
            raw = text.encode()
            escaped = json.dumps(text)[1:-1]
            plain = {text, escaped, escaped.replace("\\", "\\\\"), text.encode("unicode_escape").decode()}
            plain |= {quote(text), quote(text, safe="@"), html.escape(text), raw.decode("latin-1")}
            plain |= {text.encode("ascii", "xmlcharrefreplace").decode(), repr(raw)[2:-1]}
            ways |= {way.lower(): word for way in plain}
        for text in {word, lower, word.upper()}:
            ways |= dict.fromkeys((text.encode().hex(), text.encode("utf-16-le").hex()), word)
            ways |= dict.fromkeys(_in_base64(text.encode()), word)
    return ways


def _in_base64(raw: bytes) -> Iterator[str]:
    """Wherever in a longer text the word begins, the part that depends on nothing around it."""
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + raw).decode()
        first = -(-before * 8 // 6)
        yield whole[first : (before + len(raw)) * 8 // 6]


class Search:
    """Looks for words in all their forms."""

    def __init__(self, words: Iterable[str]) -> None:
        self._ways = forms(words)
        self._pattern = re.compile("|".join(map(re.escape, sorted(self._ways, key=len, reverse=True))))

    def found(self, content: str | bytes) -> list[str]:
        """Words that are there, each with what stands around it, for who has to find the leak."""
        hits: dict[str, str] = {}
        for text in _readings(content):
            # Base64 is the one way that depends on upper and lower case.
            for read in (text, text.lower()):
                for hit in self._pattern.finditer(read):
                    around = read[max(0, hit.start() - 60) : hit.end() + 20]
                    hits.setdefault(self._ways[hit.group()], around)
        return [f"{word}: {around!r}" for word, around in hits.items()]

    def in_files(self, folder: Path, *, but: Iterable[Path] = ()) -> dict[str, list[str]]:
        """Files below a folder, by name or content."""
        left_out = tuple(but)
        files = [path for path in folder.rglob("*") if path.is_file()]
        found = {
            str(path.relative_to(folder)): self.found(str(path)) + self.found(path.read_bytes())
            for path in files
            if not any(other in path.parents for other in left_out)
        }
        return {name: hits for name, hits in found.items() if hits}

    def in_sqlite(self, path: Path) -> dict[str, list[str]]:
        """Tables of a SQLite database, value by value: in the file a long one lies in pieces."""
        found: dict[str, list[str]] = {}
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (table,) in tables:
                for row in connection.execute(f'SELECT * FROM "{table}"'):
                    for value in row:
                        if isinstance(value, str | bytes) and (hits := self.found(value)):
                            found.setdefault(table, []).extend(hits)
        return found

    def in_tables(self, dsn: str, schema: str, but: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
        """Tables of a PostgreSQL schema.

        Args:
            but: table → columns that are not looked at.
        """
        found: dict[str, list[str]] = {}
        with psycopg.connect(dsn) as connection:
            names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [schema])
            for (table,) in names.fetchall():
                without = "".join(f" - '{column}'" for column in but.get(table, ()))
                rows = connection.execute(
                    f"SELECT (to_jsonb(t){without})::text FROM {schema}.{table} t".encode()
                )
                if hits := [hit for (row,) in rows for hit in self.found(row)]:
                    found[table] = hits
        return found

    def in_process(self, pid: int) -> list[str]:
        """What other users of the machine, or a crash report, see of a process: its title and its environment."""
        process = Path(f"/proc/{pid}")
        return [
            hit
            for name in ("cmdline", "environ", "comm")
            for hit in self.found((process / name).read_bytes())
        ]


def _readings(content: str | bytes) -> tuple[str, ...]:
    if isinstance(content, str):
        return (content,)
    return (
        content.decode(errors="ignore"),
        content.decode("latin-1"),
        content.replace(b"\0", b"").decode("latin-1"),
    )
