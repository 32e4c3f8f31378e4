"""Every exercise has a check; the check knows a right answer, a stub and the usual mistakes.

The mistakes stand in `wrong_answers/chNN.py`: functions named `exercise__what_is_wrong`.
"""

import ast
import importlib
import inspect
import json
from pathlib import Path

import pytest

from ch01_overview.checking import WrongAnswerError

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted(path.parent.name for path in ROOT.glob("*/exercises.ipynb"))


def names(module, prefix: str = "") -> dict:
    """The functions and classes that a module defines, by name, without the prefix."""
    return {
        name.removeprefix(prefix): thing
        for name, thing in vars(module).items()
        if name.startswith(prefix)
        and not name.startswith("_")
        and (inspect.isfunction(thing) or inspect.isclass(thing))
        and getattr(thing, "__module__", "") == module.__name__
    }


def checks(chapter: str) -> dict:
    return names(importlib.import_module(f"{chapter}.checks"), "check_")


def solutions(chapter: str) -> dict:
    return names(importlib.import_module(f"{chapter}.solutions"))


def wrong_answers(chapter: str) -> dict:
    return names(importlib.import_module(f"wrong_answers.{chapter.split('_')[0]}"))


def stubs(chapter: str) -> dict[str, object]:
    """The unsolved functions and classes of the exercise notebook, ready to be called."""
    notebook = json.loads((ROOT / chapter / "exercises.ipynb").read_text("utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    namespace = {}
    for source in cells:
        only_imports = all(
            isinstance(part, ast.Import | ast.ImportFrom) for part in ast.parse(source).body
        )
        if only_imports or "NotImplementedError" in source:
            exec(source, namespace)
    return {name: namespace[name] for name in checks(chapter) if name in namespace}


EXERCISES = [(chapter, name) for chapter in CHAPTERS for name in checks(chapter)]
MISTAKES = [(chapter, name) for chapter in CHAPTERS for name in wrong_answers(chapter)]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_exercise_has_a_stub_a_check_and_a_solution(chapter):
    assert set(checks(chapter)) == set(stubs(chapter))
    assert set(checks(chapter)) <= set(solutions(chapter))
    assert all(solutions(chapter)[name].__doc__ for name in checks(chapter))


@pytest.mark.parametrize(("chapter", "name"), EXERCISES)
def test_the_check_accepts_the_solution(chapter, name, capsys):
    checks(chapter)[name](solutions(chapter)[name])
    assert capsys.readouterr().out == f"{name}: correct\n"


@pytest.mark.parametrize(("chapter", "name"), EXERCISES)
def test_the_check_recognises_the_stub(chapter, name, capsys):
    checks(chapter)[name](stubs(chapter)[name])
    assert capsys.readouterr().out == f"{name}: not done yet\n"


@pytest.mark.parametrize(("chapter", "mistake"), MISTAKES)
def test_the_check_rejects_a_mistake_with_a_hint(chapter, mistake):
    name = mistake.split("__")[0]
    with pytest.raises(WrongAnswerError, match="Hint: "):
        checks(chapter)[name](wrong_answers(chapter)[mistake])


@pytest.mark.parametrize(("chapter", "name"), EXERCISES)
def test_two_mistakes_are_known_for_every_exercise(chapter, name):
    assert sum(mistake.split("__")[0] == name for mistake in wrong_answers(chapter)) >= 2
