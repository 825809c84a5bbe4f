"""Embedding: the share of the permitted rate, storing, the index, planning, and redaction.

    python -m benchmarks.embedding [--part sending …] [--seconds 60] [--vectors 10000] [--repeat 3] [--folder FOLDER]

Against a local server that answers like OpenAI, with a latency and with limits that it enforces. The vectors are made
up, so nothing is paid for, and no model is measured.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa

from benchmarks.incremental import DEFAULT_FOLDER, Progress, WrongResultError, make_target
from benchmarks.ways import batches, patients
from include.core.spec import Embeddings, Entity
from include.embedding.content_hash import content_hashes
from include.embedding.provider import Vectors
from include.embedding.redaction import Redactor
from include.embedding.tokens import request_size, token_counter
from include.entities import ENTITIES
from local.databases import OWNER, target_dsn
from local.demo import Stopwatch
from local.environment import State, airflow_settings, connection_variable
from local.postgres import EmbeddedPostgres
from local.processes import exclusive, terminate_like_interrupt
from plugins.hooks.answer_spool import AnswerSpool
from plugins.hooks.batch_loader import BatchLoader
from plugins.hooks.embedding_ledger import EmbeddingLedger
from plugins.hooks.embedding_sender import Sender, Text
from plugins.hooks.openai_provider import DEFAULT_MODEL, OpenAIProvider
from plugins.hooks.target import open_target
from plugins.hooks.target_schema import deploy
from plugins.hooks.tracking import TrackingHook
from plugins.hooks.vectors import VectorStore
from tests.embedding import notes
from tests.embedding_server import KEY, EmbeddingServer

RUN = "benchmark"
DIMENSIONS = 1536
PATIENTS = ENTITIES["patients"]
_OPENED = {
    **dict.fromkeys(("mapping_version", "rules_version", "code_version", "started_by"), RUN),
    **{"dag_id": RUN, "type": "full", "scope": "everything", "dry_run": False},
    **{"parameters": {"entities": []}, "source_horizon": 1, "source_identity": {}},
}
# What the lowest paying tier may do, and the time an answer takes there.
_TOKENS_PER_MINUTE, _LATENCY_SECONDS, _BURST_SECONDS = 1_000_000, 0.3, 2.0
_WORKERS = 3
_WORDS_PER_TEXT = 120
_STORED_AT_ONCE = 2_000
_NEAREST, _QUESTIONS = 10, 100
_VECTORS = "public.patient_embeddings"
_NOTE_LENGTH, _NAMES = 300, 20_000


@dataclass(frozen=True)
class Figure:
    """What was measured, and what it is to be.

    Attributes:
        bar: the least, or the most where ``most`` is set; None: there is none.
        shown: how a value is written.
    """

    name: str
    value: float
    shown: str = "{:,.0f}"
    bar: float | None = None
    most: bool = False

    @property
    def met(self) -> bool:
        """Whether the bar is met."""
        if self.bar is None:
            return True
        return self.value <= self.bar if self.most else self.value >= self.bar


def table(figures: Sequence[Figure]) -> str:
    """A line for each figure: name, value, bar, and whether it was missed."""
    lines = []
    for figure in figures:
        bar = ""
        if figure.bar is not None:
            bar = ("at most " if figure.most else "at least ") + figure.shown.format(figure.bar)
        lines.append(
            f"{figure.name:<58}{figure.shown.format(figure.value):>12}   {bar}{'' if figure.met else '  MISSED'}"
        )
    return "\n".join(lines)


# Sending


def texts_of(tokens: int, seed: int) -> list[Text]:
    """Texts that all differ, of so many tokens together."""
    draw, count = random.Random(seed), token_counter(DEFAULT_MODEL)  # noqa: S311 - numbers to measure with
    found: list[Text] = []
    while tokens > 0:
        words = " ".join(draw.choice(_VOCABULARY) for _ in range(_WORDS_PER_TEXT))
        text = f"{seed} {len(found)} {words}"
        number = count(text)
        found.append(Text(f"{seed}-{len(found)}", text, number, request_size(number, text)))
        tokens -= number
    return found


def _work(url: str, seed: int, tokens: int, start: float) -> tuple[float, int, int]:
    """One task as a run has it: a target and a spool of its own, the limiter shared with the others.

    Returns:
        When it was done, how many texts got no vector, and the tokens of all.
    """
    provider = OpenAIProvider(KEY, base_url=url, tokens_per_minute=_TOKENS_PER_MINUTE)
    texts = texts_of(tokens, seed)
    with open_target("postgres") as target:
        ledger = EmbeddingLedger(target, RUN, PATIENTS.name, provider, price=None, budget=None)
        sender = Sender(provider, ledger, AnswerSpool(f"worker{seed}"), max_retries=5, may_go_on=_always)
        time.sleep(max(0.0, start - time.time()))
        kept = {key for answer in sender.send(texts) for key in answer.hashes}
    return time.time(), len(texts) - len(kept), sum(text.tokens for text in texts)


def _always() -> None:
    """Nobody stops this run."""


def sending(seconds: float, progress: Progress) -> list[Figure]:
    """Several processes send what the limits permit in so many seconds.

    Raises:
        WrongResultError: a text was paid for twice, or got no vector.
    """
    share = int(_TOKENS_PER_MINUTE / 60 * seconds / _WORKERS)
    with open_target("postgres") as target:
        TrackingHook(target, RUN).open_run(**_OPENED)
    with (
        EmbeddingServer(
            dimensions=DIMENSIONS,
            tokens_per_minute=_TOKENS_PER_MINUTE,
            burst_seconds=_BURST_SECONDS,
            latency_seconds=_LATENCY_SECONDS,
        ) as server,
        ProcessPoolExecutor(_WORKERS, multiprocessing.get_context("spawn")) as pool,
    ):
        start = time.time() + _START_SECONDS
        said = [pool.submit(_work, server.url, seed, share, start) for seed in range(_WORKERS)]
        ends, missing, tokens = zip(*(future.result() for future in said), strict=True)
        requests, refused = len(server.embedding_requests), server.refused_by_limit
        twice = sum(number > 1 for number in server.answered.values())
    took = max(ends) - start
    if sum(missing) or twice:
        raise WrongResultError(f"{sum(missing)} texts without a vector, {twice} paid for twice.")
    progress(f"sending: {sum(tokens):,} tokens in {took:.1f} s by {_WORKERS} processes, {requests} requests")
    # What may be taken at once was permitted before the first second had passed.
    permitted = sum(tokens) / (_TOKENS_PER_MINUTE / 60 * (took + _BURST_SECONDS))
    return [
        Figure(f"share of the permitted token rate, {_WORKERS} processes", permitted, "{:.1%}", 0.95),
        Figure("requests refused with 429", refused / requests, "{:.1%}", 0.01, most=True),
        Figure("rows lost", sum(missing), "{:.0f}", 0, most=True),
    ]


# Storing and the index


def vectors(number: int, seed: int = 6) -> Vectors:
    """Unit vectors of few directions and some noise, as embeddings of real texts are."""
    draw = np.random.default_rng(seed)
    directions = draw.standard_normal((_DIRECTIONS, DIMENSIONS), np.float32)
    matrix = draw.standard_normal((number, _DIRECTIONS), np.float32) @ directions
    matrix += draw.standard_normal((number, DIMENSIONS), np.float32) * _NOISE * math.sqrt(_DIRECTIONS)
    unit: Vectors = (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)
    return unit


def storing(dsn: str, matrix: Vectors, repeat: int, progress: Progress) -> list[Figure]:
    """Vectors stored in the empty table of a target, batch by batch, each in a transaction.

    Raises:
        WrongResultError: not every vector was written.
    """
    entity, embeddings = _patients()
    clean = patients(len(matrix))
    texts = pa.array(f"Document of {key}." for key in range(len(matrix)))
    documents = pa.table(
        {
            "id": clean.column("id"),
            "legacy_id": clean.column("legacy_id"),
            "hash": content_hashes(texts, DEFAULT_MODEL, DIMENSIONS),
            "text": texts,
            "shortened": pa.repeat(pa.scalar(False), len(texts)),
        }
    )
    rates = []
    with open_target("postgres") as target, psycopg.connect(dsn, autocommit=True) as connection:
        TrackingHook(target, RUN).open_run(**_OPENED)
        loader = BatchLoader(target, RUN, PATIENTS, dry_run=False)
        for batch in batches(clean, 25_000):
            loader.load(batch, attempt=1)
        target.call("refresh_statistics", entity=entity.name)
        store = VectorStore(target, RUN, entity, embeddings)
        for _ in range(repeat):
            connection.execute(f"TRUNCATE {_VECTORS}")
            begun = time.monotonic()
            written = sum(store.store(*some, DEFAULT_MODEL, DIMENSIONS) for some in _some(documents, matrix))
            rates.append(len(matrix) / (time.monotonic() - begun))
            if written != len(matrix):
                raise WrongResultError(f"{written:,} of {len(matrix):,} vectors were written.")
            progress(f"storing: {rates[-1]:,.0f} vectors/s")
    return [Figure(f"vectors of {DIMENSIONS} dimensions stored per second", median(rates), bar=10_000)]


def _some(documents: pa.Table, matrix: Vectors) -> Iterator[tuple[pa.Table, tuple[list[str], Vectors]]]:
    for start in range(0, len(matrix), _STORED_AT_ONCE):
        rows = documents.slice(start, _STORED_AT_ONCE)
        yield rows, (rows.column("hash").to_pylist(), matrix[start : start + _STORED_AT_ONCE])


@dataclass(frozen=True)
class Search:
    """Questions to the stored vectors.

    Attributes:
        true: the ids of the ten nearest to each question, found by comparing with all.
    """

    connection: psycopg.Connection[Any]
    questions: Vectors
    true: Sequence[set[str]]

    def recall(self, found: Sequence[set[str]]) -> float:
        """The share of the ten nearest that was found."""
        return sum(len(a & b) for a, b in zip(found, self.true, strict=True)) / sum(map(len, self.true))

    def index(self, kind: str) -> list[Figure]:
        """An HNSW index of this precision alone: time, size, and what it finds."""
        place, type_ = f"public.indexed_{kind}", f"extensions.{kind}({DIMENSIONS})"
        self.connection.execute(f"CREATE TABLE {place} (id text, embedding {type_})")
        self.connection.execute(f"ALTER TABLE {place} ALTER COLUMN embedding SET STORAGE PLAIN")
        self.connection.execute(f"INSERT INTO {place} SELECT patient_id, embedding FROM {_VECTORS}")  # noqa: S608
        begun = time.monotonic()
        self.connection.execute(
            f"CREATE INDEX indexed_{kind}_hnsw ON {place} USING hnsw (embedding extensions.{kind}_cosine_ops)"
        )
        seconds = time.monotonic() - begun
        ((size,),) = self.connection.execute("SELECT pg_relation_size(%s)", [f"{place}_hnsw"])
        figures = [
            Figure(f"index of {kind}: seconds to build", seconds, "{:.1f}"),
            Figure(f"index of {kind}: MB", size / 1e6),
        ]
        self.connection.execute("SET enable_seqscan = off")
        for ef in (40, 100):
            self.connection.execute(f"SET hnsw.ef_search = {ef}")
            found = [self.nearest(f"id FROM {place}", type_, question) for question in self.questions]
            figures.append(Figure(f"index of {kind}: recall@10 at ef {ef}", self.recall(found), "{:.3f}"))
        self.connection.execute("SET enable_seqscan = on")
        return figures

    def nearest(self, of: str, type_: str, question: Vectors) -> set[str]:
        """The ten nearest of a table, by its index if it has one."""
        rows = self.connection.execute(
            f"SELECT {of} ORDER BY embedding OPERATOR(extensions.<=>) %s::{type_} LIMIT {_NEAREST}",
            [_text(question)],
        )
        return {row[0] for row in rows}

    def by_function(self, question: Vectors) -> set[str]:
        """The ten nearest as applications find them."""
        query = "SELECT patient_id::text FROM public.match_patients(%s::extensions.vector, %s, -1)"
        return {row[0] for row in self.connection.execute(query, [_text(question), _NEAREST])}


def indexing(dsn: str, matrix: Vectors, progress: Progress) -> list[Figure]:
    """What a run builds for searches, then indexes of half and of full precision side by side."""
    entity, embeddings = _patients()
    # Behind the stored ones of the same seed: other vectors of the same directions.
    questions = vectors(len(matrix) + _QUESTIONS)[-_QUESTIONS:]
    with psycopg.connect(dsn, autocommit=True) as connection:
        exact = Search(connection, questions, [])
        type_ = f"extensions.vector({DIMENSIONS})"
        search = replace(
            exact,
            true=[
                exact.nearest(f"patient_id::text FROM {_VECTORS}", type_, question) for question in questions
            ],
        )
        begun = time.monotonic()
        with open_target("postgres") as target:
            VectorStore(target, RUN, entity, embeddings).build_index()
        built = time.monotonic() - begun
        found = [search.by_function(question) for question in questions]
        connection.execute("SET maintenance_work_mem = '256MB'")
        figures = [
            Figure("seconds to make the search ready", built, "{:.1f}"),
            Figure("recall@10 of the search function", search.recall(found), "{:.3f}", 0.97),
            *search.index("halfvec"),
            *search.index("vector"),
        ]
    for figure in figures:
        progress(f"{figure.name}: {figure.shown.format(figure.value)}")
    return figures


def _text(vector: Vectors) -> str:
    return f"[{','.join(map(repr, vector.tolist()))}]"


def _patients() -> tuple[Entity, Embeddings]:
    if PATIENTS.embeddings is None:
        raise ValueError("patients have no documents")
    return PATIENTS, PATIENTS.embeddings


# Planning and redaction


def planning(rows: int, repeat: int, progress: Progress) -> list[Figure]:
    """Documents of projects rendered, hashed and counted, without the database."""
    embeddings = ENTITIES["projects"].embeddings
    if embeddings is None:
        raise ValueError("projects have no documents")
    count, rates = token_counter(DEFAULT_MODEL), []
    for round_ in range(repeat):
        given = project_rows(rows, round_)
        begun = time.monotonic()
        documents = embeddings.document.render(given)
        hashes = content_hashes(documents, DEFAULT_MODEL, DIMENSIONS)
        distinct = dict(zip(hashes.to_pylist(), documents.to_pylist(), strict=True))
        tokens = sum(map(count, distinct.values()))
        rates.append(rows / (time.monotonic() - begun))
        progress(f"planning: {rates[-1]:,.0f} documents/s ({len(distinct):,} texts, {tokens:,} tokens)")
    return [Figure("documents planned per second", median(rates))]


def project_rows(rows: int, seed: int) -> pa.Table:
    """Columns of the documents of projects, of which many are equal, as real ones are."""
    draw = random.Random(seed)  # noqa: S311 - numbers to measure with
    choices: Mapping[str, Sequence[str | None]] = {
        "t_project_type": ("treatment_plan", "aligner_design", "retainer", "scan"),
        "t_status": ("draft", "in_progress", "review", "approved", "archived"),
        "t_file_size": [str(draw.randrange(10**9)) for _ in range(rows)],
        "t_created_at": [
            f"{year}-{month:02}-05T10:00:00Z" for year in range(2012, 2026) for month in range(1, 13)
        ],
        "c_case_type": ("refinement", "active_treatment", "retention", None),
        "c_current_state": ("submitted", "planning", "shipped", "completed"),
    }
    return pa.table(
        {name: pa.array(draw.choices(some, k=rows), pa.string()) for name, some in choices.items()}
    )


def redacting(number: int, repeat: int, progress: Progress) -> list[Figure]:
    """Notes of about 300 characters, among 20,000 names, each note about another person.

    Raises:
        WrongResultError: an identifier leaked.
    """
    redactor = Redactor(many_names())
    planted = notes.notes(number)
    texts, own = long_notes(planted)
    rates = []
    for _ in range(repeat):
        begun = time.process_time()
        redactor.redact(texts, own)
        rates.append(len(texts) / (time.process_time() - begun))
        progress(f"redaction: {rates[-1]:,.0f} notes/s")
    lost, leaked, kept = quality(planted)
    if leaked:
        raise WrongResultError(f"{leaked} identifiers leaked.")
    return [
        Figure("notes of 300 characters redacted per second of a core", median(rates)),
        Figure(f"identifiers leaked in {number:,} notes", leaked, "{:.0f}", 0, most=True),
        Figure("other words lost", lost / kept, "{:.2%}", 0.02, most=True),
    ]


def many_names() -> list[str]:
    """The names of the corpus among 20,000."""
    draw = random.Random(6)  # noqa: S311 - numbers to measure with
    made = (
        "".join(draw.choice(_SYLLABLES) for _ in range(draw.randint(3, 5))).title() for _ in range(2 * _NAMES)
    )
    return list(islice(dict.fromkeys([*notes.names(), *made]), _NAMES))


def long_notes(planted: Sequence[notes.Note]) -> tuple[list[str], list[list[str]]]:
    """Notes put together until they are long enough, and whom they are about."""
    texts, own, pending = [], [], ""
    for note in planted:
        pending = f"{pending} {note.text}".strip()
        if len(pending) >= _NOTE_LENGTH:
            texts.append(pending[:_NOTE_LENGTH])
            own.append(note.own)
            pending = ""
    return texts, own


def quality(planted: Sequence[notes.Note]) -> tuple[int, int, int]:
    """Words lost, identifiers leaked, and words that were to stay."""
    redactor = Redactor(notes.names())
    texts = redactor.redact([note.text for note in planted], [note.own for note in planted])
    found = [notes.words(text or "") for text in texts]
    pairs = list(zip(planted, found, strict=True))
    lost = sum((note.stays - words).total() for note, words in pairs)
    leaked = sum((words - note.stays).total() for note, words in pairs)
    return lost, leaked, sum(note.stays.total() for note in planted)


# The command


@contextmanager
def new_target(server: EmbeddedPostgres) -> Iterator[str]:
    """The DSN of a new target, which tasks reach by their connection."""
    make_target(server)
    with psycopg.connect(target_dsn(server), autocommit=True) as connection:
        deploy(connection, DIMENSIONS)
    os.environ["AIRFLOW_CONN_SUPABASE_DB"] = connection_variable(target_dsn(server))
    yield target_dsn(server)


def measure(state: State, options: argparse.Namespace, progress: Progress) -> list[Figure]:
    """Everything that was asked for."""
    figures: list[Figure] = []
    if {"sending", "storing"} & set(options.part):
        with EmbeddedPostgres(state.postgres) as server:
            server.create_login(OWNER)
            if "sending" in options.part:
                with new_target(server):
                    figures += sending(options.seconds, progress)
            if "storing" in options.part:
                matrix = vectors(options.vectors)
                with new_target(server) as dsn:
                    figures += storing(dsn, matrix, options.repeat, progress)
                    figures += indexing(dsn, matrix, progress)
    if "planning" in options.part:
        figures += planning(50_000, options.repeat, progress)
    if "redacting" in options.part:
        figures += redacting(10_000, options.repeat, progress)
    return figures


def main() -> int:
    """The command line; 1 where a bar is missed."""
    parts = ("sending", "storing", "planning", "redacting")
    parser = argparse.ArgumentParser(description="Measure embedding.")
    parser.add_argument("--part", action="append", choices=parts, help="may be repeated (default: all)")
    parser.add_argument("--seconds", type=float, default=60, help="of sending at the full rate")
    parser.add_argument("--vectors", type=int, default=10_000, help="stored and indexed")
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="for server and logs")
    options = parser.parse_args()
    options.part = options.part or list(parts)
    terminate_like_interrupt()
    state = State(options.folder.resolve())
    os.environ.update(airflow_settings(state))
    with exclusive(state):
        figures = measure(state, options, Stopwatch())
    sys.stdout.write(f"\n{table(figures)}\n")
    return 0 if all(figure.met for figure in figures) else 1


_START_SECONDS = 15.0  # for the processes to import, and to make their texts
_DIRECTIONS, _NOISE = 40, 0.3
_VOCABULARY = [word for note in notes.notes(200) for word in note.text.split() if word.isascii()]
_SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "al", "en", "or")]

if __name__ == "__main__":
    sys.exit(main())
