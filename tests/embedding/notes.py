"""A labelled corpus of dental notes: what is known of people is planted between words that must stay.

A note is a list of pieces; a planted piece is in braces in its template. What the words outside the braces are, stays.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

from include.embedding.identifying_patterns import cleaned


def _words(text: str) -> list[str]:
    return text.split()


FIRST_NAMES = _words(
    """
    Anna Emma Sophie Chloé Zoë Renée José Jürgen Björn Søren Åse Łukasz Ana Eva Max Leon Thomas Michael
    Sabine Heike François Begoña Íñigo Anne-Marie Karl-Heinz Jean-Luc Yuki Haruto Priya Rajesh Nattapong Olga
    Mehmet Aylin Fatma Liam Noah Mia Tom Li Jo Will Mark Rose Max Lena Erik Tina Ben Kim Marie Claire Pascal
    Pierre Lucía María Mateo Iñaki Giulia Paolo Юрий Ольга Rosa Bruno Felix Ida Kai Bo Nguyễn Thi Siobhán
    Maeve Dmitri Agnieszka Małgorzata Zsófia
    """
)
SURNAMES = _words(
    """
    Müller Meyer Schröder Weiß Groß Nuñez García Ibáñez O'Brien D'Angelo McDonald Smith Johnson Miller
    Andersen Sørensen Åkesson Jørgensen Kowalski Wiśniewska Novák Dvořáková Nguyen Tanaka Yamamoto Watanabe
    Sharma Iyer Schmidt-Rottluff García-Lorca Dupont Lefèvre Bélanger Papadopoulos Иванов Петрова Öztürk
    Yıldız Haddad Cohen Wu Ng Hernández Pérez Goethe Boehm Jaeger Vandenberghe Steinmeier Zahnert Kronenberg
    Bridgeman Rootham Dentler Feldmann Wachsmann Rossi Bianchi
    """
)
# A first name that is a word as well shows as a name only beside another sign.
_PLAIN_FIRST_NAMES = [name for name in FIRST_NAMES if name not in ("Will", "Mark", "Rose", "Li", "Jo", "Bo")]
_PLAIN_SURNAMES = [name for name in SURNAMES if name not in ("Weiß", "Groß")]
# Surnames that are words of notes.
TERMS_AS_NAMES = _words(
    """
    Crown Bridge Stark Brown Root Gold Stone Long White Black Green Bond Cross Gum Post Field Short Young
    Wood Pack Bone Hand Case Wise Day Best Hook Drill Rim
    """
)
NOUNS_AS_NAMES = _words("Zahn Krone Stein Kern Brücke Nagel Haken Backe Wurzel Kamm Eisen Feder")

_CLEAN = """
    Placed full porcelain crown on 14, shade A2, margins checked.
    Cementation of bridge 14-16 with glass ionomer; occlusion adjusted by 0.5 mm.
    Root canal treatment 36 finished, gutta percha, no pain on percussion.
    Patient complains of sensitivity to cold on the upper right, 3 weeks now.
    IPR 0.3 mm between 31 and 41, attachments on 13 and 23 only.
    Open bite with tongue thrust; crossbite on the right side, midline off by 2 mm.
    Will review in 2 weeks. May need extraction of the wisdom teeth 18, 28, 38, 48.
    Brown stain on the distal surface; scale and polish, oral hygiene instructions given.
    Gold inlay 46 lost, tooth prepared, temporary filling, BOP 20%.
    Long roots, short crowns, bone loss of 30 % in the upper front.
    Ibuprofen 400 mg, chlorhexidine 0.2 % mouthwash, amoxicillin 500 mg for 7 days.
    Wire 0.016x0.022 NiTi, chain from 3 to 3, class II elastics at night.
    Scan retaken: upper arch was distorted. Retainer fits, no rest needed.
    Post and core 21, ferrule 2 mm, etch and bond, best result with dark core.
    Green stick compound used for border moulding; white wax rim, stone model.
    Hand instruments only; the case is wise to keep short for the young child.
    Probing depths 3-2-3 and 4-2-3; gum recession of 1 mm at 41.
    Fractured cusp 26, hook of the denture bent, drill with a field of dry cotton.
    Starke Schmerzen an Zahn 36, Wurzel entzündet, Krone gelockert.
    Brücke 14-16 eingesetzt, Farbe weiß A1, Kontakte geprüft, Zahnstein entfernt.
    Der Zahn ist stark zerstört; lange Wurzel, kleiner Kern, Stift gesetzt.
    Schiene für die Nacht, Kontrolle in 2 Wochen, Haut und Zunge unauffällig.
    Füllung 25 mesial mit Komposit, Haken der Prothese gebogen, Backe geschwollen.
    Zahnfleisch blutet bei Sondierung, groß angelegte Kürettage, 0,125 mm Rest.
    Kamm schmal, Knochen dicht, Implantat 36 mit 35 Ncm, Feder aktiviert.
    Couronne posée sur 14, dent blanche, petite douleur au froid, gencive rouge.
    Pont de 14 à 16 scellé; racine longue, os dur, détartrage complet.
    Obturation de la 26, grande carie, pansement blanc, contrôle dans 2 semaines.
    Corona en 14, puente de 14 a 16, dolor fuerte al frío, encía roja.
    Limpieza, raíz larga, hueso blanco, férula nueva para la noche.
    Empaste en la muela 36 con resina, color A3, mordida cruzada a la izquierda.
    Crowding of the lower front teeth; align both arches and close spaces without extraction.
    Class II division 1, generalised mild gingivitis, bruxism, worn cusps, overjet 5 mm.
    Use 14 aligners, change every 10-12 days, stage 3 of 14; expected refinement 6 stages.
    Implant at 36; do not move. Level curve of Spee, keep canine guidance.
""".strip().split("\n")

_OWN = """
    {first} came for review of 14, crown fits well.
    {full} complains of pain at 36; {last}'s bridge is loose.
    Called {first}'s mother, will come next week for the scan.
    {LAST}, {FIRST}: extraction of 48, no complications.
    {initial} {last} wants whiter teeth; {last} {initial} informed about costs.
    {dob} born, healthy; seen {visit} for scaling.
    Letter sent to {email}, also {handle}, crown ordered.
    {last_ascii} and {last_expanded} are the same file, bridge 14-16 planned.
    Photos in folder {glued}, scan of {first_lower} repeated.
    {full_lower} rang, filling lost, tooth sensitive.
    Phone {phone}, file {number}, implant 36 stable.
    Herr {last} klagt über starke Schmerzen; {first}s Krone ist locker.
    Zahn 36 bei {full} gefüllt, geboren {dob}, Kontrolle am {visit}.
    {first} hat die Schiene verloren, {last}s Mutter rief an.
    Madame {last} souhaite une couronne; {first} est contente, née le {dob}.
    Paciente {full}, nacido el {dob}, corona en 14; {last} acude con dolor.
    La madre de {first} pide un puente nuevo.
    crown for {hidden}, shade A2; bridge for {wide} later.
    The scan of {cyrillic} shows caries, note by {broken}.
    Splint made. {first} {last} ({dob}) is happy with it.
    {spaced} needs a new retainer.
""".strip().split("\n")

_OTHER = """
    Referred by Dr. {last}, crown on 14 planned.
    Discussed with {first} {last}, extraction of 18 advised.
    {initial} {last} assisted; dry field, bond applied.
    Father ({first}) has the same crossbite.
    Seen together with {last_plain}, bone level stable.
    Überwiesen von Frau {last}, Zahn 36 stark zerstört.
    Herr {last} hat die Brücke geprüft; {first} assistierte.
    Adressé par le Dr {last}, couronne sur 14.
    Derivado por la Dra. {last}, corona en 14 y puente.
    {first_lower} from reception moved the scan to next week.
    Mrs {last} called about the bridge of her son.
    {last_plain_upper} CHECKED THE ROOT CANAL.
""".strip().split("\n")
# Only names that are words of notes, each with a sign that somebody is meant.
_SIGNED = """
    Dr. {term} placed a crown on 14.
    Seen by {term}, bridge 14-16 is stable.
    Discussed with {first} {term} before the root canal.
    {initial} {term} assisted, the stone model is broken.
    Mrs {term} called about the white filling.
    {term}'s scan is late, gold inlay ordered.
    Frau {noun} kam zur Kontrolle, Krone fest.
    Herr {noun} hat starke Schmerzen am Zahn 36.
    {first} {noun} braucht eine neue Brücke.
    Überwiesen von Dr. {noun}, Wurzel gefüllt.
""".strip().split("\n")
_SLOT = re.compile(r"\{(\w+)\}")
_SLOT_WITH_ENDING = re.compile(r"\{\w+\}(?:'?s\b)?")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Note:
    """A note, the words that must stay, and the identifiers of whom it is about.

    Attributes:
        kind: clean, own, other or signed.
    """

    kind: str
    text: str
    stays: Counter[str]
    own: list[str]


@dataclass(frozen=True)
class Person:
    first: str
    last: str
    dob: str
    email: str

    @property
    def identifiers(self) -> list[str]:
        """As the database knows them."""
        return [self.first, self.last, self.email, self.dob, f"{_plain(self.first)}{_plain(self.last)}7"]


def names() -> list[str]:
    """Words of names of everybody in the database."""
    return [*FIRST_NAMES, *SURNAMES, *TERMS_AS_NAMES, *NOUNS_AS_NAMES]


def notes(number: int, seed: int = 6) -> list[Note]:
    """The corpus: a fifth clean texts, half about their own people, the rest about others as well."""
    draw = random.Random(seed)
    return [_note(draw) for _ in range(number)]


def words(text: str) -> Counter[str]:
    """The words of a text that has no placeholders."""
    return Counter(_WORD.findall(re.sub(r"\[(?:name|date|number|e-mail|url)\]", " ", cleaned(text))))


def _note(draw: random.Random) -> Note:
    person = _person(draw, [*SURNAMES, *TERMS_AS_NAMES, *NOUNS_AS_NAMES] if draw.random() < 0.1 else SURNAMES)
    kind = draw.choices(("clean", "own", "other", "signed"), (4, 10, 4, 2))[0]
    templates = [draw.choice(_CLEAN) for _ in range(draw.randint(1, 3))]
    if kind != "clean":
        special = {"own": _OWN, "other": _OTHER, "signed": _SIGNED}[kind]
        templates.insert(draw.randint(0, len(templates)), draw.choice(special))
    who = person if kind in ("own", "clean") else _person(draw, _PLAIN_SURNAMES, _PLAIN_FIRST_NAMES)
    filled = [_filled(template.strip(), _planted(who, draw)) for template in templates]
    separator = draw.choice((" ", "\n"))
    stays = words(separator.join(_SLOT_WITH_ENDING.sub(" ", template) for template in templates).strip())
    return Note(kind, separator.join(filled), stays, person.identifiers)


def _filled(template: str, planted: dict[str, str]) -> str:
    return _SLOT.sub(lambda match: planted[match[1]], template)


def _person(draw: random.Random, surnames: list[str], first_names: list[str] = FIRST_NAMES) -> Person:
    first, last = draw.choice(first_names), draw.choice(surnames)
    dob = f"{draw.randint(1930, 2020)}-{draw.randint(1, 12):02}-{draw.randint(1, 28):02}"
    return Person(first, last, dob, f"{_plain(first)}.{_plain(last)}@example.com".lower())


_MONTHS = {
    "en": _words("January February March April May June July August September October November December"),
    "de": _words("Januar Februar März April Mai Juni Juli August September Oktober November Dezember"),
    "fr": _words("janvier février mars avril mai juin juillet août septembre octobre novembre décembre"),
    "es": _words("enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre"),
}
_EXPANDED = str.maketrans(
    {
        "ä": "ae",
        "ö": "oe",
        "ü": "ue",
        "Ä": "Ae",
        "Ö": "Oe",
        "Ü": "Ue",
        "ß": "ss",
        "ø": "oe",
        "Ø": "Oe",
        "Å": "Aa",
        "å": "aa",
    }
)
_UNDECOMPOSED = str.maketrans("łŁı", "lLi")
_LOOK_ALIKES = str.maketrans("aeopcyxAEOPCXTHKMB", "аеорсухАЕОРСХТНКМВ")


def dates(iso: str) -> list[str]:
    """A day in every usual notation."""
    year, month, day = iso.split("-")
    m, d = int(month), int(day)
    en, de, fr, es = (_MONTHS[language][m - 1] for language in ("en", "de", "fr", "es"))
    th = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd"}.get(d, "th")
    return [
        iso, f"{day}/{month}/{year}", f"{m}/{d}/{year[2:]}", f"{d}.{m}.{year}",
        f"{day}.{month}.{year[2:]}", f"{d} {en} {year}", f"{en} {d}{th} {year}", f"{en} {d}, {year}",
        f"{d}. {de} {year}", f"{d}. {de}", f"{year}{month}{day}", f"{d} {fr} {year}",
        f"{d} de {es} de {year}", f"{d}-{en[:3].upper()}-{year}", f"{year}/{month}/{day}",
        f"{day}-{month}-{year}", f"{d}. {m}. {year}", f"{d} {en[:3]} '{year[2:]}",
        f"{en[:3]}. {d}, {year}", f"{d}{th} of {en} {year}", f"{en} {year}", f"{iso}T08:30:00Z",
    ]  # fmt: skip


def _planted(person: Person, draw: random.Random) -> dict[str, str]:
    first, last = person.first, person.last
    full = draw.choice((f"{first} {last}", f"{last}, {first}", f"{first}  {last}", f"{first}\u00a0{last}"))
    middle = len(first) // 2
    term = draw.choice(TERMS_AS_NAMES)
    plain = draw.choice([name for name in _PLAIN_SURNAMES if len(name) > 2])
    return {
        "first": first, "last": last, "full": full, "FIRST": first.upper(), "LAST": last.upper(),
        "initial": f"{first[0]}.", "dob": draw.choice(dates(person.dob)),
        "visit": draw.choice(dates(f"2024-{draw.randint(1, 12):02}-{draw.randint(1, 28):02}")),
        "email": person.email, "handle": f"@{_plain(first)}_{_plain(last)}".lower(),
        "last_ascii": _plain(last), "last_expanded": last.translate(_EXPANDED),
        "glued": draw.choice(
            (f"{_plain(first)}{_plain(last)}", f"{_plain(last)}{_plain(first)}".lower(), f"{first}_{last}7")
        ),
        "first_lower": first.lower(), "full_lower": f"{first} {last}".lower(),
        "phone": draw.choice(("+49 171 234 56 78", "(030) 123 4567", "06 12 34 56 78", "555-123-4567", "0171/2345678")),
        "number": str(draw.randint(1000, 10**9)), "hidden": "\u200b".join(first) + " " + "\u00ad".join(last),
        "wide": "".join(chr(ord(c) + 0xFEE0) if c.isascii() and c.isalpha() else c for c in first),
        "cyrillic": f"{first} {last}".translate(_LOOK_ALIKES),
        "broken": f"{first[:middle]}-\n{first[middle:].lower()}" if len(first) > 3 and "-" not in first else first,
        "spaced": " ".join(last) if len(last) > 3 and last.isalpha() else last,
        "term": term, "noun": draw.choice([*NOUNS_AS_NAMES, "Stark", "Weiß", "Groß"]), "last_plain": plain,
        "last_plain_upper": plain.upper(),
    }  # fmt: skip


def _plain(name: str) -> str:
    """As in an address: ASCII where there is such a spelling."""
    letters = unicodedata.normalize("NFD", cleaned(name).translate(_EXPANDED))
    kept = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return kept.translate(_UNDECOMPOSED).replace("'", "").replace("-", "")
