"""How alike two texts are spelt.

Edit distances are computed with rapidfuzz, for each distinct pair of texts once, and only where a bound on the
letters they share leaves a chance.
"""

from __future__ import annotations

import numpy as np
from rapidfuzz.distance import OSA, JaroWinkler, Prefix
from rapidfuzz.process import cpdist

from include.matching.levels import TextLevel
from include.matching.texts import BoolArray, CodeArray, IntArray, Texts

ALIKE_FROM = 0.80  # Jaro-Winkler similarity (Winkler 1990)
SIMILAR_FROM = 0.88
_SHORTEST_WITH_SLIP = 3  # the longer of the two: one letter of two is half a name
_SHORTEST_PART = 3


def possibly_alike(texts: Texts, left: CodeArray, right: CodeArray) -> BoolArray:
    """Whether two different texts can be at any level above DIFFERENT; never wrong in saying no."""
    one, other = texts.letters[left], texts.letters[right]
    length, length_other = texts.length[left], texts.length[right]
    shared = np.minimum(
        length - np.bitwise_count(one & ~other), length_other - np.bitwise_count(other & ~one)
    ).astype(np.float32)
    same_head = texts.head[left] == texts.head[right]
    with np.errstate(divide="ignore", invalid="ignore"):
        jaro = (shared / length + shared / length_other + np.float32(1)) / np.float32(3)
    # Winkler's bonus: up to four common letters at the beginning, a tenth of the rest each.
    best = np.where(same_head, jaro + (1 - jaro) * np.float32(0.4), jaro)
    alike: BoolArray = (best >= ALIKE_FROM - 1e-6) & (shared > 0)
    alike |= same_head & (((one & ~other) == 0) | ((other & ~one) == 0))
    alike |= (texts.several[left] | texts.several[right]) & (((one & ~other) == 0) | ((other & ~one) == 0))
    alike |= (texts.root[left] == texts.root[right]) & (texts.root[left] > 0)
    alike |= (texts.sound[left] == texts.sound[right]) & (texts.sound[left] > 0)
    alike |= (texts.loose[left] == texts.loose[right]) & (texts.loose[left] > 0)
    return alike


def spelling_levels(texts: Texts, left: CodeArray, right: CodeArray, *, of_people: bool) -> IntArray:
    """The level of each pair of different texts, both there; ``of_people`` allows initials and nicknames."""
    paired = left.astype(np.int64) * len(texts) + right
    distinct, position = np.unique(paired, return_inverse=True)
    level = _levels(texts, distinct // len(texts), distinct % len(texts), of_people)
    of_pair: IntArray = level[position.reshape(-1)]
    return of_pair


def _levels(texts: Texts, left: IntArray, right: IntArray, of_people: bool) -> IntArray:
    one, other = texts.compact[left], texts.compact[right]
    likeness = cpdist(one, other, scorer=JaroWinkler.similarity, dtype=np.float32)
    shorter = np.minimum(texts.length[left], texts.length[right])
    level = np.full(len(left), int(TextLevel.DIFFERENT), dtype=np.int64)
    level[likeness >= ALIKE_FROM] = TextLevel.ALIKE
    sound = (texts.sound[left] == texts.sound[right]) & (texts.sound[left] > 0)
    level[(likeness >= SIMILAR_FROM) | (sound & (shorter >= _SHORTEST_PART))] = TextLevel.SIMILAR
    if of_people:
        level[(texts.root[left] == texts.root[right]) & (texts.root[left] > 0)] = TextLevel.NICKNAME
        level[_is_part(texts, left, right, shorter)] = TextLevel.PART
    slips = cpdist(one, other, scorer=OSA.distance, score_cutoff=1, dtype=np.int32)
    loose = (texts.loose[left] == texts.loose[right]) & (texts.loose[left] > 0)
    longer = np.maximum(texts.length[left], texts.length[right])
    level[((slips == 1) | loose) & (longer >= _SHORTEST_WITH_SLIP)] = TextLevel.NEAR
    if of_people:
        initial = texts.initial[left] | texts.initial[right]
        same_head = texts.head[left] == texts.head[right]
        level[initial] = np.where(same_head, TextLevel.INITIAL, TextLevel.DIFFERENT)[initial]
        # Numbered names (Test1, Test2) are told apart by their numbers.
        level[texts.numbered[left] & texts.numbered[right]] = TextLevel.DIFFERENT
    return level


def _is_part(texts: Texts, left: IntArray, right: IntArray, shorter: IntArray) -> BoolArray:
    one, other = texts.compact[left], texts.compact[right]
    part: BoolArray = cpdist(one, other, scorer=Prefix.similarity, dtype=np.int32) == shorter
    part &= shorter >= _SHORTEST_PART
    for place in np.flatnonzero(texts.several[left] | texts.several[right]):
        words, others = set(texts.key[left[place]].split()), set(texts.key[right[place]].split())
        part[place] |= words <= others or others <= words
    return part
