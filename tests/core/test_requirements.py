"""The duties and the tests, held together in both directions.

Files are read and nothing is run, so that every suite counts.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import attrs
import pytest

from tests.requirements import DUTIES, Duty, Holder

TESTS = Path(__file__).parents[1]
TABLE = "tests/requirements.py"
FORM = re.compile(r"[a-z]+\.[a-z0-9-]+")


@attrs.frozen
class Mark:
    """One id at one test; `place` is where the test stands."""

    id: str
    place: str


@attrs.frozen
class Marks:
    """What the files say.

    `strays` are places of marks that no test carries, or whose ids are no literal texts.
    """

    marks: tuple[Mark, ...]
    strays: tuple[str, ...]


def read_marks(source: str, name: str) -> Marks:
    """The marks in the text of one file. Only files named test_* hold tests."""
    tree = ast.parse(source)
    marks: list[Mark] = []
    counting: set[ast.expr] = set()
    for test in _tests(tree) if Path(name).name.startswith("test_") else ():
        for call in test.decorator_list:
            ids = _ids(call)
            if ids:
                counting.update(node for node in ast.walk(call) if isinstance(node, ast.expr))
                marks += [Mark(ident, f"{name}:{test.lineno} {test.name}") for ident in ids]
    strays = [f"{name}:{node.lineno}" for node in ast.walk(tree) if _is_mark(node) and node not in counting]
    return Marks(tuple(marks), tuple(strays))


def _tests(parent: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in parent.body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() if node.name.startswith("test"):
                yield node
            case ast.ClassDef() if node.name.startswith("Test"):
                yield from _tests(node)


def _ids(decorator: ast.expr) -> list[str]:
    if not isinstance(decorator, ast.Call) or not _is_mark(decorator.func) or decorator.keywords:
        return []
    ids = [argument.value for argument in decorator.args if isinstance(argument, ast.Constant)]
    texts = [ident for ident in ids if isinstance(ident, str)]
    return texts if len(texts) == len(decorator.args) else []


def _is_mark(node: ast.AST) -> bool:
    """Whether a node is `pytest.mark.duty`, or `mark.duty` of an import."""
    match node:
        case ast.Attribute(value=ast.Attribute(attr="mark") | ast.Name(id="mark"), attr="duty"):
            return True
        case _:
            return False


@cache
def all_marks() -> Marks:
    """The marks of all suites."""
    paths = [path for path in sorted(TESTS.rglob("*.py")) if path.relative_to(TESTS).parts[0] != "node"]
    files = [read_marks(path.read_text(), str(path.relative_to(TESTS.parent))) for path in paths]
    return Marks(
        tuple(mark for file in files for mark in file.marks), tuple(place for file in files for place in file.strays)
    )


def without_test(duties: tuple[Duty, ...], marks: Marks) -> list[str]:
    """A line for each duty that no test carries."""
    tested = {mark.id for mark in marks.marks}
    return [
        f'{TABLE}: the duty "{duty.id}" has no test: '
        f'put @pytest.mark.duty("{duty.id}") on the test that checks it, or remove the row'
        for duty in duties
        if duty.id not in tested
    ]


def without_duty(duties: tuple[Duty, ...], marks: Marks) -> list[str]:
    """A line for each mark that names no duty."""
    ids = {duty.id for duty in duties}
    return [
        f'{mark.place}: the mark "{mark.id}" names no duty: correct it, or add a row to {TABLE}'
        for mark in marks.marks
        if mark.id not in ids
    ]


def ill_formed(duties: tuple[Duty, ...]) -> list[str]:
    """A line for each row that is not as it should be."""
    counts = Counter(duty.id for duty in duties)
    faults = [
        f'{TABLE}: "{ident}" is the id of {count} rows: rename all but one' for ident, count in counts.items() if count > 1
    ]
    for duty in duties:
        if not FORM.fullmatch(duty.id):
            faults.append(f'{TABLE}: the id "{duty.id}" has another form: write group.duty in lower case')
        if not duty.clause.strip():
            faults.append(f'{TABLE}: the duty "{duty.id}" has no clause: say on which page and in which section it is asked')
        if not duty.holder:
            faults.append(f'{TABLE}: nobody holds the duty "{duty.id}": name the parts that do')
        if not duty.text.endswith("."):
            faults.append(f'{TABLE}: the text of "{duty.id}" is no sentence: write one, with its full stop')
    return faults


def test_rows_are_well_formed() -> None:
    assert (faults := ill_formed(DUTIES)) == [], "\n".join(faults)


def test_every_duty_has_a_test() -> None:
    assert (faults := without_test(DUTIES, all_marks())) == [], "\n".join(faults)


def test_every_mark_names_a_duty() -> None:
    assert (faults := without_duty(DUTIES, all_marks())) == [], "\n".join(faults)


def test_every_mark_stands_at_a_test() -> None:
    remedy = "put it on a test function, with the ids as literal texts"
    assert (faults := [f"{place}: this mark counts for no test: {remedy}" for place in all_marks().strays]) == [], "\n".join(
        faults
    )


DUTY = Duty("group.duty", "page, section", Holder.ROUTER, "It does what it should.")
MARKED = """
@pytest.mark.duty("group.duty", "group.other")
@pytest.mark.parametrize("x", [1])
async def test_it(x): ...

class TestMore:
    @pytest.mark.duty("group.duty")
    def test_that(self): ...
"""


def test_marks_are_read_from_functions_and_classes() -> None:
    marks = read_marks(MARKED, "tests/test_x.py")
    assert marks.strays == ()
    assert [(mark.id, mark.place) for mark in marks.marks] == [
        ("group.duty", "tests/test_x.py:4 test_it"),
        ("group.other", "tests/test_x.py:4 test_it"),
        ("group.duty", "tests/test_x.py:8 test_that"),
    ]
    assert without_test((DUTY,), marks) == []
    (fault,) = without_duty((DUTY,), marks)
    assert fault.startswith('tests/test_x.py:4 test_it: the mark "group.other" names no duty')
    (fault,) = without_test((DUTY,), Marks((), ()))
    assert '"group.duty" has no test' in fault


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("test_x.py", "pytestmark = pytest.mark.duty('a.b')"),
        ("test_x.py", "@pytest.mark.duty('a.b')\ndef helper(): ..."),
        ("test_x.py", "@pytest.mark.duty('a.b')\nclass TestX:\n    def test_it(self): ..."),
        ("test_x.py", "@pytest.mark.duty(IDS)\ndef test_it(): ..."),
        ("test_x.py", "@pytest.mark.duty('a.b', 5)\ndef test_it(): ..."),
        ("test_x.py", "@pytest.mark.duty()\ndef test_it(): ..."),
        ("test_x.py", "@pytest.mark.duty\ndef test_it(): ..."),
        ("test_x.py", "def outer():\n    @mark.duty('a.b')\n    def test_it(): ..."),
        ("x.py", "@pytest.mark.duty('a.b')\ndef test_it(): ..."),
    ],
)
def test_a_mark_that_counts_for_no_test_is_a_stray(name: str, source: str) -> None:
    marks = read_marks(source, name)
    assert marks.marks == ()
    assert len(marks.strays) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": "Group.duty"}, "another form"),
        ({"clause": " "}, "no clause"),
        ({"holder": Holder(0)}, "nobody holds"),
        ({"text": "it does"}, "no sentence"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(change: dict[str, object], words: str) -> None:
    (fault,) = ill_formed((attrs.evolve(DUTY, **change),))
    assert words in fault


def test_an_id_that_two_rows_have_is_said() -> None:
    assert ill_formed((DUTY,)) == []
    assert ill_formed((DUTY, DUTY)) == [f'{TABLE}: "group.duty" is the id of 2 rows: rename all but one']
