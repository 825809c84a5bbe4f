"""Parameters of a run: limits, types, unknown names, defaults from the environment."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from include.core.errors import MigrationError
from include.core.settings import Param, check, params

ENTITIES = ("practices", "patients", "cases")
EMBEDDED = {"patients": False, "cases": True}
VARIABLES = ("MIGRATION_BATCH_SIZE", "MIGRATION_MAX_RETRIES", "MIGRATION_LOG_LEVEL")


def known(**environment: str) -> list[Param]:
    return params(ENTITIES, kind="full", environment=environment, embedded=EMBEDDED)


def refused(values: dict[str, Any], **environment: str) -> MigrationError:
    with pytest.raises(MigrationError) as caught:
        check(values, known(**environment))
    return caught.value


def test_without_values_the_defaults_hold() -> None:
    settings = check({}, known())
    assert settings.to_json() == {
        "dry_run": True,
        "entities": (),
        "enable_ai": True,
        "ai_entities": ("cases",),
        "ai_budget": 10,
        "ai_batch_api": False,
        "embed_clinical_text": False,
        "copy_files": True,
        "batch_size": 25_000,
        "max_retries": 3,
        "max_rejected": 0.1,
        "max_deleted": 0.05,
        "require_approval": False,
        "approve_merged_above": 0.1,
        "approve_deleted_above": 0.02,
        "merge_at": 0.99,
        "review_at": 0.05,
        "match_shares": 1,
        "fail_fast": True,
        "keep_staging": False,
        "log_level": "INFO",
        "load_via": "auto",
        "foreign_writes": "stop",
        "repair": False,
        "verify_files": "copied",
        "samples": 5,
        # Of the incremental migration only: no full one takes them.
        "allow_initial_full": False,
        "redrive": False,
    }
    assert check({}, params(ENTITIES, kind="incremental", environment={}, embedded=EMBEDDED)).dry_run is False


def test_every_declared_parameter_becomes_a_setting_and_travels_as_json() -> None:
    declared = params(ENTITIES, kind="incremental", environment={}, embedded=EMBEDDED)
    settings = check({}, declared)
    assert {param.name for param in declared} == set(settings.to_json())
    assert {param.name for param in declared} - {param.name for param in known()} == {
        "allow_initial_full",
        "redrive",
    }
    lists = {"entities": [], "ai_entities": ["cases"]}
    assert json.loads(json.dumps(settings.to_json())) == {**settings.to_json(), **lists}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 1),
        ("batch_size", 100),
        ("batch_size", 250_000),
        ("max_retries", 0),
        ("max_retries", 10),
        ("max_rejected", 0),
        ("max_rejected", 1),
        ("max_rejected", 0.5),
        ("max_deleted", 0),
        ("max_deleted", 1),
        ("merge_at", 0.5),
        ("merge_at", 1),
        ("review_at", 0.001),
        ("review_at", 0.99),
        ("match_shares", 1),
        ("match_shares", 24),
        ("approve_merged_above", 0),
        ("approve_merged_above", 1),
        ("approve_deleted_above", 0),
        ("approve_deleted_above", 1),
        ("dry_run", False),
        ("enable_ai", False),
        ("fail_fast", False),
        ("keep_staging", True),
        ("log_level", "DEBUG"),
        ("log_level", "ERROR"),
    ],
)
def test_values_on_the_limits_are_taken(name: str, value: Any) -> None:
    assert getattr(check({name: value}, known()), name) == value


OTHERS: dict[str, list[Any]] = {
    "boolean": [0, 1, "true", "", None, [], 1.0],
    "integer": [True, False, "5", 5.0, math.nan, None, [5], {}],
    "number": [True, False, "0.5", None, [], math.nan, math.inf, -math.inf],
    "string": [1, True, None, ["INFO"], "info", "TRACE", ""],
    "array": ["patients", None, 1, True, {"patients": 1}, {"patients"}],
}


@pytest.mark.parametrize(
    ("param", "value"),
    [(param.name, value) for param in known() for value in OTHERS[param.kind]],
    ids=repr,
)
def test_other_types_are_refused(param: str, value: Any) -> None:
    error = refused({param: value})
    assert error.code == "PARAM_INVALID"
    assert error.facts == {"param": param}
    assert f"{param} must be" in str(error)


@pytest.mark.parametrize(
    ("name", "value", "limits"),
    [
        ("batch_size", 0, "between 1 and 250000"),
        ("batch_size", -1, "between 1 and 250000"),
        ("batch_size", 250_001, "between 1 and 250000"),
        ("batch_size", 10**30, "between 1 and 250000"),
        ("max_retries", -1, "between 0 and 10"),
        ("max_retries", 11, "between 0 and 10"),
        ("max_rejected", -0.01, "between 0 and 1"),
        ("max_rejected", 1.01, "between 0 and 1"),
        ("max_rejected", math.nan, "between 0 and 1"),
        ("max_deleted", -0.01, "between 0 and 1"),
        ("max_deleted", 1.01, "between 0 and 1"),
        ("merge_at", 0.49, "between 0.5 and 1"),
        ("review_at", 0, "between 0.001 and 1"),
        ("review_at", 0.995, "not be above merge_at"),
        ("match_shares", 0, "between 1 and 24"),
        ("approve_merged_above", -0.1, "between 0 and 1"),
        ("approve_deleted_above", 1.1, "between 0 and 1"),
        ("require_approval", "yes", "of type boolean"),
        ("ai_budget", -0.01, "between 0 and 100000"),
        ("ai_budget", math.nan, "between 0 and 100000"),
        ("log_level", "TRACE", "one of ['DEBUG', 'INFO', 'WARNING', 'ERROR']"),
    ],
)
def test_values_beyond_the_limits_are_refused_with_the_limits(name: str, value: Any, limits: str) -> None:
    error = refused({name: value})
    assert error.code == "PARAM_INVALID"
    assert limits in str(error)


def test_unknown_parameters_are_refused_by_name() -> None:
    error = refused({"batchsize": 5, "dry-run": True, "batch_size": 5})
    assert error.code == "PARAM_UNKNOWN"
    assert "['batchsize', 'dry-run']" in str(error)
    assert "batch_size" in str(error)


@pytest.mark.parametrize("names", [["patient"], ["patients", "Patients"], [None], [["patients"]], [{}], [1]])
def test_unknown_entities_are_refused_with_those_known(names: list[Any]) -> None:
    error = refused({"entities": names})
    assert error.code == "ENTITY_UNKNOWN"
    assert "known are ['practices', 'patients', 'cases']" in str(error)


def test_only_entities_with_documents_can_be_embedded() -> None:
    assert check({"ai_entities": ["patients"]}, known()).ai_entities == ("patients",)
    assert check({"ai_entities": []}, known()).ai_entities == ()
    error = refused({"ai_entities": ["practices"]})
    assert (error.code, error.facts["param"]) == ("ENTITY_UNKNOWN", "ai_entities")


def test_long_lists_of_unknown_entities_do_not_flood_the_message() -> None:
    assert len(str(refused({"entities": ["x" * 10_000] * 10_000}))) < 2_000


def test_entities_named_twice_count_once_and_tuples_are_lists() -> None:
    assert check({"entities": ["cases", "cases", "patients"]}, known()).entities == ("cases", "patients")
    assert check({"entities": ("cases",)}, known()).entities == ("cases",)


def test_the_environment_supplies_defaults_and_values_override_them() -> None:
    environment = {
        "MIGRATION_BATCH_SIZE": " 100 ",
        "MIGRATION_MAX_RETRIES": "0",
        "MIGRATION_LOG_LEVEL": " warning ",
    }
    settings = check({}, known(**environment))
    assert (settings.batch_size, settings.max_retries, settings.log_level) == (100, 0, "WARNING")
    assert check({"batch_size": 7}, known(**environment)).batch_size == 7


@pytest.mark.parametrize(("text", "budget"), [("0", 0), (" 2.5 ", 2.5), ("100", 100)])
def test_the_environment_supplies_a_budget(text: str, budget: float) -> None:
    assert check({}, known(MIGRATION_AI_BUDGET=text)).ai_budget == budget


def test_the_environment_says_what_every_night_embeds() -> None:
    environment = {"MIGRATION_AI_ENTITIES": " patients , cases ", "MIGRATION_EMBED_CLINICAL_TEXT": " True "}
    settings = check({}, known(**environment))
    assert (settings.ai_entities, settings.embed_clinical_text) == (("patients", "cases"), True)
    assert check({}, known(MIGRATION_EMBED_CLINICAL_TEXT="false")).embed_clinical_text is False


@pytest.mark.parametrize("text", ["yes", "1", "on", "tru"])
def test_clinical_text_is_allowed_by_no_other_word(text: str) -> None:
    assert refused({}, MIGRATION_EMBED_CLINICAL_TEXT=text).facts["param"] == "embed_clinical_text"


def test_an_entity_of_the_environment_that_has_no_documents_is_refused() -> None:
    assert refused({}, MIGRATION_AI_ENTITIES="practices").facts["param"] == "ai_entities"


@pytest.mark.parametrize("text", ["-1", "ten", "1e3", "nan", "inf", "1,5", "100001"])
def test_a_bad_budget_of_the_environment_waits_for_the_check(text: str) -> None:
    assert refused({}, MIGRATION_AI_BUDGET=text).facts["param"] == "ai_budget"


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("value", ["--5", "-", "five", "5.5", "1e3", "²", "٣", "-1", "9" * 5000, "True", " "])
def test_a_bad_value_of_the_environment_waits_for_the_check(variable: str, value: str) -> None:
    """The DAG file must still load: declaring never fails, checking names the parameter."""
    error = refused({}, **{variable: value})
    assert error.code == "PARAM_INVALID"
    assert error.facts["param"] == variable.removeprefix("MIGRATION_").lower()


@pytest.mark.parametrize("variable", VARIABLES)
def test_an_empty_variable_is_one_that_is_not_set(variable: str) -> None:
    assert check({}, known(**{variable: ""})) == check({}, known())


def test_other_variables_change_nothing() -> None:
    assert known(MIGRATION_DRY_RUN="false", BATCH_SIZE="1") == known()


def test_defaults_are_within_their_own_limits_and_described() -> None:
    for param in known():
        assert param.title
        assert param.description.endswith(".")
        check({param.name: param.default}, known())


def test_a_validation_takes_what_it_needs_and_is_a_dry_run_for_all_other_purposes() -> None:
    declared = params(ENTITIES, kind="validation", environment={}, embedded=EMBEDDED)
    assert "dry_run" not in {param.name for param in declared}
    settings = check({"samples": 0}, declared)
    assert (settings.dry_run, settings.verify_files, settings.samples) == (True, "all", 0)
    with pytest.raises(MigrationError) as caught:
        check({"dry_run": False}, declared)
    assert caught.value.code == "PARAM_UNKNOWN"


def test_what_is_in_quarantine_alone_is_no_repair() -> None:
    with pytest.raises(MigrationError) as caught:
        check(
            {"repair": True, "redrive": True},
            params(ENTITIES, kind="incremental", environment={}, embedded=EMBEDDED),
        )
    assert caught.value.code == "PARAM_INVALID"
