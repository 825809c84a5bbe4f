"""Dry run, real run, the same again: what was predicted happens, completely, and happens once."""

from __future__ import annotations

import csv

import pytest

from include.synthetic.truth import duplicate_pairs, lookalike_pairs
from tests.end_to_end.conftest import SEED, SIZE, FirstRuns
from tests.end_to_end.content import EMBEDDINGS, SOURCE_KEYS, assert_all_accounted, source_keys
from tests.end_to_end.runs import Databases, Outcome

ENTITIES = sorted(SOURCE_KEYS)
FATES = ("inserted", "updated", "unchanged", "merged", "rejected", "skipped")


def test_all_three_runs_succeed(first_runs: FirstRuns) -> None:
    assert (first_runs.dry.state, first_runs.real.state, first_runs.again.state) == ("success",) * 3
    assert first_runs.real.exit_code == 0


class TestDryRun:
    def test_business_tables_stay_empty(self, first_runs: FirstRuns) -> None:
        rows = first_runs.after_dry.rows
        assert set(rows) == {*SOURCE_KEYS, *EMBEDDINGS, "patient_embeddings"}
        assert set(rows.values()) == {0}

    def test_nothing_is_decided_for_later_runs(self, first_runs: FirstRuns) -> None:
        assert set(first_runs.after_dry.decisions.values()) == {0}

    def test_every_count_is_predicted(self, first_runs: FirstRuns) -> None:
        assert first_runs.dry.fates() == first_runs.real.fates()

    def test_pairs_are_listed_as_they_are_found_then(self, first_runs: FirstRuns) -> None:
        assert first_runs.dry.report_folder is not None
        with (first_runs.dry.report_folder / "duplicates-patients.csv").open(newline="") as file:
            listed = list(csv.DictReader(file))
        found = first_runs.databases.read(
            "SELECT left_legacy_id, right_legacy_id, score, status FROM migration.duplicate_pairs"
        )
        assert {pair["decision"] for pair in listed} == {"auto_merged", "pending"}
        assert sorted(
            (pair["left_id"], pair["right_id"], float(pair["score"]), pair["decision"]) for pair in listed
        ) == sorted(found)

    def test_the_report_says_so_first(self, first_runs: FirstRuns) -> None:
        assert first_line(first_runs.dry).startswith("DRY RUN completed: ")
        assert first_line(first_runs.real).startswith("REAL RUN completed: ")

    def test_stages_without_data_are_skipped(self, first_runs: FirstRuns) -> None:
        skipped = {task.split(".")[0] for task, state in first_runs.dry.tasks.items() if state == "skipped"}
        assert skipped == {"approval", "ai_enhancement", "validation", "loading"}
        states = first_runs.dry.tasks.items()
        loading = {task for task, state in states if state == "skipped" and task.startswith("loading")}
        assert loading == {"loading.phase_2a_files.copy_files[-1]"}

    def test_the_cost_of_embedding_is_predicted_to_the_token(self, first_runs: FirstRuns) -> None:
        assert first_runs.dry.report is not None
        assert first_runs.real.report is not None
        predicted, real = (run.report["embeddings"]["entities"] for run in (first_runs.dry, first_runs.real))
        assert sorted(entity["entity"] for entity in predicted) == [
            "cases",
            "projects",
            "workflow_template_tasks",
        ]
        for before, after in zip(predicted, real, strict=True):
            assert (before["texts"], before["tokens"], before["requests"]) == (0, 0, 0)
            for what in ("texts", "tokens"):
                assert before[f"estimated_{what}"] == after[f"estimated_{what}"] == after[what] > 0


class TestRealRun:
    @pytest.mark.parametrize("entity", ENTITIES)
    def test_every_source_key_has_one_fate(self, first_runs: FirstRuns, entity: str) -> None:
        assert_all_accounted(first_runs.databases, entity)

    @pytest.mark.parametrize("entity", ENTITIES)
    def test_reported_fates_add_up_to_the_source(self, first_runs: FirstRuns, entity: str) -> None:
        fates = first_runs.real.fates()[entity]
        assert sum(fates[fate] for fate in FATES) == fates["source_rows"]
        assert fates["source_rows"] == len(source_keys(first_runs.databases, entity))
        assert fates["inserted"] > 0

    def test_the_report_lists_every_entity(self, first_runs: FirstRuns) -> None:
        assert sorted(first_runs.real.fates()) == ENTITIES

    def test_the_report_has_three_forms(self, first_runs: FirstRuns) -> None:
        for outcome in (first_runs.dry, first_runs.real, first_runs.again):
            assert outcome.report_folder is not None
            assert outcome.report is not None
            files = {path.name: path.read_text() for path in outcome.report_folder.iterdir()}
            # The manifest of files is of rows that were loaded; pairs that were found are kept by none but a dry run.
            listed = {"duplicates-patients.csv"} if outcome is first_runs.dry else {"files.csv"}
            assert set(files) == {"report.json", "report.html", "summary.txt", *listed}
            assert outcome.report["status"] == "completed"
            assert first_line(outcome) in files["report.html"]

    def test_all_checks_pass(self, first_runs: FirstRuns) -> None:
        assert first_runs.real.report is not None
        checks = first_runs.real.report["checks"]
        assert (checks["failed"], checks["not_passed"]) == (0, [])
        stored = first_runs.databases.read("SELECT entity, count(*) FROM migration.checks GROUP BY entity")
        assert sorted(row[0] for row in stored) == sorted([*ENTITIES, "target"])

    def test_runs_are_recorded(self, first_runs: FirstRuns) -> None:
        recorded = first_runs.databases.read(
            "SELECT type, dry_run, status, ended_at > started_at, failed_steps, report_uri IS NOT NULL"
            " FROM migration.runs ORDER BY started_at"
        )
        assert recorded == [("full", dry, "completed", True, [], True) for dry in (True, False, False)]

    def test_staging_is_emptied(self, first_runs: FirstRuns) -> None:
        assert first_runs.staged_files == 0

    def test_a_quarantined_row_says_why_and_what_to_do(self, first_runs: FirstRuns) -> None:
        rows = first_runs.databases.read(
            'SELECT code, "column", reason, how_to_fix, payload IS NOT NULL FROM migration.quarantine'
        )
        assert rows
        assert all(all(row) for row in rows)

    @pytest.mark.parametrize("table", EMBEDDINGS)
    def test_every_live_row_has_one_vector(self, first_runs: FirstRuns, table: str) -> None:
        owner, entity = EMBEDDINGS[table]
        owners = first_runs.databases.read(f"SELECT {owner}::text FROM public.{table}")
        live = first_runs.databases.read(
            f"SELECT target_id::text FROM migration.id_map WHERE entity = '{entity}' AND state = 'live'"
        )
        assert sorted(owners) == sorted(live)

    def test_names_and_codes_arrive_as_they_are(self, first_runs: FirstRuns) -> None:
        columns = "first_name, last_name, {born}::text, archived, suspended, suffix, {status}"
        legacy = first_runs.databases.read(
            f"SELECT p.id, {columns.format(born='birthdate', status='status')}"
            " FROM dispatch_patient p JOIN auth_user u ON u.id = p.user_id ORDER BY p.id",
            source=True,
        )
        target = first_runs.databases.read(
            f"SELECT legacy_patient_id, {columns.format(born='date_of_birth', status='status_code')}"
            " FROM public.patients ORDER BY legacy_patient_id"
        )
        assert target == legacy


class TestDuplicates:
    def test_lookalikes_are_never_merged(self, first_runs: FirstRuns) -> None:
        same = same_person(first_runs.databases)
        pairs = lookalike_pairs(SIZE, SEED).to_pylist()
        assert pairs
        merged = [p for p in pairs if same[p["patient_id"]] == same[p["lookalike_patient_id"]]]
        assert merged == []

    def test_exact_duplicates_are_merged(self, first_runs: FirstRuns) -> None:
        same = same_person(first_runs.databases)
        pairs = [p for p in duplicate_pairs(SIZE, SEED).to_pylist() if p["kind"] == "exact"]
        assert pairs
        kept = [p for p in pairs if same[p["original_patient_id"]] != same[p["duplicate_patient_id"]]]
        assert kept == []

    def test_children_of_a_merged_patient_belong_to_the_survivor(self, first_runs: FirstRuns) -> None:
        same = same_person(first_runs.databases)
        orders = first_runs.databases.read("SELECT id, patient_id FROM dispatch_instruction", source=True)
        cases = dict(
            first_runs.databases.read(
                "SELECT c.legacy_instruction_id, p.legacy_patient_id"
                " FROM public.cases c JOIN public.patients p ON p.id = c.patient_id"
            )
        )
        moved = [order for order, patient in orders if order in cases and same[patient] != patient]
        assert moved
        assert cases == {order: same[patient] for order, patient in orders if order in cases}

    def test_survivors_are_not_merged_themselves_and_merges_are_recorded(self, first_runs: FirstRuns) -> None:
        merged = first_runs.databases.read(
            "SELECT id, merged_into FROM public.patients WHERE merged_into IS NOT NULL"
        )
        recorded = first_runs.databases.read(
            "SELECT merged_id, survivor_id FROM migration.merges WHERE undone_at IS NULL"
        )
        assert sorted(recorded) == sorted(merged)
        assert not {row[0] for row in merged} & {row[1] for row in merged}


class TestSecondRealRun:
    def test_every_row_is_unchanged_or_still_refused(self, first_runs: FirstRuns) -> None:
        first, again = first_runs.real.fates(), first_runs.again.fates()
        for entity, fates in again.items():
            stored = first[entity]["inserted"] + first[entity]["merged"]
            assert fates == {
                **dict.fromkeys(FATES, 0),
                "deleted": 0,
                "followed": 0,
                "source_rows": first[entity]["source_rows"],
                "read": first[entity]["read"],
                "unchanged": stored,
                "rejected": first[entity]["rejected"],
            }

    def test_no_row_is_written_again(self, first_runs: FirstRuns) -> None:
        assert first_runs.after_again.versions == first_runs.after_real.versions
        assert first_runs.after_again.digests == first_runs.after_real.digests

    def test_no_second_quarantine_entry_merge_or_finding(self, first_runs: FirstRuns) -> None:
        assert first_runs.after_again.decisions == first_runs.after_real.decisions

    def test_nothing_is_embedded(self, first_runs: FirstRuns) -> None:
        counts = first_runs.databases.read(
            "SELECT sum(b.inserted)::int, sum(b.unchanged)::int FROM migration.runs r"
            " JOIN migration.batches b USING (run_id) WHERE b.phase = 'ai_enhancement'"
            " GROUP BY r.run_id ORDER BY r.started_at"
        )
        vectors = sum(first_runs.after_real.rows[table] for table in EMBEDDINGS)
        assert counts == [(vectors, 0), (0, vectors)]


def first_line(outcome: Outcome) -> str:
    """The first line of the summary."""
    assert outcome.report_folder is not None
    return (outcome.report_folder / "summary.txt").read_text().splitlines()[0]


def same_person(databases: Databases) -> dict[int, int]:
    """Legacy patient → the legacy patient that stands for the person."""
    rows = databases.read(
        "SELECT p.legacy_patient_id, coalesce(s.legacy_patient_id, p.legacy_patient_id)"
        " FROM public.patients p LEFT JOIN public.patients s ON s.id = p.merged_into"
    )
    return dict(rows)
