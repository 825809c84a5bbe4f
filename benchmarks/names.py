"""Names of the benchmarks' invented people: real ones in the order of how common they are, a long tail made up.

How often a name of a given rank occurs follows the law of Zipf and Mandelbrot, as names do in every register of
people: the commonest surname is borne by about one person in a hundred, and most surnames are rare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from include.synthetic.names import Culture, first_names, surnames

Ints = NDArray[np.int64]
Texts = NDArray[np.object_]


def _words(text: str) -> list[str]:
    return text.split()


_GERMAN_WOMEN = _words(
    """
    Ursula Karin Helga Sabine Ingrid Renate Monika Susanne Gisela Petra Birgit Andrea Anna Brigitte
    Claudia Erika Christa Elke Stefanie Gertrud Elisabeth Maria Angelika Heike Gabriele Kathrin Ilse
    Nicole Anja Barbara Hildegard Martina Ingeborg Gerda Marion Jutta Ute Hannelore Irmgard
    Christine Inge Christina Silvia Margarete Kerstin Marianne Edith Waltraud Sandra Julia Sonja
    Katharina Daniela Cornelia Rita Doris Eva Lieselotte Elfriede Ruth Tanja Anneliese Simone Regina
    Anke Carmen Melanie Bettina Ulrike Michaela Katja Jana Lena Laura Sarah Lisa Jessica Vanessa
    Nadine Yvonne Franziska Annette Dagmar Roswitha Käthe Bärbel Frieda Johanna Sophie Antje Silke
    Astrid Heidi Margot Lydia Nadja Verena Mareike Svenja
    """
)
_GERMAN_MEN = _words(
    """
    Peter Michael Thomas Andreas Wolfgang Klaus Jürgen Günter Stefan Christian Uwe Werner Horst
    Frank Dieter Manfred Gerhard Hans Bernd Thorsten Matthias Helmut Walter Heinz Martin Jörg Rolf
    Jens Sven Alexander Jan Rainer Holger Karl Dirk Joachim Ralf Carsten Herbert Oliver Wilhelm Kurt
    Markus Heinrich Paul Hermann Daniel Robert Marcel Siegfried Olaf Bernhard Lothar Volker Rüdiger
    Kai Norbert Harald Detlef Christoph Hartmut Erwin Rudolf Ernst Otto Sebastian Florian Tobias
    Philipp Lukas Felix Jonas Tim Marco Mario Gustav Fritz Georg Friedrich Johannes Franz Erich Egon
    Alfred Ulrich Eberhard Henning Björn Maik Ronny Steffen René Torsten Axel Armin Erhard Arno
    """
)
_GERMAN_SURNAMES = _words(
    """
    Müller Schmidt Schneider Fischer Meyer Weber Hofmann Wagner Becker Schulz Schäfer Koch Bauer
    Richter Klein Schröder Wolf Neumann Schwarz Schmitz Krüger Braun Zimmermann Schmitt Lange
    Hartmann Hofmeister Krause Werner Meier Schmid Lehmann Köhler Maier Herrmann König Walter Mayer
    Huber Kaiser Peters Fuchs Lang Scholz Möller Weiß Jung Hahn Keller Vogel Roth Schubert Frank
    Friedrich Günther Beck Berger Winkler Lorenz Baumann Franke Albrecht Schuster Simon Böhm Ludwig
    Winter Kraus Martin Schumacher Krämer Vogt Jäger Stein Groß Otto Sommer Haas Graf Heinrich
    Seidel Schreiber Ziegler Brandt Kuhn Schulte Dietrich Kühn Engel Pohl Horn Sauer Arnold Thomas
    Bergmann Busch Pfeiffer Voigt Götz Seifert Lindner Ernst Hübner Kramer Franz Beyer Wolff Peter
    Jansen Kern Barth Wenzel Hermann Ott Paul Riedel Wilhelm Hansen Nagel Grimm Lenz Ritter Bock
    Langer Kaufmann Mohr Förster Zimmer Haase Lutz Kruse Jahn Schumann Fiedler Thiel Hoppe Kraft
    Michel Marx Fritz Arndt Eckert Schütz Walther Petersen Berg Schindler Kunz Reuter Sander
    Schilling Reinhardt Frey Ebert Böttcher Thiele Gruber Schramm Hein Bayer Fröhlich Voß Herzog
    Hesse Maurer Rudolph Nowak Geiger Beckmann Kunze Seitz Stephan Büttner Bender Gärtner Bachmann
    Behrens Scherer Adam Stahl Steiner Kurz Dietz Brunner Witt Moser Fink Ullrich Kirchner Löffler
    Heinz Schultz Ulrich Reichert Schwab Breuer Gerlach Brinkmann Göbel
    """
)
_ENDINGS = {
    "english": _words(
        "son ton er ley field ford man well by ham wood stone land ner ridge brook worth ell ard ing"
    ),
    "german": _words(
        "mann er berg hofer meyer bach ler ner mayer dorf feld stein brand ke ling hardt wald ing sen el"
    ),
}
_ONSETS = _words("B Br D Dr F Fr G Gr H J K Kr L M N P Pr R S Sch St T Tr V W Z Bl Fl Gl Kl")
_VOWELS = _words("a e i o u ei ie au")
_MIDDLES = _words("l r n m s t ck nd rt ss ll tt nk st rm ld rb ngl sch ft")
_GIVEN_ENDINGS = {
    "women": _words("a ia ina ette elle ine e isa ana ora"),
    "men": _words("o us an en ert ald is on ik el"),
}


@dataclass(frozen=True)
class Names:
    """Names by rank, and the bounds between them on the line from 0 to 1 when each is as long as it is common."""

    texts: Texts
    bounds: NDArray[np.float64]

    @classmethod
    def of(cls, texts: Sequence[str], shift: float, slope: float) -> Names:
        """Names from the commonest to the rarest, the r-th as common as 1 / (r + shift) ** slope."""
        weights = 1.0 / (np.arange(1, len(texts) + 1) + shift) ** slope
        bounds = np.cumsum(weights) / weights.sum()
        return cls(np.array(texts, dtype=object), bounds)

    def draw(self, rng: np.random.Generator, count: int) -> Ints:
        """So many names, by their index."""
        return np.searchsorted(self.bounds, rng.random(count), side="right").clip(max=len(self.texts) - 1)

    def alike(self) -> Ints:
        """For each name the next one in the alphabet: Marie for Maria, as parents of twins like them."""
        order = np.argsort(self.texts)
        following = np.empty(len(order), dtype=np.int64)
        following[order] = np.roll(order, -1)
        return following


@dataclass(frozen=True)
class Vocabulary:
    """The names of one country; first names of men and women apart."""

    men: Names
    women: Names
    surnames: Names


@cache
def vocabulary(country: str, surname_count: int, first_name_count: int) -> Vocabulary:
    """Names of ``country`` ("english" or "german"), so many different ones: real ones first, then the made-up tail."""
    men, women, families = _real(country)
    return Vocabulary(
        Names.of(_filled(men, _given(_GIVEN_ENDINGS["men"]), first_name_count), 8.0, 1.15),
        Names.of(_filled(women, _given(_GIVEN_ENDINGS["women"]), first_name_count), 8.0, 1.15),
        Names.of(_filled(families, _family(_ENDINGS[country]), surname_count), 10.0, 1.0),
    )


def _real(country: str) -> tuple[list[str], list[str], list[str]]:
    if country == "german":
        return _GERMAN_MEN, _GERMAN_WOMEN, _GERMAN_SURNAMES
    given, families = first_names(), surnames()
    western = int(Culture.WESTERN)
    groups = ((given, 2 * western), (given, 2 * western + 1), (families, western))
    men, women, surname = (
        pool.names.slice(pool.offsets[group], pool.sizes[group]).to_pylist() for pool, group in groups
    )
    return men, women, surname


def _given(endings: Sequence[str]) -> list[str]:
    return [f"{o}{v}{m}{e}" for o in _ONSETS for v in _VOWELS[:5] for m in _MIDDLES for e in endings]


def _family(endings: Sequence[str]) -> list[str]:
    short = [f"{o}{v}{m}" for o in _ONSETS for v in _VOWELS for m in _MIDDLES]
    middle = [f"{v}{m}" for v in ("", *_VOWELS[:3]) for m in ("l", "r", "n", "g")[: 4 if v else 1]]
    return [
        f"{start}{mid if mid != 'l' else ''}{end}" for start in short for mid in middle for end in endings
    ]


def _filled(real: Sequence[str], invented: Sequence[str], count: int) -> list[str]:
    """The real names, then invented ones in an order of chance that is always the same."""
    order = np.random.default_rng(len(invented)).permutation(len(invented))
    names = dict.fromkeys(real)
    for position in order.tolist():
        if len(names) >= count:
            break
        names.setdefault(invented[position])
    return list(names)[:count]
