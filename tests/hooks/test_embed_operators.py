"""The tasks that embed, step by step, between a deployed target and a provider on a real socket."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred

from include.core.errors import MigrationError
from include.core.ids import target_id
from include.core.settings import check, params
from include.entities import EMBEDDED, ENTITIES
from plugins.hooks.embedding_ledger import EmbeddingLedger
from plugins.hooks.vectors import VectorStore
from plugins.operators.embed import BuildIndexOperator, EmbedOperator
from plugins.operators.plan_embeddings import PlanEmbeddingsOperator
from plugins.operators.step import Run
from tests.embedding_server import KEY, POISON, EmbeddingServer, Fault, tokens_of, true_vector
from tests.hooks.loading import DIMENSIONS, Target, case, patient, profile, project

PROJECT = Path(__file__).parent.parent.parent
PRICE = Decimal("0.02") / 1_000_000
MONTHS = [f"{year}-{month:02}-15 10:00:00+00" for year in range(2010, 2020) for month in range(1, 13)]


class World:
    """Everything around the tasks, and the tasks in their order."""

    def __init__(self, target: Target, server: EmbeddingServer) -> None:
        self.target = target
        self.server = server

    def projects(self, *keys: int, run: str = "run-0", **values: str | None) -> None:
        """Projects, each with a text of its own, for each was made in another month."""
        rows = [project(key, **{"created_at": MONTHS[key], **values}) for key in keys]
        self.target.load("projects", rows, run=run, batch=f"p000-b{min(keys):04}")

    def run(self, run_id: str = "run-1", **values: Any) -> Run:
        self.target.tracking(run_id)
        known = params(ENTITIES, kind="incremental", environment={}, embedded=EMBEDDED)
        settings = check({"dry_run": False, "max_retries": 0, **values}, known)
        return Run(run_id, "dag", "full", settings, "step", 1, "test", None)  # type: ignore[arg-type]

    def embed(self, run: Run, entity: str = "projects") -> list[dict[str, int]]:
        """All tasks; what they tell each other goes through JSON, as in XCom."""
        results = [self.send(run, share, entity) for share in self.plan(run, entity)]
        BuildIndexOperator(task_id="ai_enhancement.index", entity=entity).step(run)
        return results

    @staticmethod
    def plan(run: Run, entity: str = "projects") -> list[dict[str, Any]]:
        plan = PlanEmbeddingsOperator(task_id="ai_enhancement.plan", entity=entity, staged={})
        return json.loads(json.dumps(plan.step(run)))  # type: ignore[no-any-return]

    @staticmethod
    def send(run: Run, share: dict[str, Any], entity: str = "projects") -> dict[str, int]:
        return EmbedOperator(task_id="ai_enhancement.embed", entity=entity, partition=share).step(run)

    def vectors(self) -> dict[int, str]:
        """Legacy id of each project that has a vector, to its text."""
        return dict(
            self.target.all(
                "SELECT p.legacy_project_id, v.content_text FROM public.project_embeddings v"
                " JOIN public.projects p ON p.id = v.project_id"
            )
        )

    def facts(self, run_id: str = "run-1") -> dict[str, Any]:
        return EmbeddingLedger.facts(self.target.api, run_id)

    def text(self, key: int) -> str:
        """What is sent for a project: the month tells them apart."""
        [(month,)] = self.target.all(
            "SELECT to_char(created_at AT TIME ZONE 'UTC', 'FMMonth YYYY') FROM public.projects"
            " WHERE legacy_project_id = %s",
            [key],
        )
        return f"Project of type scan. Status draft. Created in {month}."


@pytest.fixture
def world(target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("MIGRATION_STAGING_URI", f"file://{tmp_path / 'staging'}")
    with EmbeddingServer(dimensions=DIMENSIONS) as server:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("MIGRATION_EMBEDDING_DIMENSIONS", str(DIMENSIONS))
        monkeypatch.setenv("MIGRATION_EMBEDDING_TEXTS_PER_REQUEST", "4")
        monkeypatch.setenv("MIGRATION_EMBEDDING_TOKENS_PER_MINUTE", "100000000")
        monkeypatch.setenv("MIGRATION_EMBEDDING_REQUESTS_PER_MINUTE", "1000000")
        yield World(target, server)


class TestExactlyWhatIsNeeded:
    def test_each_text_is_sent_once_and_each_row_gets_its_vector(self, world: World) -> None:
        world.projects(*range(10))
        world.projects(20, 21, 22, created_at=MONTHS[3])  # the text of project 3
        results = world.embed(world.run())
        texts = {key: world.text(key) for key in [*range(10), 20, 21, 22]}
        assert world.vectors() == texts
        assert world.server.sent == Counter(set(texts.values()))
        assert results == [{"rows": 13, "sent": 10, "refused": 0}]
        assert len(world.server.embedding_requests) == 3

    def test_a_second_run_sends_nothing(self, world: World) -> None:
        world.projects(*range(6))
        world.embed(world.run())
        world.server.requests.clear()
        assert world.embed(world.run("run-2")) == [{"rows": 0, "sent": 0, "refused": 0}]
        assert world.server.requests == []

    def test_a_changed_row_is_embedded_alone(self, world: World) -> None:
        world.projects(*range(6))
        world.embed(world.run())
        before = world.server.sent.copy()
        world.projects(2, run="run-2", status="approved")
        world.embed(world.run("run-3"))
        [sent] = world.server.sent - before
        assert world.vectors()[2] == sent
        assert "Status approved" in sent
        assert world.server.sent.total() == 7

    def test_a_new_row_with_a_known_text_is_paid_for_by_nobody(self, world: World) -> None:
        world.projects(*range(4))
        world.embed(world.run())
        world.projects(9, run="run-2", created_at=MONTHS[1])
        assert world.embed(world.run("run-3")) == [{"rows": 0, "sent": 0, "refused": 0}]
        assert world.vectors()[9] == world.text(1)
        assert world.server.sent.total() == 4

    def test_a_deleted_row_loses_its_vector(self, world: World) -> None:
        world.projects(*range(4))
        world.embed(world.run())
        world.target.delete("projects", "2", run="run-2")
        assert set(world.vectors()) == {0, 1, 3}

    def test_many_texts_are_cut_into_shares_that_share_none(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("plugins.operators.plan_embeddings._TEXTS_PER_SHARE", 4)
        world.projects(*range(11))
        world.projects(*range(50, 61), created_at=MONTHS[5])
        run = world.run()
        shares = world.plan(run)
        assert [share["texts"] for share in shares] == [4, 4, 3]
        assert [share["label"] for share in shares] == [
            f"{n} of 3: {t} texts" for n, t in ((1, 4), (2, 4), (3, 3))
        ]
        for share in shares:
            world.send(run, share)
        assert len(world.vectors()) == 22
        assert set(world.server.sent.values()) == {1}

    def test_patients_are_embedded_only_where_they_are_chosen(self, world: World) -> None:
        world.target.load("patients", [patient(1, archived="t", first_name="Zebedee")], run="run-0")
        with pytest.raises(AirflowSkipException):
            world.embed(world.run(), "patients")
        assert world.embed(world.run(ai_entities=["patients"]), "patients") == [
            {"rows": 1, "sent": 1, "refused": 0}
        ]
        [(text,)] = world.target.all("SELECT content_text FROM public.patient_embeddings")
        assert "Archived" in text
        assert b"Zebedee" not in b"".join(received.body for received in world.server.requests)

    def test_a_row_without_a_document_is_noted(self, world: World) -> None:
        world.target.load("patients", [patient(1), patient(2, archived="t")], run="run-0")
        world.embed(world.run(ai_entities=["patients"]), "patients")
        world.embed(world.run("run-2", ai_entities=["patients"]), "patients")
        noted = "SELECT legacy_id, code FROM migration.embedding_quarantine WHERE resolved_run_id IS NULL"
        assert world.target.all(noted) == [("1", "EMBEDDING_NO_TEXT")]
        checks = world.target.api.call("check_embedded", entity="patients")
        assert [(check["severity"], check["found"]) for check in checks] == [
            ("fail", "0"),
            ("warn", "1"),
            ("fail", "0"),
        ]


class TestCost:
    def test_the_estimate_is_what_is_billed(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        world.projects(*range(10))
        caplog.set_level("INFO")
        world.embed(world.run())
        facts = world.facts()
        tokens = sum(tokens_of(text) for text in world.vectors().values())
        estimate = facts["estimates"]["projects"]
        assert (estimate["documents"], estimate["wanted"], estimate["texts"]) == (10, 10, 10)
        assert estimate["tokens"] == tokens == world.server.tokens
        assert Decimal(estimate["cost"]) == Decimal(facts["spent"]) == tokens * PRICE
        assert f"10 texts, {tokens:,} tokens" in caplog.text

    def test_the_run_stops_before_the_budget_is_exceeded_and_the_next_goes_on(self, world: World) -> None:
        world.projects(*range(12))
        tokens = tokens_of(world.text(0)) * 4
        budget = float(tokens * PRICE * 2) * 1.2  # two requests of three
        with pytest.raises(MigrationError) as stopped:
            world.embed(world.run(ai_budget=budget))
        assert (stopped.value.code, stopped.value.transient) == ("EMBEDDING_BUDGET", False)
        assert 0 < Decimal(world.facts()["spent"]) <= Decimal(str(budget))
        assert len(world.vectors()) == 8
        world.embed(world.run("run-2"))
        assert len(world.vectors()) == 12
        assert set(world.server.sent.values()) == {1}

    def test_nothing_is_sent_for_nothing(self, world: World) -> None:
        world.projects(1)
        with pytest.raises(MigrationError, match="EMBEDDING_BUDGET"):
            world.embed(world.run(ai_budget=0))
        assert world.server.requests == []

    def test_an_unknown_price_is_refused_before_anything_is_sent(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MIGRATION_EMBEDDING_MODEL", "somebody-elses")
        world.projects(1)
        with pytest.raises(MigrationError, match="EMBEDDING_PRICE_UNKNOWN"):
            world.embed(world.run())
        assert world.server.requests == []


class TestFaults:
    @pytest.mark.parametrize(
        "fault",
        [
            Fault(429, {"Retry-After": "1"}, error={"code": "rate_limit_exceeded"}),
            Fault(500, error={"code": "server_error"}),
            Fault(reset=True),
            Fault(raw=b'{"object": "list", "data": [{"ind'),
            Fault(change=lambda items: items[:-1]),
            Fault(change=lambda items: [{**item, "embedding": "AAAA"} for item in items]),
        ],
        ids=["429", "500", "reset", "truncated", "missing", "wrong dimension"],
    )
    def test_what_passes_is_retried_and_nothing_is_lost(self, world: World, fault: Fault) -> None:
        world.projects(*range(10))
        world.server.faults.extend([fault, None, fault])
        world.embed(world.run(max_retries=2))
        assert world.vectors() == {key: world.text(key) for key in range(10)}

    def test_shuffled_answers_are_put_in_order(self, world: World) -> None:
        world.projects(*range(8))
        world.server.always = Fault(change=lambda items: items[::-1])
        world.embed(world.run())
        world.server.always = None
        nearest = (
            "SELECT bool_and((SELECT w.project_id FROM public.project_embeddings w ORDER BY"
            " w.embedding OPERATOR(extensions.<=>) v.embedding LIMIT 1) = v.project_id)"
            " FROM public.project_embeddings v"
        )
        assert world.target.all(nearest) == [(True,)]
        hashes = world.target.all(
            "SELECT content_text, embedding::text FROM public.project_embeddings ORDER BY 1"
        )
        for text, vector in hashes:
            assert json.loads(vector) == pytest.approx(true_vector(text, DIMENSIONS).tolist(), abs=1e-6)

    @pytest.mark.parametrize(
        ("fault", "code"),
        [
            (Fault(401, error={"code": "invalid_api_key"}), "EMBEDDING_KEY_REFUSED"),
            (Fault(429, error={"code": "insufficient_quota"}), "EMBEDDING_QUOTA"),
            (Fault(404, error={"code": "model_not_found"}), "EMBEDDING_MODEL_UNKNOWN"),
            (POISON, "EMBEDDING_REFUSED"),
            (
                Fault(change=lambda items: [{**item, "embedding": "AAAA"} for item in items]),
                "EMBEDDING_WRONG_ANSWER",
            ),
        ],
        ids=["key", "quota", "model", "everything refused", "everything wrong"],
    )
    def test_what_does_not_pass_fails_fast_and_nothing_is_quarantined(
        self, world: World, fault: Fault, code: str
    ) -> None:
        world.projects(*range(10))
        world.server.always = fault
        with pytest.raises(MigrationError) as failed:
            world.embed(world.run(max_retries=3))
        assert failed.value.code == code
        assert world.vectors() == {}
        assert world.facts()["refused"] == []
        # Four requests are in flight at once; each may be asked once more, and followed by the control text.
        assert len(world.server.embedding_requests) <= 4 * 4

    def test_a_poisonous_text_costs_its_neighbours_nothing(self, world: World) -> None:
        world.projects(*range(12))
        world.server.poison = {world.text(5): POISON}
        assert world.embed(world.run()) == [{"rows": 11, "sent": 12, "refused": 1}]
        assert set(world.vectors()) == set(range(12)) - {5}
        assert world.facts()["refused"] == [{"code": "EMBEDDING_REFUSED", "entity": "projects", "rows": 1}]
        world.server.requests.clear()
        assert world.embed(world.run("run-2")) == [{"rows": 0, "sent": 0, "refused": 0}]
        assert world.server.requests == []
        # Asked for, it is tried again.
        world.server.poison = {}
        assert world.embed(world.run("run-3", redrive=True)) == [{"rows": 1, "sent": 1, "refused": 0}]
        assert world.vectors()[5] == world.text(5)

    def test_a_changed_text_is_out_of_quarantine(self, world: World) -> None:
        world.projects(*range(4))
        world.server.poison = {world.text(2): POISON}
        world.embed(world.run())
        world.projects(2, run="run-2", status="approved")
        world.embed(world.run("run-3"))
        assert set(world.vectors()) == {0, 1, 2, 3}
        open_entries = "SELECT count(*) FROM migration.embedding_quarantine WHERE resolved_run_id IS NULL"
        assert world.target.all(open_entries) == [(0,)]


KILLED = """
import json, os, signal, sys, time
from unittest.mock import patch
from plugins.hooks.staging import StagedFolder, staging_root
from plugins.hooks.vectors import VectorStore
from tests.hooks.test_embed_operators import World
from plugins.hooks.target_postgres import open_postgres
from tests.hooks.loading import Target

def die(*_, **__):
    # The next request is on its way meanwhile, and nobody knows what became of one that died with its task.
    while len(StagedFolder(staging_root()).names("answers", "projects")) < 2:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)

with open_postgres() as target:
    world = World(Target(target._connection), None)
    run = world.run()
    share = json.loads(sys.argv[1])
    with patch.object(VectorStore, "store", die):
        world.send(run, share)
"""


class TestInterruptions:
    def test_killed_between_answer_and_storage_nothing_is_sent_twice(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MIGRATION_EMBEDDING_PARALLEL", "1")
        world.projects(*range(10))
        run = world.run()
        [share] = world.plan(run)
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", KILLED, json.dumps(share)],
            cwd=PROJECT,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
        assert world.vectors() == {}
        answered = world.server.answered.copy()
        assert answered.total() == 8
        # The same run is cleared; or a new one is triggered, which knows nothing of the old one's staging.
        world.embed(world.run("run-2"))
        assert len(world.vectors()) == 10
        assert set(world.server.sent.values()) == {1}

    def test_a_target_that_is_gone_when_the_answer_comes_costs_nothing(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.projects(*range(10))
        run = world.run()
        [share] = world.plan(run)
        store = VectorStore.store

        def gone(*_: object) -> None:
            raise MigrationError("TARGET_UNREACHABLE", "")

        monkeypatch.setattr(VectorStore, "store", gone)
        with pytest.raises(MigrationError, match="TARGET_UNREACHABLE"):
            world.send(run, share)
        monkeypatch.setattr(VectorStore, "store", store)
        world.send(run, share)
        assert len(world.vectors()) == 10
        assert set(world.server.sent.values()) == {1}

    def test_the_spool_is_empty_behind_it(self, world: World, tmp_path: Path) -> None:
        world.projects(*range(10))
        world.embed(world.run())
        assert list((tmp_path / "staging" / "answers" / "projects").iterdir()) == []


class TestBatchApi:
    def embed(self, world: World, run: Run) -> tuple[dict[str, int], int]:
        """Wake the task up until it is done; returns its result and how often it waited."""
        [share] = world.plan(run)
        for waited in range(100):
            try:
                return world.send(run, share), waited
            except TaskDeferred:
                for job in world.server.jobs.values():
                    job["_began"] -= 1_000
        raise AssertionError("it never ends")

    @pytest.fixture(autouse=True)
    def slow(self, world: World) -> None:
        world.server.batch_seconds = 600

    def test_texts_go_as_a_job_at_half_the_price(self, world: World) -> None:
        world.projects(*range(10))
        result, waited = self.embed(world, world.run(ai_batch_api=True))
        assert (result, waited) == ({"rows": 10, "sent": 10, "refused": 0}, 1)
        assert world.vectors() == {key: world.text(key) for key in range(10)}
        assert world.server.embedding_requests == []
        assert Decimal(world.facts()["spent"]) == world.server.tokens * PRICE / 2
        assert Decimal(world.facts()["estimates"]["projects"]["cost"]) == world.server.tokens * PRICE / 2
        assert world.server.files == {}, "texts and answers stay at the provider"

    def test_what_the_job_refuses_is_isolated_and_quarantined(self, world: World) -> None:
        world.projects(*range(10))
        world.server.poison = {world.text(5): POISON}
        result, _ = self.embed(world, world.run(ai_batch_api=True))
        assert set(world.vectors()) == set(range(10)) - {5}
        assert result["refused"] == 1

    def test_the_rest_of_an_expired_job_is_another_job(self, world: World) -> None:
        world.projects(*range(10))
        world.server.batch_end, world.server.batch_left_out = "expired", {world.text(5), world.text(6)}
        run = world.run(ai_batch_api=True)
        [share] = world.plan(run)
        with pytest.raises(TaskDeferred):
            world.send(run, share)
        for job in world.server.jobs.values():
            job["_began"] -= 1_000
        with pytest.raises(TaskDeferred):
            world.send(run, share)
        assert set(world.vectors()) == set(range(10)) - {5, 6}
        world.server.batch_end, world.server.batch_left_out = "completed", set()
        for job in world.server.jobs.values():
            job["_began"] -= 1_000
        world.send(run, share)
        assert set(world.vectors()) == set(range(10))
        assert world.server.embedding_requests == []
        assert len(world.server.jobs) == 2

    def test_a_job_that_nobody_recorded_is_found_again(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.projects(*range(10))
        run = world.run(ai_batch_api=True)
        [share] = world.plan(run)

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(EmbeddingLedger, "record_job", killed)
            with pytest.raises(KeyboardInterrupt):
                world.send(run, share)
        assert len(world.server.jobs) == 1
        self.embed(world, world.run("run-2", ai_batch_api=True))
        assert len(world.server.jobs) == 1
        assert len(world.vectors()) == 10

    def test_a_refused_job_fails_with_the_providers_code(self, world: World) -> None:
        world.projects(*range(4))
        world.server.batch_failure = "invalid_file"
        with pytest.raises(MigrationError) as failed:
            self.embed(world, world.run(ai_batch_api=True))
        assert failed.value.code == "EMBEDDING_BATCH_FAILED"
        assert failed.value.facts["provider_code"] == "invalid_file"
        assert Decimal(world.facts()["spent"]) == 0
        world.server.batch_failure = None
        self.embed(world, world.run(ai_batch_api=True))
        assert len(world.vectors()) == 4

    def test_a_job_that_must_wait_its_turn_is_submitted_later(self, world: World) -> None:
        world.projects(*range(4))
        world.server.batch_queue_tokens = 1
        run = world.run(ai_batch_api=True)
        [share] = world.plan(run)
        with pytest.raises(TaskDeferred):
            world.send(run, share)
        world.server.batch_queue_tokens = None
        self.embed(world, run)
        assert len(world.vectors()) == 4

    def test_a_cancelled_job_keeps_its_answers_and_stops(self, world: World) -> None:
        world.projects(*range(4))
        world.server.batch_end, world.server.batch_left_out = "cancelled", {world.text(2)}
        with pytest.raises(MigrationError, match="EMBEDDING_BATCH_FAILED"):
            self.embed(world, world.run(ai_batch_api=True))
        assert set(world.vectors()) == {0, 1, 3}
        assert world.server.embedding_requests == []

    def test_the_budget_holds_for_jobs(self, world: World) -> None:
        world.projects(*range(4))
        with pytest.raises(MigrationError, match="EMBEDDING_BUDGET"):
            self.embed(world, world.run(ai_batch_api=True, ai_budget=0.000_000_1))
        assert world.server.requests == []

    def test_a_provider_without_jobs_is_named(self, world: World) -> None:
        world.projects(1)
        world.server.batches_exist = False
        with pytest.raises(MigrationError, match="EMBEDDING_BATCH_UNSUPPORTED"):
            self.embed(world, world.run(ai_batch_api=True))


class TestClinicalText:
    NAMES = ("Zwetschgenberger", "Ottokarina", "Quibblethorpe", "Montgomeryx", "Xaverine")
    NOTE = (
        "Zwetschgenberger, Ottokarina, born 4 March 1981, sent by Dr. Quibblethorpe, wants crown on 36; call"
        " 0171 5550199 or otto.z@example.org. Sister Xaverine Montgomeryx waits outside."
    )

    @pytest.fixture(autouse=True)
    def people(self, world: World) -> None:
        target = world.target
        target.load("profiles", [profile(7, first_name="Ignaz", last_name="Quibblethorpe")], run="run-0")
        mine = {"first_name": "Ottokarina", "last_name": "Zwetschgenberger", "date_of_birth": "1981-03-04"}
        target.load(
            "patients",
            [
                patient(1, email="otto.z@example.org", **mine),
                patient(2, first_name="Xaverine", last_name="Montgomeryx"),
            ],
            run="run-0",
        )
        noted = {"clinical": json.dumps({"notes": self.NOTE, "complaint": "pain at 36"}), "title": "Crown"}
        doctor = {"assigned_practitioner_id": target_id("profiles", "7")}
        target.load("cases", [case(1, 1, **noted, **doctor), case(2, 2, title="Bridge")], run="run-0")

    def sent(self, world: World) -> str:
        bodies = [received.body for received in world.server.requests]
        return b"\n".join(bodies).decode()

    def test_without_the_setting_no_word_of_it_is_sent(self, world: World) -> None:
        world.embed(world.run(), "cases")
        assert "Crown" in self.sent(world)
        assert "pain" not in self.sent(world)

    @pytest.mark.parametrize("batch_api", [False, True])
    def test_with_it_no_known_identifier_is_sent(self, world: World, batch_api: bool) -> None:
        world.embed(world.run(embed_clinical_text=True, ai_batch_api=batch_api), "cases")
        sent = self.sent(world)
        assert "crown on 36" in sent
        assert "pain at 36" in sent
        for word in (*self.NAMES, "5550199", "1981", "example.org", "otto"):
            assert word.lower() not in sent.lower(), word

    def test_such_texts_are_not_stored_beside_their_vectors(self, world: World) -> None:
        world.embed(world.run(embed_clinical_text=True), "cases")
        assert world.target.all("SELECT content_text FROM public.case_embeddings") == [(None,), (None,)]

    def test_switching_it_off_gives_other_vectors(self, world: World) -> None:
        world.embed(world.run(embed_clinical_text=True), "cases")
        world.embed(world.run("run-2"), "cases")
        texts = [text for (text,) in world.target.all("SELECT content_text FROM public.case_embeddings")]
        # The text of the case without notes is the same, and so is its vector.
        assert set(texts) == {"Order Crown.", None}
        assert world.embed(world.run("run-3"), "cases") == [{"rows": 0, "sent": 0, "refused": 0}]
