"""Preflight: the steps of DAG mdw_preflight. Nothing is written but the report: sessions are read-only, nothing is
deployed, no run is opened, no lock is taken.

A step runs the checks of one area (include/core/preflight.py) and hands their results on; it never fails for what it
found. The verdict does.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import ObjectStoragePath

from include.core.errors import MigrationError
from include.core.mapping import configuration, mapping_version
from include.core.preflight import (
    Outcome,
    Result,
    Status,
    Verdict,
    failed,
    passed,
    refused,
    run_check,
    run_checks,
    skip_area,
    skipped,
    warned,
)
from include.core.run_estimate import (
    DEFAULTS_FROM,
    FIXED_SECONDS,
    documents_of,
    embedding_cost,
    phase_times,
    readable_seconds,
    staged_bytes,
    target_bytes,
)
from include.embedding.prices import FREE
from include.files.manifest import readable_size
from include.files.paths import PLACEHOLDERS
from plugins.hooks import supabase_project
from plugins.hooks.connect import SOURCE, TARGET, is_configured
from plugins.hooks.embeddings import choose_provider
from plugins.hooks.file_source import TEMPLATE, URI, FileUnreadableError, LegacyFiles, legacy_files
from plugins.hooks.notifications import Channels
from plugins.hooks.run_log import run_log
from plugins.hooks.session_health import HealthSession, encryption, opened, pooler
from plugins.hooks.source_data_health import SourceDataChecks
from plugins.hooks.source_health import SourceChecks
from plugins.hooks.staging import check_writable, report_root, run_folder, staging_root
from plugins.hooks.storage import StorageHook
from plugins.hooks.target_health import TargetChecks, opened_target
from plugins.operators.preflight import chosen
from plugins.operators.step import LOG, MigrationOperator, Run, registered

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from include.embedding.provider import EmbeddingProvider

_LEVELS = {
    Status.PASS: logging.INFO,
    Status.SKIPPED: logging.INFO,
    Status.WARN: logging.WARNING,
    Status.FAIL: logging.ERROR,
}
_HARMLESS_TEXT = "preflight"
# A run keeps what it staged until its end, and other things are on the disk as well.
_ROOM = 1.2
_WITH_FILES, _BUCKET = "projects", "projects"
_SAMPLE_FILES = "SELECT id::text, uid::text FROM dispatch_project ORDER BY id DESC LIMIT 10"


class PreflightOperator(MigrationOperator):
    """Runs the checks of one area.

    Args:
        results: what the steps before returned, for those that build on it.
    """

    tracked = False
    area: ClassVar[str]
    template_fields = ("results",)

    def __init__(self, *, results: Any = None, **kwargs: Any) -> None:
        super().__init__(**{"trigger_rule": "all_done", **kwargs})
        self.results = results

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Results as JSON; also where the parameters are refused, and nothing is asked."""
        try:
            Run.of(context)
        except MigrationError as error:
            with run_log(**self._identity(context)):
                return self._told(self.without_parameters(error))
        found: list[dict[str, Any]] = super().execute(context)
        return found

    def step(self, run: Run) -> list[dict[str, Any]]:
        """See the base."""
        return self._told(self.look(run))

    def look(self, run: Run) -> Iterable[Result]:
        """One result for every check of the area."""
        raise NotImplementedError

    def without_parameters(self, error: MigrationError) -> Iterable[Result]:  # noqa: ARG002 - for the one that tells it
        """What is left to say where a run would be refused at once."""
        return skip_area(self.area, "The parameters are refused.")

    def _told(self, results: Iterable[Result]) -> list[dict[str, Any]]:
        """Results as JSON, each with a line in the log."""
        told = []
        for result in results:
            facts = {
                "message": result.why,
                "phase": self.phase,
                "check": result.name,
                "status": result.status.value,
            }
            line = ("[migration] %-16s %s: %s. %s", self.phase, result.name, result.status, result.why)
            LOG.log(_LEVELS[result.status], *line, extra={"facts": {**facts, "seconds": result.seconds}})
            told.append(result.to_json())
        return told

    def earlier(self) -> list[Result]:
        """What the steps before found; one that died left nothing."""
        return [Result.from_json(values) for step in self.results or () for values in step or ()]

    def fact(self, name: str, fact: str) -> Any:
        """A fact of an earlier check, None where it has none."""
        return next((result.facts.get(fact) for result in self.earlier() if result.name == name), None)


class SettingsChecksOperator(PreflightOperator):
    """Parameters, mapping, connections."""

    area = "settings"

    def look(self, run: Run) -> Iterable[Result]:
        """See the base."""
        names = ", ".join(entity.name for entity in chosen(run.settings))
        yield run_check("settings.parameters", lambda: passed(f"A full migration of {names}."))
        yield from run_checks(
            {
                "settings.mapping": _mapping,
                "settings.connections": lambda: _connections(run),
                "settings.notifications": _notifications,
            }
        )

    def without_parameters(self, error: MigrationError) -> Iterable[Result]:
        """See the base."""
        name = "settings.parameters"
        yield Result.of(name, refused(error))
        yield from skip_area(self.area, "The parameters are refused.", but=[name])


def _mapping() -> Outcome:
    configuration()
    return passed(f"Version {mapping_version()}.")


def _notifications() -> Outcome:
    channels = Channels.configured(os.environ)
    if not channels.ways:
        return skipped("Nobody is told of runs: neither Slack nor mail is configured.")
    if missing := channels.missing_connections():
        return warned(
            f"Nobody can be told by connection {', '.join(missing)}: there is none of that name.",
            "Create it in Airflow (docs/operating.md), or correct the variable that names it.",
        )
    return passed(f"{', '.join(channels.events)} are told by {', '.join(channels.ways)}.")


def _connections(run: Run) -> Outcome:
    there = {
        SOURCE.conn_id: is_configured(SOURCE),
        TARGET.conn_id: is_configured(TARGET),
        "supabase": supabase_project.is_configured(),
    }
    fixes = []
    if not there[SOURCE.conn_id]:
        fixes.append(f"Set AIRFLOW_CONN_{SOURCE.conn_id.upper()}, or {', '.join(SOURCE.variables.values())}.")
    needed = {"postgres": [TARGET.conn_id], "rest": ["supabase"]}.get(run.settings.load_via)
    if not any(there[name] for name in needed or (TARGET.conn_id, "supabase")):
        fixes.append(
            "Set AIRFLOW_CONN_SUPABASE_DB (the target's PostgreSQL address), or AIRFLOW_CONN_SUPABASE, or SUPABASE_URL"
            " and SUPABASE_SERVICE_ROLE_KEY (its API)."
            + (f" load_via={run.settings.load_via} needs `{needed[0]}`." if needed else "")
        )
    if _files_wanted(run) and not there["supabase"]:
        fixes.append(f"Set AIRFLOW_CONN_SUPABASE: files are copied through it. Or unset {URI}.")
    told = ", ".join(f"{name} {'is set' if found else 'is not set'}" for name, found in there.items())
    if fixes:
        return failed(f"{told}.", "\n".join(fixes), **there)
    provider = _provider(run)
    embedded = f"embeddings by {provider.name}" if provider else "no embedding provider"
    return passed(f"{told}; the target is reached by {run.way}, {embedded}.", **there)


def _files_wanted(run: Run) -> bool:
    names = {entity.name for entity in chosen(run.settings)}
    return run.settings.copy_files and _WITH_FILES in names and legacy_files() is not None


class SourceChecksOperator(PreflightOperator):
    """The legacy database: its server, then its rows."""

    area = "source"

    def look(self, run: Run) -> Iterable[Result]:
        """See the base."""
        with ExitStack() as stack:
            reached = _Reached("source.reachable", lambda: stack.enter_context(opened(SOURCE)))
            yield reached.result
            if reached.value is None:
                yield from skip_area(self.area, "The source cannot be reached.", but=["source.reachable"])
                return
            session: HealthSession = reached.value
            server = SourceChecks(session, chosen(run.settings))
            data = SourceDataChecks(session, chosen(run.settings))
            checks = {
                "source.version": server.version,
                "source.encoding": server.encoding,
                "source.encryption": lambda: encryption(session),
                "source.pooler": lambda: pooler(session, transactional_is_fatal=False),
                "source.role": server.role,
                "source.select": server.select,
                "source.row_security": server.row_security,
                "source.columns": server.columns,
                "source.transactions": server.transactions,
                "source.standby": server.standby,
                "source.rows": data.rows,
                "source.keys": data.keys,
                "source.references": data.references,
                "source.codes": data.codes,
                "source.timestamps": data.timestamps,
                "source.text": data.text,
                "source.passwords": data.passwords,
                "source.accounts": data.accounts,
            }
            yield from _while_open(session, checks)


class TargetChecksOperator(PreflightOperator):
    """The target, by the way that a run would take."""

    area = "target"

    def look(self, run: Run) -> Iterable[Result]:
        """See the base."""
        provider = _provider(run)
        dimensions = provider.dimensions if provider else None
        with ExitStack() as stack:
            reached = _Reached(
                "target.reachable", lambda: stack.enter_context(opened_target(run.way, dimensions))
            )
            if reached.value is None:
                yield reached.result
                yield from skip_area(self.area, "The target cannot be reached.", but=["target.reachable"])
                return
            target: TargetChecks = reached.value
            results = list(_while_open(target.session, target.checks()))
            # Last, for a statement that takes too long here must not stand in the others' way.
            yield replace(reached.result, facts={"way": run.way, "rates": target.rates()})
            yield from results


class _Reached:
    """Something opened by a check, and what that check says."""

    def __init__(self, name: str, reach: Callable[[], Any]) -> None:
        self.value: Any = None
        self._reach = reach
        self.result = run_check(name, self._check)

    def _check(self) -> Outcome:
        self.value = self._reach()
        return passed("It answers, and takes the login.")


def _while_open(
    session: HealthSession | None, checks: Mapping[str, Callable[[], Outcome]]
) -> Iterator[Result]:
    """Checks one after the other; none of those that follow once the connection is lost."""
    for name, check in checks.items():
        if session is not None and session.connection.closed:
            yield Result.of(name, skipped("The connection was lost."))
        else:
            yield run_check(name, check)


def _provider(run: Run) -> EmbeddingProvider | None:
    """The provider that a run would use; None where it uses none, or there is none that can be used."""
    try:
        return choose_provider() if run.settings.enable_ai else None
    except MigrationError:
        return None  # ai.provider says why


class StorageChecksOperator(PreflightOperator):
    """The places of files: staging, reports, legacy files, Storage."""

    area = "storage"

    def look(self, run: Run) -> Iterable[Result]:
        """See the base."""
        return run_checks(
            {
                "storage.staging": lambda: _place(staging_root()),
                "storage.reports": lambda: _place(report_root()),
                "storage.files": lambda: _files(run),
                "storage.bucket": lambda: _bucket(run),
            }
        )


def _place(root: ObjectStoragePath) -> Outcome:
    check_writable(root)
    if root.protocol not in ("file", ""):
        return passed(f"{root.protocol}:// can be written; its room is not known.")
    free = shutil.disk_usage(Path(root.path)).free
    return passed(f"It can be written; {readable_size(free)} are free.", free=free)


def _files(run: Run) -> Outcome:
    files = legacy_files()
    if files is None:
        return skipped(f"{URI} is not set: a run writes the manifest and copies nothing.")
    if not _files_wanted(run):
        return skipped("copy_files is off, or projects are not chosen.")
    files.source.check()
    try:
        with opened(SOURCE) as session:
            samples = session.ask(_SAMPLE_FILES)
    except MigrationError as error:
        return passed(
            f"The place can be read; which files should be there the source does not tell ({error.code})."
        )
    found = sum(_exists(files, *sample) for sample in samples)
    if samples and not found:
        return warned(
            f"The place can be read, but none of the files of the {len(samples)} newest projects is there.",
            f"Let {TEMPLATE} say where a project's file lies below {URI}; it may hold {PLACEHOLDERS}.",
        )
    return passed(
        f"The place can be read; {found} of the files of the {len(samples)} newest projects are there."
    )


def _exists(files: LegacyFiles, legacy_id: str, uid: str) -> bool:
    try:
        return files.source.stat(files.template.render(legacy_id, uid)) is not None
    except FileUnreadableError:
        return False


def _bucket(run: Run) -> Outcome:
    if not _files_wanted(run):
        return skipped("No file is to be copied.")
    with closing(StorageHook.from_connection(max_retries=0)) as storage:
        storage.check()
        present = storage.has_bucket(_BUCKET)
    return passed(
        f"Storage answers; bucket {_BUCKET} {'is private' if present else 'will be made, private'}."
    )


class AIChecksOperator(PreflightOperator):
    """The embedding provider."""

    area = "ai"

    def look(self, run: Run) -> Iterable[Result]:
        """See the base."""
        if not run.settings.enable_ai:
            return skip_area(self.area, "enable_ai is off.")
        return run_checks({"ai.provider": lambda: _answers(run), "ai.price": lambda: _price(run)})


def _answers(run: Run) -> Outcome:
    provider = choose_provider()
    about = f"{provider.name} {provider.model}, {provider.dimensions} dimensions"
    if provider.price not in (None, FREE) and not run.settings.ai_budget:
        return skipped(f"{about}: not asked, for ai_budget is 0.")
    provider.embed([_HARMLESS_TEXT])
    if not provider.semantic:
        return warned(
            f"{about}: its vectors mean nothing, they are for tests.",
            "Set MIGRATION_EMBEDDING_PROVIDER to openai or local.",
        )
    return passed(f"{about}: it answers.", dimensions=provider.dimensions)


def _price(run: Run) -> Outcome:
    provider = choose_provider()
    if provider.price is None:
        raise MigrationError("EMBEDDING_PRICE_UNKNOWN", "", model=provider.model)
    if provider.price == FREE:
        return passed("It costs nothing.")
    rate = provider.price.rate(batch=run.settings.ai_batch_api)
    return passed(f"{rate} US dollars per million tokens (as of {provider.price.as_of}).")


class EstimateChecksOperator(PreflightOperator):
    """Time, room and money, from what the steps before have counted."""

    area = "estimate"

    def look(self, run: Run) -> Iterable[Result]:
        """See the base."""
        rows, sizes = self.fact("source.rows", "rows"), self.fact("source.rows", "bytes")
        if not rows or sizes is None:
            return skip_area(self.area, "The rows of the source are not known.")
        return run_checks(
            {
                "estimate.time": lambda: self._time(run, rows),
                "estimate.staging": lambda: self._staging(run, sizes),
                "estimate.target": lambda: _growth(run, rows, sizes),
                "estimate.ai_cost": lambda: _ai_cost(run, rows),
            }
        )

    def _time(self, run: Run, rows: Mapping[str, int]) -> Outcome:
        rates = self.fact("target.reachable", "rates") or {}
        times = phase_times(chosen(run.settings), rows, rates, run.way)
        total = FIXED_SECONDS + sum(each.seconds for each in times)
        parts = ", ".join(f"{each.phase} {readable_seconds(each.seconds)}" for each in times)
        origin = "rates of the last complete run" if any(t.measured for t in times) else DEFAULTS_FROM
        return passed(
            f"About {readable_seconds(total)} without embeddings and files: {parts} ({origin}).",
            seconds={each.phase: round(each.seconds, 1) for each in times},
            total_seconds=round(total, 1),
            measured=[each.phase for each in times if each.measured],
        )

    def _staging(self, run: Run, sizes: Mapping[str, int]) -> Outcome:
        needed, free = (
            round(_ROOM * staged_bytes(chosen(run.settings), sizes)),
            self.fact("storage.staging", "free"),
        )
        if free is None:
            return passed(f"About {readable_size(needed)}; the free space is not known.", bytes=needed)
        if needed > free:
            return failed(
                f"About {readable_size(needed)} are needed, {readable_size(free)} are free.",
                f"Free {readable_size(needed - free)} there, or let MIGRATION_STAGING_URI name a larger place.",
                bytes=needed,
            )
        return passed(f"About {readable_size(needed)} of {readable_size(free)} free.", bytes=needed)


def _growth(run: Run, rows: Mapping[str, int], sizes: Mapping[str, int]) -> Outcome:
    entities, provider = chosen(run.settings), _provider(run)
    documents = documents_of(entities, run.settings.ai_entities, rows) if provider else 0
    grown = target_bytes(entities, sizes, documents, provider.dimensions if provider else 0)
    return passed(
        f"An empty target grows to about {readable_size(grown)}; see that its disk has room.", bytes=grown
    )


def _ai_cost(run: Run, rows: Mapping[str, int]) -> Outcome:
    provider = _provider(run)
    if provider is None or provider.price is None:
        return skipped("Nothing is to be embedded, or the provider or its price is not known.")
    documents = documents_of(chosen(run.settings), run.settings.ai_entities, rows)
    money = embedding_cost(documents, provider.price, batch=run.settings.ai_batch_api)
    told = f"At most {documents:,} texts, {money:.2f} US dollars; a dry run counts tokens."
    if money > Decimal(str(run.settings.ai_budget)):
        return warned(
            f"{told} ai_budget is {run.settings.ai_budget:g}: embedding stops before that is exceeded.",
            f"Set ai_budget to {money * 2:.0f}, or name fewer ai_entities.",
            documents=documents,
        )
    return passed(told, documents=documents)


class VerdictOperator(PreflightOperator):
    """All results as one table and one file; fails where a check failed."""

    area = "verdict"

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Returns the results that warn.

        Raises:
            MigrationError: PREFLIGHT_FAILED.
        """
        with run_log(**self._identity(context)), registered(self.phase, self.task_id):
            verdict = Verdict.over(self.earlier())
            failures = verdict.named(Status.FAIL)
            if "storage.reports" not in failures:
                folder = report_root() / run_folder(context["dag_run"].run_id)
                _write(folder, verdict)
                self.progress(f"report: {folder}")
            for status, line in verdict.table():
                LOG.log(_LEVELS[status], "[migration] %-16s %s", self.phase, line)
            self.progress(f"preflight: {verdict.headline}")
            if failures:
                raise MigrationError("PREFLIGHT_FAILED", f"Failed: {', '.join(failures)}.")
        return [result.to_json() for result in verdict.results if result.status is Status.WARN]


def _write(folder: ObjectStoragePath, verdict: Verdict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("preflight.json", json.dumps(verdict.to_json(), indent=2, default=str)),
        ("preflight.txt", verdict.to_text()),
    ):
        with (folder / name).open("wb") as sink:
            sink.write(text.encode())
