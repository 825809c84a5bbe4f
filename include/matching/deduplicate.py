"""Finds people entered more than once: the one entry point of matching.

Careful by design: an automatic merge needs the same full name (but for slips), the same birth date and no
clash of sex; everything else that looks alike is left to a person's decision.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from include.core.errors import MigrationError
from include.matching.blocking import PassCounts, blocking_passes, candidate_pairs, pairs_in_blocks
from include.matching.clustering import cluster_codes, connected_components
from include.matching.comparison import Comparison, compare_codes, concatenate, resolve
from include.matching.normalise import BoolArray, DateRules, IntArray, People, encode
from include.matching.scoring import FloatArray, clashes, explanations, mergeable, score
from include.matching.survivorship import choose_survivors

log = logging.getLogger(__name__)

AUTO_MERGED, PENDING = "auto_merged", "pending"

PAIRS_SCHEMA = pa.schema(
    [
        ("left_id", pa.string()),
        ("right_id", pa.string()),
        ("score", pa.float64()),
        ("explanation", pa.string()),
        ("decision", pa.string()),
    ]
)
SURVIVORS_SCHEMA = pa.schema(
    [("legacy_id", pa.string()), ("survivor_id", pa.string()), ("score", pa.float64())]
)


@dataclass(frozen=True)
class MatchSettings:
    """How careful matching is.

    Attributes:
        merge_at: lowest score (0 to 1) of an automatic merge; the vetoes hold whatever the score.
        review_at: lowest score of a pair that is reported at all.
        max_block: most people that one blocking key, or one cluster, may hold.
        crowded_email: an address of more differently named people than this is evidence of nothing.
        dates: when a birth date counts as missing.

    Raises:
        MigrationError: PARAM_INVALID for values outside their limits.
    """

    merge_at: float = 0.99
    review_at: float = 0.80
    max_block: int = 200
    crowded_email: int = 8
    dates: DateRules = field(default_factory=DateRules)

    def __post_init__(self) -> None:
        if not 0 <= self.review_at <= self.merge_at <= 1:
            raise MigrationError("PARAM_INVALID", "Matching needs 0 <= review_at <= merge_at <= 1.")
        if self.max_block < 2:  # noqa: PLR2004
            raise MigrationError("PARAM_INVALID", "Matching needs a max_block of at least 2.")


DEFAULTS = MatchSettings()


@dataclass(frozen=True)
class MatchResult:
    """What deduplication found.

    Attributes:
        pairs: ``left_id``, ``right_id`` (left numerically lower), ``score``, ``explanation`` (JSON), and
            ``decision``: auto_merged if both ended in one cluster, else pending. Ordered by the ids.
        survivors: ``legacy_id`` of each merged record, the ``survivor_id`` it is merged into (never itself
            merged), and the ``score`` of these two. Ordered by the merged id.
        blocking: what each blocking pass found and left out.
    """

    pairs: pa.Table
    survivors: pa.Table
    blocking: tuple[PassCounts, ...] = ()


def deduplicate(people: pa.Table, settings: MatchSettings = DEFAULTS) -> MatchResult:
    """Compares all people of a table and decides which records are one person's.

    The answer does not depend on the order of the rows. The survivors alone hold nothing more to merge, unless
    a block or cluster that was too large becomes small enough without the merged records.

    Args:
        people: text columns ``legacy_id`` (distinct integers), ``first_name``, ``last_name``,
            ``date_of_birth`` (ISO), ``gender`` (male, female, other), ``email`` and ``updated_at`` (timestamp
            with time zone as PostgreSQL prints it); all but the id may be NULL.
        settings: thresholds and bounds.

    Raises:
        MigrationError: TRANSFORM_FAILED if a column is missing or the ids are not distinct integers.
    """
    encoded = encode(people, settings.dates, settings.crowded_email)
    passes = blocking_passes(encoded, settings.max_block)
    compared = [_alike(encoded, left, right, settings.review_at) for left, right in candidate_pairs(passes)]
    pairs = concatenate([_no_pairs(encoded), *compared])
    pairs = pairs.take(np.lexsort((pairs.right, pairs.left)))
    scores = score(pairs)
    sure = mergeable(pairs, scores, settings.merge_at)
    clusters, given_up = _clusters(encoded, pairs.left[sure], pairs.right[sure], settings.max_block)
    result = MatchResult(
        pairs=_pairs_table(encoded, pairs, scores, clusters, sure & given_up[pairs.left]),
        survivors=_survivors_table(encoded, clusters),
        blocking=tuple(blocking.counts for blocking in passes),
    )
    _log_counts(result)
    return result


def _no_pairs(people: People) -> Comparison:
    nobody = np.zeros(0, dtype=np.int64)
    return compare_codes(people, nobody, nobody)


def _alike(people: People, left: IntArray, right: IntArray, lowest: float) -> Comparison:
    """Compares pairs and keeps those that reach the lowest score of interest."""
    pairs = compare_codes(people, left, right)
    # Most pairs cannot get there however alike the names are: their names are never compared as text.
    pairs = resolve(people, pairs.take(score(pairs) >= lowest))
    return pairs.take(score(pairs) >= lowest)


def _clusters(people: People, left: IntArray, right: IntArray, max_size: int) -> tuple[IntArray, BoolArray]:
    """Cluster codes (0: on its own) of people joined by sure pairs, and who is in a cluster given up.

    A cluster with two members who cannot be the same person, or too large to be checked, is given up as a
    whole: nothing says which of its pairs is the wrong one.
    """
    codes, unchecked = cluster_codes(connected_components(len(people), left, right), max_size)
    bad = [unchecked]
    for one, other in pairs_in_blocks(np.where(np.isin(codes, unchecked), 0, codes)):
        pairs = resolve(people, compare_codes(people, one, other))
        bad.append(codes[one[clashes(pairs)]])
    given_up = np.isin(codes, np.concatenate(bad))
    return np.where(given_up, 0, codes), given_up


def _pairs_table(
    people: People, pairs: Comparison, scores: FloatArray, clusters: IntArray, in_clash: BoolArray
) -> pa.Table:
    merged = (clusters[pairs.left] == clusters[pairs.right]) & (clusters[pairs.left] > 0)
    columns = [
        pa.array(people.legacy_id[pairs.left], pa.string()),
        pa.array(people.legacy_id[pairs.right], pa.string()),
        pa.array(scores, pa.float64()),
        pa.array(explanations(pairs, in_clash), pa.string()),
        pa.array(np.where(merged, AUTO_MERGED, PENDING).tolist(), pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=PAIRS_SCHEMA)


def _survivors_table(people: People, clusters: IntArray) -> pa.Table:
    survivor = choose_survivors(people, clusters)
    merged = np.flatnonzero(survivor != np.arange(len(people)))
    kept = survivor[merged]
    link = resolve(people, compare_codes(people, np.minimum(merged, kept), np.maximum(merged, kept)))
    columns = [
        pa.array(people.legacy_id[merged], pa.string()),
        pa.array(people.legacy_id[kept], pa.string()),
        pa.array(score(link), pa.float64()),
    ]
    return pa.Table.from_arrays(columns, schema=SURVIVORS_SCHEMA)


def _log_counts(result: MatchResult) -> None:
    log.info("deduplication: %d pairs, %d records merged", result.pairs.num_rows, result.survivors.num_rows)
    for counts in result.blocking:
        if counts.skipped_blocks:
            log.warning(
                "blocking by %s: %d keys shared by too many people were left out (%d people)",
                counts.name,
                counts.skipped_blocks,
                counts.skipped_people,
            )
