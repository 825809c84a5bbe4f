"""A client as it is often written: pandas with apply, then execute_values in batches.

python naive_client.py SOURCE TARGET ROWS-PER-BATCH ROWS
"""

import json
import resource
import sys
import time
import uuid

import pandas as pd
import psycopg2
from psycopg2.extras import execute_values

NAMESPACE = uuid.UUID("6f1d3f0e-5b5c-5c1e-9d3a-4d5744000001")
GENDERS = {1: "male", 2: "female"}
COLUMNS = (
    *("id", "legacy_patient_id", "profile_id", "practice_id", "primary_doctor_id", "patient_number"),
    *("first_name", "last_name", "email", "date_of_birth", "gender", "suffix", "status_code", "archived"),
    *("suspended", "submitted_at", "updated_at", "metadata"),
)


def key(entity: str, value: object) -> str | None:
    return None if pd.isna(value) else str(uuid.uuid5(NAMESPACE, f"{entity}:{int(value)}"))


def metadata(row: pd.Series) -> str:
    members = {"user_id": row.user_id, "doctor_id": row.doctor_id, "office_id": row.office_id, "sex": row.sex}
    return json.dumps({name: int(value) for name, value in members.items() if not pd.isna(value)})


def transformed(rows: pd.DataFrame, profiles: set[str], practices: set[str]) -> pd.DataFrame:
    made = pd.DataFrame()
    made["id"] = rows["id"].apply(lambda value: key("patients", value))
    made["legacy_patient_id"] = rows["id"]
    made["profile_id"] = rows["user_id"].apply(lambda value: key("profiles", value))
    made["practice_id"] = rows["office_id"].apply(lambda value: key("practices", value))
    made["primary_doctor_id"] = rows["doctor_id"].apply(lambda value: key("profiles", value))
    for column, known in (
        ("profile_id", profiles),
        ("practice_id", practices),
        ("primary_doctor_id", profiles),
    ):
        made[column] = made[column].apply(lambda value, known=known: value if value in known else None)
    made["patient_number"] = rows["id"].apply(lambda value: f"P{value:06d}")
    made["first_name"], made["last_name"] = rows["first_name"], rows["last_name"]
    made["email"] = rows["email"].apply(lambda text: text.strip().lower() if text and "@" in text else None)
    made["date_of_birth"] = rows["birthdate"]
    made["gender"] = rows["sex"].apply(GENDERS.get)
    made["suffix"], made["status_code"] = rows["suffix"], rows["status"]
    made["archived"], made["suspended"] = rows["archived"], rows["suspended"]
    made["submitted_at"], made["updated_at"] = rows["submitted_at"], rows["updated_at"]
    made["metadata"] = rows.apply(metadata, axis=1)
    return made[list(COLUMNS)]


def main() -> None:
    source, target, size, most = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    begun, before = time.monotonic(), time.process_time()
    with psycopg2.connect(source) as reader, psycopg2.connect(target) as writer:
        found = {}
        for entity in ("profiles", "practices"):
            with writer.cursor() as cursor:
                cursor.execute(f"SELECT id::text FROM public.{entity}")  # noqa: S608 - names of this file
                found[entity] = {row[0] for row in cursor.fetchall()}
        with reader.cursor("rows") as cursor:
            cursor.itersize = size
            cursor.execute("SELECT * FROM patient_join ORDER BY id LIMIT %s", (most,))
            while rows := cursor.fetchmany(size):
                names = [column.name for column in cursor.description]
                made = transformed(pd.DataFrame(rows, columns=names), found["profiles"], found["practices"])
                values = made.astype(object).where(made.notna(), None).itertuples(index=False, name=None)
                with writer.cursor() as into:
                    execute_values(
                        into,
                        f"INSERT INTO public.patients ({', '.join(COLUMNS)}) VALUES %s"  # noqa: S608
                        " ON CONFLICT (id) DO NOTHING",
                        list(values),
                        page_size=size,
                    )
                writer.commit()
    seconds = time.monotonic() - begun
    usage = resource.getrusage(resource.RUSAGE_SELF)
    report = {
        "seconds": seconds,
        "cpu_seconds": time.process_time() - before,
        "peak_mb": usage.ru_maxrss / 1024,
    }
    print(json.dumps(report))  # noqa: T201 - what the benchmark reads


if __name__ == "__main__":
    main()
