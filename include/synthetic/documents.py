"""Free text: JSON kept in text columns, and the clinical notes of an order."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include.synthetic import proportions as p
from include.synthetic.columns import chosen, joined, nullable
from include.synthetic.draws import Draws

_STAGES = 12
_ATTACHMENTS = ("none", "buccal", "lingual", "rotation", "été", "歯")


@cache
def _valid_json() -> list[str]:
    documents: list[object] = [
        {"version": version, "stages": stages, "upper": {"attachments": [shape]}, "note": f'step "{stages}"'}
        for version in (1, 2)
        for stages in range(1, _STAGES)
        for shape in _ATTACHMENTS
    ]
    documents += [[{"tooth": tooth, "ipr": tooth / 100}] for tooth in range(11, 49)]
    # Valid JSON that PostgreSQL's jsonb accepts only as text or changes: other top levels, doubled keys.
    odd = ["[]", '"plain"', "17", "null", '{"a": 1, "a": 2}', ' {"spaced" : true} ']
    return [json.dumps(document, ensure_ascii=False) for document in documents] + odd


MALFORMED_JSON = (
    '{"version": 2, "stages": [1, 2',
    "{'version': 1}",
    '{"path": "C:\\scans"}',
    '{"ipr": NaN}',
    '{"note": "line\nbreak"}',
    '{"version": 1,}',
    "undefined",
    '{"emoji": "\\ud83d"}',
    '{"zero": "\\u0000"}',
)
"""Texts that a strict parser or PostgreSQL's jsonb refuses (docs/legacy-mdw.md sections 1.17 and 1.21)."""


def json_column(draws: Draws, column: str) -> pa.Array:
    """A text column of JSON, with ``proportions.JSON_WEIGHTS`` of NULL, blank, empty and malformed ones."""
    kind = draws.pick(f"{column} kind", list(p.JSON_WEIGHTS.values()))
    kinds = list(p.JSON_WEIGHTS)
    valid = chosen(_valid_json(), draws.below(column, len(_valid_json())))
    malformed = chosen(MALFORMED_JSON, draws.below(f"{column} malformed", len(MALFORMED_JSON)))
    text = pc.if_else(pa.array(kind == kinds.index("malformed")), malformed, valid)
    text = pc.if_else(pa.array(kind == kinds.index("empty")), pa.scalar("{}"), text)
    text = pc.if_else(pa.array(kind == kinds.index("blank")), pa.scalar(""), text)
    return nullable(text, kind == kinds.index("null"))


_COMPLAINTS = (
    "Crowding of the lower front teeth",
    "Gap between the upper incisors",
    "Overbite, wishes a straighter smile",
    "Relapse after fixed braces in adolescence",
    "Open bite with tongue thrust",
    "Crossbite on the right side",
    "Rotated canine bothers the patient",
    "Pain while chewing on the left",
    "前歯のガタガタが気になる",
    "ฟันหน้าซ้อนกัน",
)
_CONDITIONS = (
    "Class I molar relation",
    "Class II division 1",
    "Class III tendency",
    "Generalised mild gingivitis",
    "Missing second premolar",
    "Implant at 36; do not move",
    "Root canal treated 11",
    "Bruxism, worn cusps",
)
_OBJECTIVES = (
    "Align both arches",
    "Close spaces without extraction",
    "Correct midline by 2 mm",
    "Expand upper arch",
    "Level curve of Spee",
    "Improve overjet; keep canine guidance",
)
_NOTES = (
    "Please send the plan before Friday.",
    "IPR 0.3 mm between 31 and 41.",
    "Patient travels abroad in summer; ship early.",
    "Use attachments on 13 and 23 only.",
    "Scan retaken: upper right was distorted.",
    'Doctor said "no elastics" on the phone.',
    "Line one\nLine two; tab\there.",
    "Old retainer fits; keep C:\\scans\\old for reference.",
    "No IPR.",
    "See previous order, refinement expected, ~6 stages.",
)
_SCANNER_NOTES = ("", "Rescan needed", "Colour scan", "Bite missing", "STL by e-mail")
_BLANK_SHARE, _NULL_SHARE = 0.3, 0.2


def _sparse(draws: Draws, column: str, texts: pa.Array) -> pa.Array:
    shown = draws.uniform(f"{column} shown")
    text = pc.if_else(pa.array(shown < _BLANK_SHARE), pa.scalar(""), texts)
    return nullable(text, shown > 1 - _NULL_SHARE)


def _phrases(draws: Draws, column: str, pool: tuple[str, ...]) -> pa.Array:
    return chosen(pool, draws.below(column, len(pool)))


def clinical_texts(draws: Draws, names: pa.Array) -> dict[str, pa.Array]:
    """notes, conditions, complaint, objective and scanner_notes of orders (docs/legacy-mdw.md section 1.8).

    A few notes call the patient by name (``names``, one per row), as real ones do.
    """
    notes = joined(
        _phrases(draws, "note one", _NOTES),
        "Tooth",
        pa.array(11 + draws.below("tooth", 38)).cast(pa.string()),
        _phrases(draws, "note two", _NOTES),
        separator=" ",
    )
    called = joined("Called ", names, "; will come next week. ", notes)
    called = pc.if_else(pc.is_null(called), notes, called)
    notes = pc.if_else(pa.array(draws.chance("named", p.NOTES_WITH_NAME_SHARE)), called, notes)
    conditions = joined(
        _phrases(draws, "condition one", _CONDITIONS),
        _phrases(draws, "condition two", _CONDITIONS),
        separator=", ",
    )
    return {
        "notes": _sparse(draws, "notes", notes),
        "conditions": _sparse(draws, "conditions", conditions),
        "complaint": _sparse(draws, "complaint", _phrases(draws, "complaint", _COMPLAINTS)),
        "objective": _sparse(draws, "objective", _phrases(draws, "objective", _OBJECTIVES)),
        "scanner_notes": _sparse(
            draws, "scanner notes", _phrases(draws, "scanner notes text", _SCANNER_NOTES)
        ),
    }


TASK_TEXTS = ("TP# 12345", "done", "sent to lab", "see notes; call doctor", "ok\n", "re-scan", "", "完了")
PLAN_NOTES = ("", "First version", "More expansion", "Doctor's request: less IPR", "Overcorrection\tadded")


def sparse_phrases(draws: Draws, column: str, pool: tuple[str, ...], share: float) -> pa.Array:
    """A text of ``pool`` in ``share`` of the rows, NULL in the others."""
    return nullable(_phrases(draws, column, pool), np.logical_not(draws.chance(f"{column} given", share)))
