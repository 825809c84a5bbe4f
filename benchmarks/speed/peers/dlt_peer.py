"""dlt: the joined rows as Arrow tables into a landing table, appended or upserted by key.

python dlt_peer.py SOURCE TARGET append|merge
"""

import json
import resource
import sys
import time

import dlt
from dlt.sources.sql_database import sql_table

VIEW, KEY = "patient_join", "id"


def main() -> None:
    source, target, disposition = sys.argv[1:]
    begun, before = time.monotonic(), time.process_time()
    pipeline = dlt.pipeline(
        pipeline_name=f"patients_{disposition}",
        destination=dlt.destinations.postgres(target),
        dataset_name="landing",
    )
    rows = sql_table(
        credentials=source.replace("postgresql://", "postgresql+psycopg2://"),
        table=VIEW,
        backend="pyarrow",
        chunk_size=25_000,
    )
    how = {"disposition": "merge", "strategy": "upsert"} if disposition == "merge" else disposition
    pipeline.run(rows, write_disposition=how, primary_key=KEY, loader_file_format="csv")
    seconds = time.monotonic() - begun
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(  # noqa: T201 - what the benchmark reads
        json.dumps(
            {
                "seconds": seconds,
                "cpu_seconds": time.process_time() - before,
                "peak_mb": usage.ru_maxrss / 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
