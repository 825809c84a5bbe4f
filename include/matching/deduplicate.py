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
from include.matching.comparing import Job, Told, run, run_shared
from include.matching.deciding import Decided, cluster
from include.matching.explaining import explanations
from include.matching.learning import learn_model
from include.matching.model import MATCHING_VERSION, MatchModel
from include.matching.people import People, encode, without_placeholders
from include.matching.scoring import Scored, Scorer
from include.matching.settings import COMPARED, DEFAULTS, MatchSettings
from include.matching.survivorship import choose_survivors
from include.matching.texts import BoolArray, IntArray

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
    *,
    told: Told | None = None,
) -> pa.Table:
    """Scores the candidate pairs of a table.

    Args:
        people: as for :func:`learn`.
        model: what was learnt, from these or from earlier rows.
        settings: what to compare, and the lowest score to report (``review_at``).
        share: (k, n), the k-th (from 0) of n shares of about equal work: disjoint, and together complete.
        changed: legacy ids; only pairs with at least one of them.
        told: how many pairs were compared, now and then.

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
    scored = _compared(encoded, model, settings, share, marked, told=told)
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
    return _decide(Scorer(_encoded(people, model, settings), model), settings, pairs, decisions)


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
    scorer = Scorer(encoded, model)
    pairs = _scored_table(scorer, scored)
    result = _decide(scorer, settings, pairs, decisions)
    log.info("deduplication: %d pairs, %d records merged", result.pairs.num_rows, result.survivors.num_rows)
    return result


def _decide(
    scorer: Scorer, settings: MatchSettings, pairs: pa.Table, decisions: pa.Table | None
) -> MatchResult:
    people = scorer.people
    pairs, left, right = _known(people, pairs.select(SCORED_SCHEMA.names))
    decided = _said(people, decisions)
    high = pairs.column("score").to_numpy() >= settings.merge_at
    clusters, refused = cluster(scorer, settings.merge_at, np.stack([left[high], right[high]]), decided)
    contradictions = pa.Table.from_arrays(
        [pa.array(people.legacy_id[ids].tolist(), pa.string()) for ids in refused],
        schema=CONTRADICTIONS_SCHEMA,
    )
    return MatchResult(
        pairs=_decided_pairs(scorer, pairs, np.stack([left, right]), decided, clusters),
        survivors=_survivors_table(scorer, clusters),
        contradictions=contradictions,
    )


def _said(people: People, decisions: pa.Table | None) -> Decided:
    """People's decisions on pairs of known people; a pair confirmed and rejected is rejected."""
    table, left, right = _known(people, DECISIONS_SCHEMA.empty_table() if decisions is None else decisions)
    ends = np.stack([np.minimum(left, right), np.maximum(left, right)])
    words = table.column("decision").to_pandas().to_numpy(object)
    if not np.isin(words, (CONFIRMED, REJECTED)).all():
        raise MigrationError("PARAM_INVALID", "A decision on a pair is confirmed or rejected.")
    rejected = np.unique(ends[:, words == REJECTED], axis=1)
    confirmed = np.unique(ends[:, words == CONFIRMED], axis=1)
    size = max(len(people), 1)
    kept = ~np.isin(confirmed[0] * size + confirmed[1], rejected[0] * size + rejected[1])
    return Decided(confirmed[:, kept], rejected)


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
    *,
    told: Told | None = None,
) -> Scored:
    job = Job(people, model, settings.review_at, share, changed)
    small = len(people) < settings.parallel_from or settings.workers == 1
    scored = run(job, told) if small else run_shared(job, settings.workers, told)
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


def _decided_pairs(
    scorer: Scorer, pairs: pa.Table, ends: IntArray, decided: Decided, clusters: IntArray
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
