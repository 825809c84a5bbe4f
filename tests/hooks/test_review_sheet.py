"""The file that people fill in: what a spreadsheet may do to it, and what it must not do with it."""

from __future__ import annotations

import csv
import io
import json
import stat
from pathlib import Path

import pyarrow as pa
import pytest

from include.core.errors import MigrationError
from include.matching.deduplicate import MatchSettings, deduplicate
from plugins.hooks.review import Pair
from plugins.review import sheet

FIELDS = {
    "email": {"weight": 0.0, "words": "e-mail address not compared (+0.0)"},
    "gender": {"weight": 1.0, "words": "same sex (+1.0)"},
    "suffix": {"weight": -3.2, "words": "different suffix (-3.2)"},
    "last_name": {"weight": 9.1, "words": "same surname, rare (+9.1)"},
}
WORDS = {"prior": -10.0, "fields": FIELDS, "vetoes": ["sex_differs"]}
PERSON = {"first_name": "Zoë", "last_name": 'O\'Hara, Jr.; "X"', "suffix": "=1+1", "email": None}
TWIN = {"first_name": "two\nlines", "last_name": "\t@x", "suffix": " －1", "email": "-x@example.org"}
PAIRS = [
    Pair("2", "9", 0.5, WORDS, "pending", None, None, None, None, "vab1", PERSON, TWIN),
    Pair(
        "10", "12", None, {}, "confirmed", "2026-01-02", "Eva", "2026-01-01", "+ see file", None, None, None
    ),
    Pair("9", "10", 0.97531, {}, "pending", None, None, None, None, "v2", PERSON, PERSON),
]


def written(*, with_names: bool = True, delimiter: str = ",") -> list[dict[str, str]]:
    file = io.StringIO()
    assert sheet.write(file, PAIRS, with_names=with_names, delimiter=delimiter) == 3
    return list(csv.DictReader(io.StringIO(file.getvalue()), delimiter=delimiter))


def saved(folder: Path, content: str | bytes, encoding: str = "utf-8-sig") -> Path:
    path = folder / "pairs.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def refused(path: Path) -> str:
    with pytest.raises(MigrationError) as caught:
        sheet.read(path, "Eva")
    assert caught.value.code == "REVIEW_FILE_INVALID"
    return caught.value.detail


HEADER = "left_id,right_id,decision,reason\n"


class TestWriting:
    def test_the_likeliest_come_first_with_what_speaks_for_them(self) -> None:
        rows = written()
        assert [(row["left_id"], row["score"]) for row in rows] == [
            ("9", "0.9753"),
            ("2", "0.5000"),
            ("10", ""),
        ]
        assert rows[1]["explanation"] == (
            "same surname, rare (+9.1); different suffix (-3.2); same sex (+1.0); not merged by itself: sex differs"
        )
        assert (rows[0]["decision"], rows[0]["reason"], rows[0]["seen"]) == ("", "", "v2")

    def test_what_the_matcher_says_is_said_in_words(self) -> None:
        same = {"first_name": "Zoë", "last_name": "Ünal", "date_of_birth": "1980-02-29"}
        rows = [{"legacy_id": str(key), **same, "gender": sex} for key, sex in ((1, "male"), (2, "female"))]
        settings = MatchSettings(review_at=1e-6)
        (pair,) = deduplicate(pa.Table.from_pylist(rows), settings).pairs.to_pylist()
        words = sheet.in_words(json.loads(pair["explanation"]))
        assert "same surname" in words
        assert "not merged by itself: sex differs" in words
        assert "Ünal" not in words

    def test_names_are_there_only_on_demand(self) -> None:
        text = str(written(with_names=False))
        assert not [
            value
            for value in ("Zoë", "O'Hara", "lines", "@x", "example", "see file", "first_name")
            if value in text
        ]
        assert written()[1]["left_first_name"] == "Zoë"
        assert written()[2]["left_first_name"] == ""

    def test_nothing_is_a_formula_and_a_pair_is_a_line(self) -> None:
        row = written()[1]
        assert row["left_suffix"] == "'=1+1"
        assert row["right_suffix"] == "' －1"
        assert row["right_email"] == "'-x@example.org"
        assert row["right_last_name"] == "'\t@x"
        assert row["right_first_name"] == "two lines"
        assert written()[2]["decision_reason"] == "'+ see file"
        assert row["left_last_name"] == PERSON["last_name"]

    def test_a_file_is_for_its_owner_and_marked_as_utf_8(self, tmp_path: Path) -> None:
        path = tmp_path / "pairs.csv"
        with sheet.created(path) as file:
            sheet.write(file, PAIRS, with_names=True, delimiter=";")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_bytes().startswith("\ufeffleft_id;".encode())

    def test_a_file_that_is_there_is_left_alone(self, tmp_path: Path) -> None:
        path = saved(tmp_path, "filled in")
        with pytest.raises(MigrationError) as caught, sheet.created(path):
            pytest.fail("it was opened")
        assert (caught.value.code, path.read_text("utf-8-sig")) == ("REVIEW_FILE_INVALID", "filled in")

    def test_a_file_that_could_not_be_written_whole_is_gone(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError), sheet.created(tmp_path / "pairs.csv"):
            raise ZeroDivisionError
        assert list(tmp_path.iterdir()) == []

    def test_of_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(MigrationError) as caught, sheet.created(tmp_path / "no" / "pairs.csv"):
            pytest.fail("it was opened")
        assert "No such file" in caught.value.detail


class TestReading:
    @pytest.mark.parametrize("delimiter", sheet.DELIMITERS.values())
    @pytest.mark.parametrize("with_names", [True, False])
    def test_what_was_written_is_read(self, tmp_path: Path, delimiter: str, with_names: bool) -> None:
        rows = written(with_names=with_names, delimiter=delimiter)
        rows[0] |= {"decision": "Confirm ", "reason": 'same; she says, "yes"'}
        rows[2] |= {"decision": "REJECTED", "reason": "'- twins"}
        file = io.StringIO()
        sheet_writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
        sheet_writer.writeheader()
        sheet_writer.writerows(rows)
        filled = sheet.read(saved(tmp_path, file.getvalue()), "Eva")
        assert filled.undecided == 1
        first, second = filled.decisions
        assert (first.left_id, first.right_id, first.decision, first.seen) == ("9", "10", "confirmed", "v2")
        assert (first.reason, first.decided_by, first.label) == ('same; she says, "yes"', "Eva", "line 2")
        assert (second.decision, second.reason, second.seen) == ("rejected", "- twins", None)
        assert second.label == "line 4"

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
    def test_in_the_encodings_of_spreadsheets(self, tmp_path: Path, encoding: str) -> None:
        content = HEADER.replace("\n", "\r\n") + "2,9,reject,Müller ist größer\r\n,,,\r\n\r\n"
        (decision,) = sheet.read(saved(tmp_path, content, encoding), "Eva").decisions
        assert decision.reason == "Müller ist größer"

    def test_lines_are_those_of_the_file(self, tmp_path: Path) -> None:
        content = HEADER + '2,9,confirm,"two\nlines"\n\n9,10,confirm\n'
        first, second = sheet.read(saved(tmp_path, content), "Eva").decisions
        assert (first.label, first.reason) == ("line 2", "two\nlines")
        assert (second.label, second.reason) == ("line 5", "")

    def test_an_unknown_decision_is_for_the_target_to_refuse(self, tmp_path: Path) -> None:
        (decision,) = sheet.read(saved(tmp_path, HEADER + "2,9,Maybe,why"), "Eva").decisions
        assert decision.decision == "maybe"

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("", "missing columns left_id, right_id, decision, reason"),
            ("left_id,right_id,decision\n", "missing columns reason"),
            (HEADER.replace("\n", ",verdict\n"), "unknown name at place 5"),
            (HEADER.replace("\n", ",reason\n"), "twice reason"),
            ("2,9,confirm,Zoë\n", "missing columns"),
            (HEADER + "2,9,confirm,why,Zoë\n", "on line 2"),
            (HEADER + '2,9,confirm,"Zoë\n', "not text as a spreadsheet saves it"),
            (HEADER + "2,9,confirm,Zoë\0\n", "not text as a spreadsheet saves it"),
            (b"\x81\x8d\xff", "not text as a spreadsheet saves it"),
            (b"\xff\xfeZ", "not text as a spreadsheet saves it"),
        ],
    )
    def test_what_is_no_such_file_is_refused_without_quoting_it(
        self, tmp_path: Path, content: str | bytes, said: str
    ) -> None:
        detail = refused(saved(tmp_path, content))
        assert said in detail
        assert "Zo" not in detail

    def test_of_no_file(self, tmp_path: Path) -> None:
        assert "No such file" in refused(tmp_path / "pairs.csv")
