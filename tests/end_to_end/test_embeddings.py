"""Whole runs that embed with the real client, against a provider on a socket: a job, a spent budget, one bad text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

import psycopg
import pyarrow as pa
import pytest
from psycopg.rows import dict_row

from include.core.errors import REGISTRY
from include.embedding.isolation import CONTROL_TEXT
from include.entities import ENTITIES
from tests.embedding_server import KEY, POISON, EmbeddingServer, tokens_of
from tests.end_to_end.conftest import MakeDatabases
from tests.end_to_end.runs import Airflow, Databases, Outcome

DIMENSIONS = 64
TEXTS_PER_REQUEST = 8
ENTITY = "workflow_template_tasks"
RUN = {
    "dry_run": False,
    "entities": ["workflow_templates", ENTITY],
    "ai_entities": [ENTITY],
    "max_retries": 1,
}
PRICE = Decimal("0.02") / 1_000_000

# The text of every row that has one becomes another.
CHANGE = "UPDATE dispatch_template SET task_name = task_name || ' once more' WHERE task_name <> ''"
VECTORS = (
    "SELECT t.legacy_template_id, v.content_text FROM public.workflow_template_embeddings v"
    " JOIN public.workflow_template_tasks t ON t.id = v.workflow_template_task_id"
)


def documents(databases: Databases) -> dict[int, str]:
    """Legacy id to document, of all rows that are in the target and have one."""
    embeddings = ENTITIES[ENTITY].embeddings
    assert embeddings is not None
    query = f"SELECT d.*, k.legacy_template_id AS key FROM ({embeddings.document.select_sql()}) d"
    query += " JOIN public.workflow_template_tasks k USING (id)"
    with psycopg.connect(databases.target, row_factory=dict_row) as connection:
        rows = connection.execute(query.encode()).fetchall()
    keys = [row.pop("key") for row in rows]
    table = pa.Table.from_pylist([{**row, "id": str(row["id"])} for row in rows])
    texts = embeddings.document.render(table).to_pylist()
    return {key: text for key, text in zip(keys, texts, strict=True) if text is not None}


def vectors(databases: Databases) -> dict[int, str]:
    """Legacy id of each row with a vector, to the text of that."""
    return dict(databases.read(VECTORS))


@dataclass(frozen=True)
class Runs:
    """Four runs into one target, and what was known after each.

    Attributes:
        dry: predicts the next one.
        job: a first load through the Batch API.
        spent: every row changed; the budget allows about half of the texts.
        rest: enough of a budget, and a text that the provider refuses.
        before: vectors behind the run whose budget was spent.
        answered: how often each text got a vector, in the runs behind the first.
    """

    databases: Databases
    server: EmbeddingServer
    dry: Outcome
    requests_of_dry: int
    job: Outcome
    after_job: dict[int, str]
    texts_of_job: dict[int, str]
    tokens_of_job: int
    requests_of_job: int
    spent: Outcome
    budget: Decimal
    loaded: dict[int, str]
    after_spent: dict[int, str]
    rest: Outcome
    poison: int
    answered: dict[str, int]


@pytest.fixture(scope="module")
def runs(own_airflow: Airflow, make_databases: MakeDatabases) -> Iterator[Runs]:
    databases = make_databases()
    with EmbeddingServer(dimensions=DIMENSIONS) as server:
        server.batch_seconds = 1
        environment = {
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": server.url,
            "NO_PROXY": "127.0.0.1",
            "MIGRATION_EMBEDDING_PROVIDER": "openai",
            "MIGRATION_EMBEDDING_DIMENSIONS": str(DIMENSIONS),
            "MIGRATION_EMBEDDING_TEXTS_PER_REQUEST": str(TEXTS_PER_REQUEST),
            "MIGRATION_EMBEDDING_PARALLEL": "1",
        }
        dry = own_airflow.run(
            databases, environment=environment, ai_batch_api=True, **{**RUN, "dry_run": True}
        )
        requests_of_dry = len(server.requests)
        job = own_airflow.run(databases, environment=environment, ai_batch_api=True, **RUN)
        after_job, texts_of_job, tokens = vectors(databases), documents(databases), server.tokens
        requests = len(server.embedding_requests)
        server.sent.clear()
        server.answered.clear()

        with psycopg.connect(databases.source_admin) as connection:
            connection.execute(CHANGE)
        budget = tokens * PRICE / 2
        spent = own_airflow.run(databases, environment=environment, ai_budget=float(budget), **RUN)
        loaded, after_spent = documents(databases), vectors(databases)

        unsent = {
            key: text for key, text in loaded.items() if "once more" in text and text not in server.sent
        }
        poison = min(unsent, key=unsent.__getitem__)
        server.poison = {unsent[poison]: POISON}
        rest = own_airflow.run(databases, environment=environment, **RUN)
        yield Runs(
            databases,
            server,
            dry,
            requests_of_dry,
            job,
            after_job,
            texts_of_job,
            tokens,
            requests,
            spent,
            budget,
            loaded,
            after_spent,
            rest,
            poison,
            dict(server.answered),
        )


class TestDryRun:
    def test_it_sends_nothing(self, runs: Runs) -> None:
        assert runs.dry.state == "success", runs.dry.log[-4000:]
        assert runs.requests_of_dry == 0
        assert runs.dry.report_folder is not None
        assert "What left this system: nothing." in (runs.dry.report_folder / "summary.txt").read_text()

    def test_it_says_what_the_real_run_then_sends_and_pays(self, runs: Runs) -> None:
        assert runs.dry.report is not None
        assert runs.job.report is not None
        [expected] = runs.dry.report["embeddings"]["entities"]
        [actual] = runs.job.report["embeddings"]["entities"]
        assert expected["documents"] == actual["documents"] == len(runs.texts_of_job)
        for what in ("texts", "tokens"):
            assert expected[f"estimated_{what}"] == actual[what] > 0
        assert Decimal(expected["estimated_cost"]) == Decimal(actual["cost"]) > 0
        texts, tokens = expected["estimated_texts"], expected["estimated_tokens"]
        said = f"{texts:,} texts, {tokens:,} tokens, {Decimal(expected['estimated_cost']):.4f} US dollars"
        assert said in runs.dry.log


class TestBatchApi:
    def test_the_task_waited_without_a_worker_and_every_row_got_its_vector(self, runs: Runs) -> None:
        assert runs.job.state == "success", runs.job.log[-4000:]
        paused = [line for line in runs.job.log.splitlines() if "Pausing task as DEFERRED" in line]
        assert [f"task_id=ai_enhancement.{ENTITY}" in line for line in paused] == [True]
        assert len(runs.texts_of_job) > 100
        assert runs.after_job == runs.texts_of_job
        assert (len(runs.server.jobs), runs.requests_of_job) == (1, 0)

    def test_the_report_says_half_the_price_as_estimated(self, runs: Runs) -> None:
        assert runs.job.report is not None
        [line] = runs.job.report["embeddings"]["entities"]
        distinct = set(runs.texts_of_job.values())
        tokens = sum(map(tokens_of, distinct))
        assert (line["estimated_texts"], line["texts"]) == (len(distinct), len(distinct))
        assert (line["estimated_tokens"], line["tokens"]) == (tokens, runs.tokens_of_job)
        assert tokens == runs.tokens_of_job
        assert Decimal(line["estimated_cost"]) == Decimal(line["cost"]) == tokens * PRICE / 2

    def test_the_report_says_what_left(self, runs: Runs) -> None:
        assert runs.job.report is not None
        assert runs.job.report_folder is not None
        [left] = runs.job.report["embeddings"]["left"]
        assert left.startswith(
            f"{len(set(runs.texts_of_job.values()))} texts of {ENTITY} to openai 127.0.0.1"
        )
        assert f"made of {ENTITY}.task_name, " in left
        summary = (runs.job.report_folder / "summary.txt").read_text()
        assert f"What left this system: {left}." in summary


class TestBudget:
    def test_the_run_fails_with_what_to_do_next(self, runs: Runs) -> None:
        assert runs.spent.state == "failed"
        assert "[EMBEDDING_BUDGET]" in runs.spent.log
        assert REGISTRY["EMBEDDING_BUDGET"].next_step in runs.spent.log

    def test_it_stopped_before_the_budget_was_exceeded(self, runs: Runs) -> None:
        assert runs.spent.report is not None
        used = Decimal(runs.spent.report["embeddings"]["spent"])
        assert runs.budget / 2 < used <= runs.budget

    def test_loaded_rows_and_stored_vectors_stand(self, runs: Runs) -> None:
        assert sum("once more" in text for text in runs.loaded.values()) > 100
        stored = sum("once more" in text for text in runs.after_spent.values())
        assert 0 < stored < len(runs.loaded)

    def test_the_next_run_sends_the_rest_and_nothing_twice(self, runs: Runs) -> None:
        assert runs.rest.state == "success", runs.rest.log[-4000:]
        # Also the vector of its former text is gone.
        expected = {key: text for key, text in runs.loaded.items() if text != runs.loaded[runs.poison]}
        assert vectors(runs.databases) == expected
        changed = set(expected.values()) - set(runs.texts_of_job.values())
        assert {
            text: times for text, times in runs.answered.items() if text != CONTROL_TEXT
        } == dict.fromkeys(changed, 1)


class TestOneBadText:
    def test_the_run_completes_with_a_warning_and_a_finding(self, runs: Runs) -> None:
        assert runs.rest.state == "success", runs.rest.log[-4000:]
        assert runs.rest.report is not None
        rows = sum(text == runs.loaded[runs.poison] for text in runs.loaded.values())
        findings = [row for row in runs.rest.report["findings"] if row["kind"] == "embedding"]
        assert findings == [
            {"entity": ENTITY, "kind": "embedding", "code": "EMBEDDING_REFUSED", "rows": rows}
        ]
        assert [(check["name"], check["severity"]) for check in runs.rest.report["checks"]["not_passed"]] == [
            ("embedding_quarantined", "warn")
        ]
        [line] = runs.rest.report["embeddings"]["entities"]
        assert line["refused"] == rows
