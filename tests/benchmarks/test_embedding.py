"""The benchmark of embedding: what it measures with, and how it says what it found."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.embedding import (
    DIMENSIONS,
    Figure,
    long_notes,
    many_names,
    planning,
    project_rows,
    quality,
    redacting,
    table,
    texts_of,
    vectors,
)
from include.embedding.tokens import token_counter
from include.entities import ENTITIES
from plugins.hooks.openai_provider import DEFAULT_MODEL
from tests.embedding import notes


def test_a_missed_bar_is_said() -> None:
    figures = [
        Figure("rate", 0.96, "{:.0%}", 0.95),
        Figure("refused", 0.02, "{:.0%}", 0.01, most=True),
        Figure("seconds", 3.21, "{:.1f}"),
    ]
    assert [figure.met for figure in figures] == [True, False, True]
    assert [line.split()[1:] for line in table(figures).splitlines()] == [
        ["96%", "at", "least", "95%"],
        ["2%", "at", "most", "1%", "MISSED"],
        ["3.2"],
    ]


def test_texts_differ_and_have_the_tokens_asked_for() -> None:
    texts = [*texts_of(5_000, seed=1), *texts_of(5_000, seed=2)]
    count = token_counter(DEFAULT_MODEL)
    assert len({text.text for text in texts}) == len({text.hash for text in texts}) == len(texts)
    assert all(text.tokens == count(text.text) for text in texts)
    assert sum(text.tokens for text in texts) == pytest.approx(10_000, rel=0.1)


def test_vectors_have_neighbours() -> None:
    """Unlike random ones, of which all are equally far from each other."""
    matrix = vectors(300)
    assert matrix.shape == (300, DIMENSIONS)
    assert np.linalg.norm(matrix, axis=1) == pytest.approx(1, abs=1e-5)
    similar = matrix @ matrix.T - 2 * np.eye(300, dtype=np.float32)
    assert similar.max(axis=1).mean() > 3 * abs(np.median(similar)) + 0.2


def test_projects_make_documents() -> None:
    embeddings = ENTITIES["projects"].embeddings
    assert embeddings is not None
    rows = project_rows(50, seed=1)
    assert embeddings.document.render(rows).null_count == 0
    assert planning(500, 1, lambda _: None)[0].value > 0


def test_notes_are_long_and_names_many() -> None:
    texts, own = long_notes(notes.notes(100))
    assert len(texts) == len(own) > 20
    assert {len(text) for text in texts} == {300}
    assert len(set(many_names())) == 20_000
    assert set(notes.names()) <= set(many_names())


def test_quality_counts_what_leaked_and_what_was_lost() -> None:
    planted = notes.notes(200)
    lost, leaked, kept = quality(planted)
    assert (leaked, kept) == (0, sum(note.stays.total() for note in planted))
    assert lost < kept / 50
    assert all(figure.met for figure in redacting(200, 1, lambda _: None) if figure.most)
