"""The registry of errors against the places that raise them."""

from __future__ import annotations

import ast
import itertools
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from include.core.errors import REGISTRY, Category, MigrationError

ROOT = Path(__file__).parent.parent.parent
SOURCES = sorted(path for part in ("include", "plugins", "dags") for path in (ROOT / part).rglob("*.py"))
# The registry's own file takes any code.
RAISING = [path for path in SOURCES if path != ROOT / "include" / "core" / "errors.py"]


_CODE = re.compile(r"[A-Z]+(_[A-Z]+)+")


def possible(value: ast.expr, function: ast.AST, module: ast.AST) -> Iterator[str]:
    """The texts an expression can have, as far as codes are put together here."""
    match value:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            for texts in itertools.product(*(list(possible(part, function, module)) for part in parts)):
                yield "".join(texts)
        case ast.FormattedValue(value=inner):
            yield from possible(inner, function, module)
        case ast.IfExp(body=yes, orelse=no):
            yield from possible(yes, function, module)
            yield from possible(no, function, module)
        case ast.Attribute(attr="prefix"):
            yield from ("SOURCE", "TARGET")
        case ast.Call(func=ast.Name(id=name)) | ast.Subscript(value=ast.Name(id=name)):
            yield from codes_named(module, {name})
        case ast.Name(id=name):
            for node in ast.walk(function):
                if isinstance(node, ast.Assign) and any(
                    isinstance(target, ast.Name) and target.id == name for target in node.targets
                ):
                    yield from possible(node.value, function, module)
        case _:
            raise AssertionError(f"the code of an error cannot be read: {ast.unparse(value)}")


def assigned(node: ast.AST) -> set[str]:
    """The names that a statement gives values."""
    targets = node.targets if isinstance(node, ast.Assign) else []
    targets += [node.target] if isinstance(node, ast.AnnAssign) else []
    return {ast.unparse(target) for target in targets}


def codes_named(module: ast.AST, names: set[str]) -> Iterator[str]:
    """Codes in a function that chooses one, and in the tables that it looks into."""
    for node in ast.iter_child_nodes(module):
        if isinstance(node, ast.FunctionDef) and node.name in names:
            yield from codes_named(module, {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - names)
        elif not names & assigned(node):
            continue
        texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
        yield from (text for text in texts if isinstance(text, str) and _CODE.fullmatch(text))


def raised(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line and possible codes of every MigrationError made in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    for node in ast.walk(tree):
        name = getattr(node, "func", None)
        if isinstance(node, ast.Call) and isinstance(name, ast.Name) and name.id == "MigrationError":
            around = [f for f in functions if f.lineno <= node.lineno <= (f.end_lineno or f.lineno)]
            yield node.lineno, list(possible(node.args[0], around[-1] if around else tree, tree))


def refused(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The same of an SQL file, whose functions raise errors by their codes."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        for code in re.findall(r"migration\.refuse\('(\w+)'", line):
            yield number, [code]


SQL = sorted((ROOT / "include" / "sql").rglob("*.sql"))
RAISED = [(path, line, codes) for path in RAISING for line, codes in raised(path)]
RAISED += [(path, line, codes) for path in SQL for line, codes in refused(path)]


@pytest.mark.parametrize(
    ("path", "line", "codes"), RAISED, ids=[f"{path.relative_to(ROOT)}:{line}" for path, line, _ in RAISED]
)
def test_every_raised_code_is_registered(path: Path, line: int, codes: list[str]) -> None:
    assert codes
    assert set(codes) <= set(REGISTRY)


def test_every_registered_code_is_raised_somewhere() -> None:
    assert set(REGISTRY) - {code for _, _, codes in RAISED for code in codes} == set()


# Whoever calls, or declares an entity, made a mistake in the code; in a task it ends as UNEXPECTED.
PROGRAMMING = {"ValueError", "AssertionError", "NotImplementedError"}
# How a task tells Airflow that it is skipped, or red on purpose.
CONTROL = {"AirflowSkipException", "AirflowFailException"}
# Said by one function to the one that calls it, which catches it: tested below.
CAUGHT = {"OSError", "FileNotFoundError", "FileUnreadableError", "UploadGoneError"}
CAUGHT |= {"_SourceChangedError", "csv.Error"}
# argparse tells them the user, and ends the command with 2.
OF_COMMANDS = {"argparse.ArgumentTypeError"}
# A page that is refused: to the browser, as a status of HTTP.
OF_PAGES = {"HTTPException"}
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
# Kinds of a registered error, and functions that make one.
REGISTERED = {"MigrationError"} | {
    node.name
    for tree in TREES.values()
    for node in ast.walk(tree)
    if (isinstance(node, ast.ClassDef) and "MigrationError" in map(ast.unparse, node.bases))
    or (isinstance(node, ast.FunctionDef) and node.returns and ast.unparse(node.returns) == "MigrationError")
}


def exceptions(raised: ast.expr | None) -> Iterator[str]:
    """What a statement may raise: names of classes, but those of registered errors and of what was caught before."""
    match raised:
        case (
            None
            | ast.Name(id="error" | "failure" | "known" | "cause" | "refusal")
            | ast.Attribute(attr="error")
        ):
            return
        case ast.BoolOp(values=values):
            for value in values:
                yield from exceptions(value)
        case ast.IfExp(body=yes, orelse=no):
            yield from exceptions(yes)
            yield from exceptions(no)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in REGISTERED:
            return
        case ast.Call(func=made):
            yield ast.unparse(made)
        case _:
            yield ast.unparse(raised)


def test_everything_raised_is_a_registered_error_or_stays_within() -> None:
    others = {
        (str(path.relative_to(ROOT)), node.lineno, name)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        for name in exceptions(node.exc)
    }
    pages = {found for found in others if found[0].startswith("plugins/ui/") and found[2] in OF_PAGES}
    elsewhere = others - pages
    known = PROGRAMMING | CONTROL | CAUGHT | OF_COMMANDS
    assert {found for found in elsewhere if found[2] not in known} == set()
    assert {name for _, _, name in elsewhere} == known


@pytest.mark.parametrize("name", sorted(CAUGHT))
def test_what_stays_within_is_caught(name: str) -> None:
    handled = [
        ast.unparse(node.type)
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and node.type is not None
    ]
    assert [types for types in handled if name in re.findall(r"[\w.]+", types)]


@pytest.mark.parametrize("kind", REGISTRY.values(), ids=lambda kind: kind.code)
def test_every_code_says_what_happened_and_what_to_do(kind: object) -> None:
    code, category = getattr(kind, "code", ""), getattr(kind, "category", None)
    assert code == code.upper()
    assert isinstance(category, Category)
    for text in (getattr(kind, "meaning", ""), getattr(kind, "next_step", "")):
        assert text == text.strip()
        assert len(text.split()) > 3
        assert text.endswith((".", ").", "`."))
    assert REGISTRY[code] is kind


def test_codes_and_meanings_are_each_given_once() -> None:
    assert len({kind.meaning for kind in REGISTRY.values()}) == len(REGISTRY)
    assert {kind.category for kind in REGISTRY.values()} == set(Category)


@pytest.mark.parametrize("code", REGISTRY)
def test_the_message_holds_code_detail_facts_retry_and_next_step(code: str) -> None:
    error = MigrationError(code, "Exactly this.", entity="patients", batch="p000-b0003")
    lines = str(error).splitlines()
    kind = REGISTRY[code]
    assert lines[0] == f"[{code}] {kind.meaning} Exactly this."
    assert lines[1] == "  where: entity=patients, batch=p000-b0003"
    assert lines[2].startswith(f"  retry: {'automatic' if kind.transient else 'not automatic'}; ")
    assert ("retrying is safe" in lines[2]) is kind.retry_safe
    assert lines[3] == f"  next:  {kind.next_step}"
    assert (error.code, error.transient) == (code, kind.transient)


def test_without_facts_there_is_no_empty_line() -> None:
    assert "where:" not in str(MigrationError("RUN_STOPPED", ""))


def test_an_unregistered_code_cannot_be_raised() -> None:
    with pytest.raises(KeyError, match="NO_SUCH_CODE"):
        MigrationError("NO_SUCH_CODE", "")


def test_errors_survive_the_way_between_processes() -> None:
    error = MigrationError(
        "TRANSFORM_FAILED", "A rule raised ValueError.", entity="cases", batch="p000-b0000"
    )
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (str(copy), copy.code, copy.facts, copy.detail) == (
        str(error),
        error.code,
        error.facts,
        error.detail,
    )


def test_transient_errors_are_those_that_time_heals() -> None:
    assert {code for code, kind in REGISTRY.items() if kind.transient} == {
        "SOURCE_UNREACHABLE",
        "SOURCE_INTERRUPTED",
        "TARGET_UNREACHABLE",
        "TARGET_INTERRUPTED",
        "EMBEDDING_BUSY",
        "EMBEDDING_WRONG_ANSWER",
        "FILES_SOURCE_INTERRUPTED",
        "FILES_STORAGE_BUSY",
    }
    assert {code for code, kind in REGISTRY.items() if not kind.retry_safe} == {
        "ROLLBACK_IMPOSSIBLE",
        "RUN_ROLLED_BACK",
        "TARGET_SCHEMA_CHANGED",
        "TARGET_SCHEMA_FOREIGN",
    }
