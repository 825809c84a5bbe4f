"""Values that somebody may put into a run's configuration by mistake or malice, and what may be said about them."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

from include.core.errors import MigrationError

REFUSALS = ("PARAM_UNKNOWN", "PARAM_INVALID", "ENTITY_UNKNOWN")
_LONGEST_MESSAGE = 2_500
_LONGEST_QUOTE = 40
_LONGEST_TEXT, _MOST_MEMBERS = 100_000, 100_000


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


TEXTS: dict[str, str] = {
    "sql": "patients'; DROP TABLE public.patients; --",
    "sql comment": "patients/**/UNION/**/SELECT(password)FROM(auth_user)",
    "dollar quote": "$$; SELECT pg_sleep(60); $$",
    "jinja": "{{ 7 * 7 }}",
    "jinja secret": "{{ conn.supabase_db.password }}{{ var.value.get('x') }}",
    "jinja block": "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "format": "{0.__class__} %(asctime)s %s %n ${HOME}",
    "path": "../../../../etc/passwd",
    "windows path": "..\\..\\windows\\system32",
    "file url": "file:///etc/passwd",
    "metadata service": "http://169.254.169.254/latest/meta-data/",
    "credentials url": "postgresql://postgres:secret@127.0.0.1:5432/postgres",
    "nul": "patients\x00",
    "newline": "INFO\n2026-01-01 00:00:00 [migration] completed",
    "carriage return": "INFO\rcompleted",
    "ansi": "\x1b[2J\x1b[31mcompleted\x1b[0m",
    "line separator": "INFO\u2028completed\u0085completed",
    "bidi": "INFO\u202etxt.exe",
    "look-alike": "p\u0430tients",
    "full width": "ＩＮＦＯ",
    "combining": "patients\u0301",
    "surrogate": "patients\ud800",
    "trailing space": "INFO ",
    "shell": "$(touch /tmp/pwned) `id` ; rm -rf / | nc",
    "markup": "<script>alert(1)</script>",
    "json": '{"$ref": "file:///etc/passwd"}',
    "zero width": "pat\u200bients",
    "empty": "",
    "blank": " \t ",
    "10 MB": "x" * (10 << 20),
}
VALUES: dict[str, Any] = {
    **TEXTS,
    "null": None,
    "true": True,
    "false": False,
    "one": 1,
    "minus one": -1,
    "zero point zero": 0.0,
    "minus zero": -0.0,
    "one point zero": 1.0,
    "nan": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "tiny": 5e-324,
    "huge": 1.8e308,
    "2**31": 2**31,
    "2**63": 2**63,
    "5,000 digits": 10**5_000,
    "number as text": "5",
    "boolean as text": "true",
    "list": [],
    "object": {},
    "list of null": [None],
    "list of lists": [["patients"]],
    "list of objects": [{"patients": True}],
    "mixed list": ["patients", 1, None],
    "texts": list(TEXTS.values())[:-1],
    "long list": ["x"] * 1_000_000,
    "deep list": _nested(10_000),
    "dunder object": {"__class__": "Settings", "__proto__": {}, "constructor": {"prototype": {}}},
    "airflow object": {"__type": "airflow.sdk.Connection", "__var": {"conn_id": "supabase_db"}},
    "serialised object": {"__classname__": "os.system", "__version__": 1, "__data__": "id"},
}
KEYS: tuple[str, ...] = (
    *("__class__", "__dict__", "__proto__", "self", "run_id", "params", "conf", "dag_run", "task_instance"),
    *("Dry_Run", "dry_run ", "dry-run", "dry\u200b_run", "batch_size\x00", "batch_size\n", "ＢＡＴＣＨ_size"),
    *TEXTS.values(),
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def is_plain(value: object) -> bool:
    """Whether a value is a scalar or a list of them, of a sound size, its text fit for one line of a log."""
    if isinstance(value, list):
        return len(value) < _MOST_MEMBERS and not any(isinstance(v, list) or not is_plain(v) for v in value)
    if isinstance(value, str):
        return len(value) < _LONGEST_TEXT and value.isprintable()
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, int) and abs(value) < 2**64)


def assert_says_what_it_may(error: BaseException, *given: object) -> None:
    """A registered refusal, short, of the usual lines, none of which the giver could have forged."""
    assert isinstance(error, MigrationError), repr(error)[:500]
    assert error.code in REFUSALS
    lines = str(error).split("\n")
    assert [line[:9] for line in lines[-2:]] == ["  retry: ", "  next:  "], error
    assert len(lines) <= 4, error
    assert_is_shown_safely("".join(lines), *given)
    # Python would print them in front of the refusal.
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__


def assert_is_shown_safely(text: str, *given: object) -> None:
    """One short line without anything that a terminal would obey, and little of what was given."""
    assert len(text) < _LONGEST_MESSAGE
    assert text.isascii(), text
    assert text.isprintable(), text
    for value in given:
        if isinstance(value, str) and len(value) > _LONGEST_QUOTE:
            assert value[: _LONGEST_QUOTE + 1] not in text
