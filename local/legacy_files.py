"""Files for the projects of the synthetic source: binary STL, the same for the same project.

The source itself has no bytes. Its first projects get a file each, named by the project's uid; some of them, and all
the rest, stay without. One file is larger than what Storage takes in one request, one is empty, and the others are
small: what matters is how they travel. The rows are told the files' sizes, but for some, so that the difference shows.

``python -m local.legacy_files --dsn postgresql://… --folder FOLDER``
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psycopg

MOST_FILES = 300
"""However many projects there are: the demo is no test of a disk."""

_MISSING_EVERY, _MISSING_PLACE = 12, 2
_UNTOLD_EVERY = 60
_LARGE_BYTES = 8_000_000
_MOST_FACETS = 2_000
_HEADER_BYTES, _FACET = 80, np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])

Progress = Callable[[str], None]


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def fill(dsn: str, folder: Path, progress: Progress = _say) -> None:
    """Write files for the first projects of a source, and their sizes into its rows; what is there is left alone.

    Args:
        dsn: libpq connection string of a filled legacy source, for somebody who may write there.
        folder: made if absent, closed to other users.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with psycopg.connect(dsn) as connection:
        found = connection.execute(
            "SELECT id, uid::text FROM dispatch_project ORDER BY id LIMIT %s", [MOST_FILES]
        )
        sizes: dict[int, int] = {}
        for place, (key, uid) in enumerate(found.fetchall()):
            if place % _MISSING_EVERY == _MISSING_PLACE:
                continue
            file = folder / uid
            if not file.exists():
                file.write_bytes(b"" if place == 1 else stl(key, _facets(place, key)))
            sizes[key] = file.stat().st_size
        told = {key: size for place, (key, size) in enumerate(sizes.items()) if place % _UNTOLD_EVERY}
        connection.execute(
            "UPDATE dispatch_project p SET size = f.size FROM unnest(%s::bigint[], %s::bigint[]) AS f (id, size)"
            " WHERE p.id = f.id AND p.size <> f.size",
            [list(told), list(told.values())],
        )
    progress(f"files of {len(sizes)} projects ({sum(sizes.values()) / 1e6:.1f} MB) are in {folder}")


def _facets(place: int, seed: int) -> int:
    if place == 0:
        return _LARGE_BYTES // _FACET.itemsize
    return 1 + seed * 7919 % _MOST_FACETS


def stl(seed: int, facets: int) -> bytes:
    """A crumpled dome of so many facets as binary STL; the same for the same seed.

    Each facet is a normal and three corners (float32, millimetres), as the format wants it.
    """
    random = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * math.pi * math.sqrt(facets), facets + 2)
    height = np.linspace(0, 8, facets + 2)
    radius = 6 * np.cos(height / 8) + random.normal(0, 0.05, facets + 2)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)
    table = np.zeros(facets, _FACET)
    table["corners"] = np.stack([points[:-2], points[1:-1], points[2:]], axis=1)
    edges = np.diff(table["corners"], axis=1)
    normal = np.cross(edges[:, 0], edges[:, 1])
    table["normal"] = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    header = f"synthetic model {seed}".encode().ljust(_HEADER_BYTES)
    return header + facets.to_bytes(4, "little") + table.tobytes()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write files for the projects of a synthetic source.")
    parser.add_argument("--dsn", required=True, help="connection string of the source")
    parser.add_argument("--folder", required=True, type=Path, help="where the files go")
    arguments = parser.parse_args()
    fill(arguments.dsn, arguments.folder.absolute())


if __name__ == "__main__":
    main()
