"""The steps of the preflight outside of Airflow: what they ask of places, files, provider and estimates."""

from __future__ import annotations

import dataclasses
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from supabase import create_client

from include.core.preflight import CATALOGUE, Result, Status, passed
from include.core.run_estimate import DEFAULTS_FROM
from include.core.settings import Settings, check, params
from include.entities import EMBEDDED, ENTITIES
from include.synthetic.sizes import SourceSize
from local.environment import connection_variable, supabase_variable
from local.legacy_source import fill
from local.storage_server import StorageServer
from plugins.operators import preflight_checks
from plugins.operators.preflight_checks import (
    AIChecksOperator,
    EstimateChecksOperator,
    PreflightOperator,
    SettingsChecksOperator,
    SourceChecksOperator,
    StorageChecksOperator,
    TargetChecksOperator,
)
from plugins.operators.step import Run
from tests.embedding_server import KEY, EmbeddingServer

GB = 1 << 30


def settings(**values: Any) -> Settings:
    return check(values, params(ENTITIES, kind="full", environment={}, embedded=EMBEDDED))


def look(kind: type[PreflightOperator], *earlier: Result, **values: Any) -> dict[str, Result]:
    """Results of a step by name."""
    operator = kind(task_id=kind.area, results=[[result.to_json() for result in earlier]])
    run = Run("run", "mdw_preflight", "full", settings(**values), "step", 1, "test", SimpleNamespace())  # type: ignore[arg-type]
    found = {values["name"]: Result.from_json(values) for values in operator.step(run)}
    assert set(found) == {name for name, check in CATALOGUE.items() if check.area == kind.area}
    return found


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Places of this test's own, and no way to anything else."""
    for name in ("LEGACY_MDW", "SUPABASE_DB", "SUPABASE", "OPENAI_DEFAULT"):
        monkeypatch.delenv(f"AIRFLOW_CONN_{name}", raising=False)
    for name in ("SUPABASE_URL", "LEGACY_DB_HOST", "OPENAI_API_KEY", "MIGRATION_FILES_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MIGRATION_STAGING_URI", f"file://{tmp_path / 'staging'}")
    monkeypatch.setenv("MIGRATION_REPORT_URI", f"file://{tmp_path / 'reports'}")
    monkeypatch.setenv("MIGRATION_EMBEDDING_PROVIDER", "hash")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path


class TestSettings:
    def test_what_is_not_set_is_told_with_how_to_set_it(self) -> None:
        found = look(SettingsChecksOperator)["settings.connections"]
        assert found.status is Status.FAIL
        for part in ("AIRFLOW_CONN_LEGACY_MDW", "LEGACY_DB_HOST", "AIRFLOW_CONN_SUPABASE_DB", "SUPABASE_URL"):
            assert part in found.fix

    def test_the_way_that_is_demanded_must_be_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        dsn = "postgresql://a:b@127.0.0.1:5432/c"
        monkeypatch.setenv("AIRFLOW_CONN_LEGACY_MDW", connection_variable(dsn))
        monkeypatch.setenv("AIRFLOW_CONN_SUPABASE_DB", connection_variable(dsn))
        assert "reached by postgres" in look(SettingsChecksOperator)["settings.connections"].why
        found = look(SettingsChecksOperator, load_via="rest")["settings.connections"]
        assert (found.status, "load_via=rest needs `supabase`" in found.fix) == (Status.FAIL, True)

    def test_files_need_the_api(self, monkeypatch: pytest.MonkeyPatch, places: Path) -> None:
        dsn = "postgresql://a:b@127.0.0.1:5432/c"
        monkeypatch.setenv("AIRFLOW_CONN_LEGACY_MDW", connection_variable(dsn))
        monkeypatch.setenv("AIRFLOW_CONN_SUPABASE_DB", connection_variable(dsn))
        monkeypatch.setenv("MIGRATION_FILES_URI", str(places))
        assert look(SettingsChecksOperator)["settings.connections"].status is Status.FAIL
        assert look(SettingsChecksOperator, copy_files=False)["settings.connections"].status is Status.PASS

    def test_a_mapping_that_cannot_be_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken() -> dict[str, Any]:
            raise preflight_checks.MigrationError("PARAM_INVALID", "MIGRATION_MAPPING_FILE cannot be read.")

        monkeypatch.setattr(preflight_checks, "configuration", broken)
        assert look(SettingsChecksOperator)["settings.mapping"].status is Status.FAIL


@pytest.mark.parametrize("kind", [SourceChecksOperator, TargetChecksOperator])
def test_an_end_that_is_not_there_skips_its_other_checks(
    kind: type[PreflightOperator], monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = connection_variable("postgresql://a:zweifelstein@127.0.0.1:9/c")
    monkeypatch.setenv("AIRFLOW_CONN_LEGACY_MDW", nowhere)
    monkeypatch.setenv("AIRFLOW_CONN_SUPABASE_DB", nowhere)
    found = look(kind)
    reachable = found.pop(f"{kind.area}.reachable")
    assert (reachable.status, reachable.facts["code"]) == (Status.FAIL, f"{kind.area.upper()}_UNREACHABLE")
    assert {result.status for result in found.values()} == {Status.SKIPPED}
    assert "zweifelstein" not in f"{reachable}"


class TestStorage:
    def test_places_that_cannot_be_written(self, monkeypatch: pytest.MonkeyPatch, places: Path) -> None:
        (places / "file").write_text("")
        monkeypatch.setenv("MIGRATION_STAGING_URI", f"file://{places / 'file' / 'below'}")
        found = look(StorageChecksOperator)
        assert found["storage.staging"].facts["code"] == "STORAGE_UNWRITABLE"
        assert found["storage.reports"].status is Status.PASS
        assert list((places / "reports").iterdir()) == []

    def test_without_a_place_for_files_none_is_looked_for(self) -> None:
        found = look(StorageChecksOperator)
        assert found["storage.files"].status is found["storage.bucket"].status is Status.SKIPPED

    def test_samples_of_files_and_the_bucket(
        self, database: str, places: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(database, SourceSize.real().scaled(40, tasks=40, projects=20, plans=10), 1, lambda _: None)
        files = places / "files"
        files.mkdir()
        monkeypatch.setenv("MIGRATION_FILES_URI", str(files))
        monkeypatch.setenv("AIRFLOW_CONN_LEGACY_MDW", connection_variable(database))
        secret = "a secret by which the tokens of these tests are signed"
        nowhere = connection_variable("postgresql://a:b@127.0.0.1:9/c")
        with StorageServer(places / "storage", secret) as storage:
            key = jwt.encode({"role": "service_role"}, secret, algorithm="HS256")
            monkeypatch.setenv("AIRFLOW_CONN_SUPABASE", supabase_variable(storage.url, key))
            found = look(StorageChecksOperator)
            assert found["storage.files"].status is Status.WARN
            assert "MIGRATION_FILES_TEMPLATE" in found["storage.files"].fix
            assert "will be made, private" in found["storage.bucket"].why
            with preflight_checks.opened(preflight_checks.SOURCE) as session:
                ((_, uid), *_) = session.ask(preflight_checks._SAMPLE_FILES)
            with monkeypatch.context() as without_source:
                without_source.setenv("AIRFLOW_CONN_LEGACY_MDW", nowhere)
                assert "(SOURCE_UNREACHABLE)" in look(StorageChecksOperator)["storage.files"].why
            (files / uid).write_bytes(b"scan")
            assert "1 of the files of the 10 newest" in look(StorageChecksOperator)["storage.files"].why
            create_client(storage.url, key).storage.create_bucket("projects", options={"public": True})
            assert look(StorageChecksOperator)["storage.bucket"].facts["code"] == "FILES_BUCKET_PUBLIC"
            monkeypatch.setenv("AIRFLOW_CONN_SUPABASE", supabase_variable(storage.url, "sb_secret_wrong"))
            assert look(StorageChecksOperator)["storage.bucket"].facts["code"] == "FILES_KEY_REFUSED"


class TestAI:
    def test_switched_off_nothing_is_asked(self) -> None:
        assert {r.status for r in look(AIChecksOperator, enable_ai=False).values()} == {Status.SKIPPED}

    def test_vectors_without_meaning(self) -> None:
        found = look(AIChecksOperator)
        assert (found["ai.provider"].status, found["ai.price"].status) == (Status.WARN, Status.PASS)

    def test_one_harmless_word_is_sent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with EmbeddingServer() as api:
            self.use(monkeypatch, api.url)
            found = look(AIChecksOperator)
            assert {r.status for r in found.values()} == {Status.PASS}
            assert [list(request.texts) for request in api.requests] == [["preflight"]]
            assert look(AIChecksOperator, ai_budget=0.0)["ai.provider"].status is Status.SKIPPED
            assert len(api.requests) == 1

    def test_a_key_that_is_refused_is_not_shown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with EmbeddingServer() as api:
            self.use(monkeypatch, api.url, key="sk-zweifelstein")
            found = look(AIChecksOperator)["ai.provider"]
        assert (found.status, found.facts["code"]) == (Status.FAIL, "EMBEDDING_KEY_REFUSED")
        assert "zweifelstein" not in f"{found}"

    def test_a_price_that_nobody_knows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MIGRATION_EMBEDDING_MODEL", "unheard-of")
        monkeypatch.setenv("MIGRATION_EMBEDDING_DIMENSIONS", "8")
        with EmbeddingServer() as api:
            self.use(monkeypatch, api.url)
            found = look(AIChecksOperator)["ai.price"]
        assert found.facts["code"] == "EMBEDDING_PRICE_UNKNOWN"

    def use(self, monkeypatch: pytest.MonkeyPatch, url: str, key: str = KEY) -> None:
        monkeypatch.setenv("MIGRATION_EMBEDDING_PROVIDER", "openai")
        monkeypatch.setenv("OPENAI_API_KEY", key)
        monkeypatch.setenv("OPENAI_BASE_URL", url)


ROWS = Result.of(
    "source.rows",
    passed(
        "",
        rows={"dispatch_patient": 300_000, "auth_user": 1, "dispatch_project": 5_000_000},
        bytes={"dispatch_patient": GB},
    ),
)


class TestEstimate:
    def test_without_counts_nothing_is_estimated(self) -> None:
        assert {r.status for r in look(EstimateChecksOperator).values()} == {Status.SKIPPED}

    def test_rates_of_an_earlier_run_are_told_from_documented_ones(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(
            "AIRFLOW_CONN_SUPABASE_DB", connection_variable("postgresql://a:b@127.0.0.1:5432/c")
        )
        documented = look(EstimateChecksOperator, ROWS, entities=["patients"])["estimate.time"]
        assert DEFAULTS_FROM in documented.why
        rates = Result.of("target.reachable", passed("", rates={"loading": 100.0}))
        measured = look(EstimateChecksOperator, ROWS, rates, entities=["patients"])["estimate.time"]
        assert measured.facts["seconds"]["loading"] == 3_000.0
        assert measured.facts["measured"] == ["loading"]
        assert "loading 50 min" in measured.why

    def test_a_disk_that_is_too_small(self) -> None:
        room = Result.of("storage.staging", passed("", free=100))
        found = look(EstimateChecksOperator, ROWS, room)["estimate.staging"]
        assert (found.status, "100 B are free" in found.why) == (Status.FAIL, True)
        room = dataclasses.replace(room, facts={"free": 100 * GB})
        assert look(EstimateChecksOperator, ROWS, room)["estimate.staging"].status is Status.PASS
        assert "not known" in look(EstimateChecksOperator, ROWS)["estimate.staging"].why

    def test_a_budget_that_is_too_small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MIGRATION_EMBEDDING_PROVIDER", "openai")
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        found = look(EstimateChecksOperator, ROWS, ai_budget=1.0)["estimate.ai_cost"]
        assert (found.status, "Set ai_budget to" in found.fix) == (Status.WARN, True)
        assert look(EstimateChecksOperator, ROWS, ai_budget=100.0)["estimate.ai_cost"].status is Status.PASS


def test_a_step_that_died_leaves_no_results() -> None:
    operator = EstimateChecksOperator(task_id="estimate", results=[None, [ROWS.to_json()]])
    assert operator.earlier() == [ROWS]
    assert operator.fact("source.rows", "bytes") == {"dispatch_patient": GB}
    assert operator.fact("source.keys", "bytes") is None


def test_room_is_asked_of_the_disk_that_the_place_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", ["free"])
    monkeypatch.setattr(preflight_checks.shutil, "disk_usage", lambda path: usage(1_234_000_000))
    found = look(StorageChecksOperator)["storage.staging"]
    assert (found.facts["free"], "1.2 GB are free" in found.why) == (1_234_000_000, True)
