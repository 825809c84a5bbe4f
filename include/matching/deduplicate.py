"""Finds people entered more than once: the entry points of matching.

:func:`learn` looks at a whole table once, :func:`compare` scores pairs under what was learnt, and :func:`decide`
says which records are one person's, with what people have decided before. A score is a pure function of two
rows and the model, so comparing only what changed gives the same answer as comparing everything.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include.core.errors import MigrationError
from include.matching.clustering import (
    LARGEST_GROUP,
    Links,
    average_linkage,
    connected_components,
    join_confirmed,
)
from include.matching.comparing import Job, run, run_shared
from include.matching.explaining import explanations
from include.matching.learning import learn_model
from include.matching.model import MATCHING_VERSION, MatchModel
from include.matching.people import People, encode, without_placeholders
from include.matching.scoring import Scored, Scorer, clashes, vetoes
from include.matching.settings import COMPARED, DEFAULTS, MatchSettings
from include.matching.survivorship import choose_survivors
from include.matching.texts import BoolArray, FloatArray, IntArray

__all__ = [
    "COMPARED",
    "DECISIONS_SCHEMA",
    "DEFAULTS",
    "MATCHING_VERSION",
    "PAIRS_SCHEMA",
    "SCORED_SCHEMA",
    "SURVIVORS_SCHEMA",
    "MatchModel",
    "MatchResult",
    "MatchSettings",
    "compare",
    "decide",
    "deduplicate",
    "learn",
]

log = logging.getLogger(__name__)

AUTO_MERGED, PENDING, CONFIRMED, REJECTED = "auto_merged", "pending", "confirmed", "rejected"

_IDS = [("left_id", pa.string()), ("right_id", pa.string())]
SCORED_SCHEMA = pa.schema([*_IDS, ("score", pa.float64()), ("explanation", pa.string())])
PAIRS_SCHEMA = SCORED_SCHEMA.append(pa.field("decision", pa.string()))
DECISIONS_SCHEMA = pa.schema([*_IDS, ("decision", pa.string())])
CONTRADICTIONS_SCHEMA = pa.schema(_IDS)
SURVIVORS_SCHEMA = pa.schema(
    [("legacy_id", pa.string()), ("survivor_id", pa.string()), ("score", pa.float64())]
)


@dataclass(frozen=True)
class MatchResult:
    """What deduplication found.

    Attributes:
        pairs: ``left_id``, ``right_id`` (left numerically lower), ``score``, ``explanation`` (JSON), and
            ``decision``: confirmed or rejected as a person decided, auto_merged if both ended in one cluster,
            else pending. Ordered by the ids as numbers.
        survivors: ``legacy_id`` of each merged record, the ``survivor_id`` it is merged into (never itself
            merged), and the ``score`` of these two. Ordered by the merged id.
        contradictions: ``left_id``, ``right_id`` of confirmed pairs that could not be applied, since that would
            put a rejected pair into one cluster.
    """

    pairs: pa.Table
    survivors: pa.Table
    contradictions: pa.Table


def learn(people: pa.Table, settings: MatchSettings = DEFAULTS) -> MatchModel:
    """Learns from all people of a table how matches and strangers look.

    Args:
        people: text columns COMPARED, or other evidence the settings name; a missing one counts as all NULL.
        settings: what to compare.

    Raises:
        MigrationError: TRANSFORM_FAILED if the ids are no distinct integers.
    """
    return learn_model(encode(people, settings.evidence), settings)


def compare(
    people: pa.Table,
    model: MatchModel,
    settings: MatchSettings = DEFAULTS,
    share: tuple[int, int] = (0, 1),
    changed: pa.Array | None = None,
) -> pa.Table:
    """Scores the candidate pairs of a table.

    Args:
        people: as for :func:`learn`.
        model: what was learnt, from these or from earlier rows.
        settings: what to compare, and the lowest score to report (``review_at``).
        share: (k, n), the k-th (from 0) of n shares of about equal work: disjoint, and together complete.
        changed: legacy ids; only pairs with at least one of them.

    Returns:
        ``left_id``, ``right_id`` (numerically lower first), ``score``, ``explanation``; ordered by the ids.

    Raises:
        MigrationError: TRANSFORM_FAILED if the ids are no distinct integers; PARAM_INVALID for a share that is
            none; MATCH_MODEL_OUTDATED if the model was learnt from other evidence.
    """
    if not 0 <= share[0] < share[1]:
        raise MigrationError("PARAM_INVALID", "A share needs a number from 0 below the number of shares.")
    encoded = _encoded(people, model, settings)
    marked = None if changed is None else _marked(encoded, changed)
    scored = _compared(encoded, model, settings, share, marked)
    return _scored_table(Scorer(encoded, model), scored)


def decide(
    people: pa.Table,
    model: MatchModel,
    settings: MatchSettings,
    pairs: pa.Table,
    decisions: pa.Table | None = None,
) -> MatchResult:
    """Decides which records are one person's.

    Pairs from ``merge_at`` on without a veto are joined, and pairs a person confirmed whatever their score;
    rejected pairs never end in one cluster.

    Args:
        people: as for :func:`learn`.
        model: what the pairs were compared under.
        settings: the thresholds.
        pairs: what :func:`compare` returned, of all shares and of earlier runs; pairs of unknown ids are left out.
        decisions: ``left_id``, ``right_id``, ``decision`` (confirmed or rejected); None for no decisions.

    Raises:
        MigrationError: as :func:`compare`.
    """
    encoded = _encoded(people, model, settings)
    scorer = Scorer(encoded, model)
    pairs, left, right = _known(encoded, pairs.select(SCORED_SCHEMA.names))
    decided = _Decided.of(encoded, decisions)
    clusters, refused = _clusters(scorer, settings, _sure(pairs, settings, left, right), decided)
    survivors = _survivors_table(scorer, clusters)
    contradictions = pa.Table.from_arrays(
        [pa.array(encoded.legacy_id[ids].tolist(), pa.string()) for ids in refused],
        schema=CONTRADICTIONS_SCHEMA,
    )
    return MatchResult(
        _decided_pairs(scorer, pairs, np.stack([left, right]), decided, clusters), survivors, contradictions
    )


def deduplicate(
    people: pa.Table, settings: MatchSettings = DEFAULTS, decisions: pa.Table | None = None
) -> MatchResult:
    """Learns, compares and decides in a row.

    Args:
        people: as for :func:`learn`.
        settings: thresholds and what to compare.
        decisions: as for :func:`decide`.

    Raises:
        MigrationError: TRANSFORM_FAILED if the ids are no distinct integers.
    """
    encoded = encode(people, settings.evidence)
    model = learn_model(encoded, settings)
    encoded = without_placeholders(encoded, model.placeholders)
    scored = _compared(encoded, model, settings, (0, 1), None)
    pairs = _scored_table(Scorer(encoded, model), scored)
    result = decide(people, model, settings, pairs, decisions)
    log.info("deduplication: %d pairs, %d records merged", result.pairs.num_rows, result.survivors.num_rows)
    return result


@dataclass(frozen=True)
class _Decided:
    """People's decisions on pairs of known people, left before right, as positions."""

    confirmed: IntArray  # two rows: left and right
    rejected: IntArray

    @classmethod
    def of(cls, people: People, decisions: pa.Table | None) -> _Decided:
        if decisions is None:
            return cls(np.zeros((2, 0), np.int64), np.zeros((2, 0), np.int64))
        table, left, right = _known(people, decisions)
        ends = np.stack([np.minimum(left, right), np.maximum(left, right)])
        said = table.column("decision").to_pandas().to_numpy(object)
        if not np.isin(said, (CONFIRMED, REJECTED)).all():
            raise MigrationError("PARAM_INVALID", "A decision on a pair is confirmed or rejected.")
        rejected = np.unique(ends[:, said == REJECTED], axis=1)
        confirmed = np.unique(ends[:, said == CONFIRMED], axis=1)
        size = max(len(people), 1)
        both = np.isin(confirmed[0] * size + confirmed[1], rejected[0] * size + rejected[1])
        return cls(confirmed[:, ~both] if both.any() else confirmed, rejected)


def _encoded(people: pa.Table, model: MatchModel, settings: MatchSettings) -> People:
    if model.evidence != settings.evidence:
        raise MigrationError("MATCH_MODEL_OUTDATED", "The model was learnt from other columns.")
    return without_placeholders(encode(people, settings.evidence), model.placeholders)


def _marked(people: People, changed: pa.Array) -> BoolArray:
    ids = pa.array(people.legacy_id.tolist(), pa.string())
    return np.asarray(pc.is_in(ids, value_set=changed.cast(pa.string())).to_numpy(zero_copy_only=False))


def _compared(
    people: People,
    model: MatchModel,
    settings: MatchSettings,
    share: tuple[int, int],
    changed: BoolArray | None,
) -> Scored:
    job = Job(people, model, settings.review_at, share, changed)
    small = len(people) < settings.parallel_from or settings.workers == 1
    scored = run(job) if small else run_shared(job, settings.workers)
    return scored.take(np.lexsort((scored.pairs.right, scored.pairs.left)))


def _scored_table(scorer: Scorer, scored: Scored) -> pa.Table:
    ids = scorer.people.legacy_id
    columns = [
        pa.array(ids[scored.pairs.left].tolist(), pa.string()),
        pa.array(ids[scored.pairs.right].tolist(), pa.string()),
        pa.array(scored.score, pa.float64()),
        pa.array(explanations(scorer, scored), pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=SCORED_SCHEMA)


def _known(people: People, pairs: pa.Table) -> tuple[pa.Table, IntArray, IntArray]:
    """The pairs of which both people are there, and their positions."""
    ids = pa.array(people.legacy_id.tolist(), pa.string())
    places = [pc.index_in(pairs.column(name), value_set=ids) for name in ("left_id", "right_id")]
    both = pc.and_(pc.is_valid(places[0]), pc.is_valid(places[1]))
    left, right = (np.asarray(place.filter(both).to_numpy(), dtype=np.int64) for place in places)
    return pairs.filter(both), left, right


def _sure(pairs: pa.Table, settings: MatchSettings, left: IntArray, right: IntArray) -> IntArray:
    high = pairs.column("score").to_numpy() >= settings.merge_at
    return np.stack([left[high], right[high]])


def _clusters(
    scorer: Scorer, settings: MatchSettings, likely: IntArray, decided: _Decided
) -> tuple[IntArray, IntArray]:
    """Labels of clusters, and the confirmed pairs that could not be applied."""
    size = len(scorer.people)
    likely = likely[:, _mergeable(scorer, settings, scorer.compare(*likely))]
    refused = join_confirmed(
        size,
        list(zip(*decided.confirmed.tolist(), strict=True)),
        list(zip(*decided.rejected.tolist(), strict=True)),
    )
    applied = np.delete(decided.confirmed, refused, axis=1)
    said = connected_components(size, *applied)
    ends = np.concatenate([likely, applied], axis=1)
    groups = connected_components(size, *ends)
    clusters = said.copy()
    _labels, counts = np.unique(groups, return_counts=True)
    order = np.argsort(groups, kind="stable")
    starts = np.append(0, np.cumsum(counts))
    barred = _both_ways(decided.rejected)
    chosen = np.flatnonzero((counts > 1) & (counts <= LARGEST_GROUP)).tolist()
    for several in _some_at_a_time(chosen, counts):
        members = [order[starts[n] : starts[n + 1]] for n in several]
        for people, links in zip(members, _links(scorer, settings, members, barred), strict=True):
            joined = average_linkage(links, said[people])
            for label in np.unique(joined):
                clusters[people[joined == label]] = people[joined == label].min()
    return clusters, decided.confirmed[:, refused]


_PAIRS_AT_A_TIME = 500_000


def _some_at_a_time(chosen: list[int], counts: IntArray) -> list[list[int]]:
    """Cuts groups into lots of bounded numbers of pairs."""
    lots: list[list[int]] = []
    pairs = _PAIRS_AT_A_TIME
    for number in chosen:
        more = int(counts[number]) ** 2 // 2
        if not lots or pairs + more > _PAIRS_AT_A_TIME:
            lots.append([])
            pairs = 0
        lots[-1].append(number)
        pairs += more
    return lots


def _links(
    scorer: Scorer, settings: MatchSettings, groups: list[IntArray], barred: set[tuple[int, int]]
) -> list[Links]:
    """Compares all pairs within each group."""
    ends = [np.triu_indices(len(people), 1) for people in groups]
    left = np.concatenate([people[one] for people, (one, _) in zip(groups, ends, strict=True)])
    right = np.concatenate([people[other] for people, (_, other) in zip(groups, ends, strict=True)])
    scored = scorer.compare(left, right)
    sure = _mergeable(scorer, settings, scored)
    clash = clashes(scored.pairs)
    if barred:
        clash |= np.array(
            [pair in barred for pair in zip(left.tolist(), right.tolist(), strict=True)], dtype=bool
        )
    found, start = [], 0
    for people, (one, other) in zip(groups, ends, strict=True):
        stop = start + len(one)
        matrices = [
            _square(len(people), one, other, values[start:stop]) for values in (scored.score, sure, clash)
        ]
        found.append(Links(matrices[0], matrices[1] > 0, matrices[2] > 0))
        start = stop
    return found


def _square(size: int, one: IntArray, other: IntArray, values: FloatArray | BoolArray) -> FloatArray:
    square = np.zeros((size, size))
    square[one, other] = square[other, one] = values
    return square


def _mergeable(scorer: Scorer, settings: MatchSettings, scored: Scored) -> BoolArray:
    allowed: BoolArray = scored.score >= settings.merge_at
    for forbidden in vetoes(scorer, scored).values():
        allowed &= ~forbidden
    return allowed


def _both_ways(pairs: IntArray) -> set[tuple[int, int]]:
    left, right = pairs.tolist()
    return set(zip(left, right, strict=True)) | set(zip(right, left, strict=True))


def _decided_pairs(
    scorer: Scorer, pairs: pa.Table, ends: IntArray, decided: _Decided, clusters: IntArray
) -> pa.Table:
    left, right = ends
    size = max(len(scorer.people), 1)
    said = np.concatenate([decided.confirmed, decided.rejected], axis=1)
    unseen = ~np.isin(said[0] * size + said[1], left * size + right)
    more = scorer.compare(said[0][unseen], said[1][unseen])
    left, right = np.append(left, more.pairs.left), np.append(right, more.pairs.right)
    pairs = pa.concat_tables([pairs, _scored_table(scorer, more)])
    key = left * size + right
    together = clusters[left] == clusters[right]
    decision = np.where(together, AUTO_MERGED, PENDING).astype(object)
    for (one, other), word in ((decided.confirmed, CONFIRMED), (decided.rejected, REJECTED)):
        decision[np.isin(key, one * size + other)] = word
    table = pairs.append_column("decision", pa.array(decision.tolist(), pa.string()))
    return table.take(pa.array(np.lexsort((right, left)))).cast(PAIRS_SCHEMA)


def _survivors_table(scorer: Scorer, clusters: IntArray) -> pa.Table:
    survivor = choose_survivors(scorer.people, clusters)
    merged = np.flatnonzero(survivor != np.arange(len(survivor)))
    kept = survivor[merged]
    link = scorer.compare(np.minimum(merged, kept), np.maximum(merged, kept))
    ids = scorer.people.legacy_id
    columns = [
        pa.array(ids[merged].tolist(), pa.string()),
        pa.array(ids[kept].tolist(), pa.string()),
        pa.array(link.score, pa.float64()),
    ]
    return pa.Table.from_arrays(columns, schema=SURVIVORS_SCHEMA)
