"""What holds for every notebook, seen in the file as committed."""

import ast
import inspect
import json
import re
from pathlib import Path
from textwrap import dedent
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("ch*/*.ipynb")) + sorted(ROOT.glob("appendix_*/*.ipynb"))
CHAPTERS = [path for path in NOTEBOOKS if path.name != "exercises.ipynb"]
EVERY = pytest.mark.parametrize(
    "path", NOTEBOOKS, ids=lambda path: path.stem + "-" + path.parent.name
)
MOST_LINES = 20  # of a code cell
TAGS = {"nbval-ignore-output", "raises-exception"}
LINK = re.compile(r"\]\(([^)\s]+)[^)]*\)|<(?:a|img)[^>]*(?:href|src)=\"([^\"]+)\"")


def cells(path: Path, kind: str = "code") -> list[dict]:
    return [c for c in json.loads(path.read_text("utf-8"))["cells"] if c["cell_type"] == kind]


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def texts(cell: dict) -> str:
    """All that a cell's outputs say, other than pictures."""
    found = []
    for output in cell["outputs"]:
        found += [output.get("text", ""), output.get("traceback", "")]
        found += [v for k, v in output.get("data", {}).items() if not k.startswith("image/")]
    return "".join("".join(part) for part in found)


def statements(cell: dict) -> list[ast.stmt]:
    """What stands in a code cell, without the lines that only Jupyter understands."""
    source = "".join(cell["source"])
    return ast.parse(re.sub(r"^[%!].*", "", source, flags=re.M)).body


def calls(cell: dict, name: str) -> list[ast.Call]:
    """The calls of a function by the cell itself, not inside of another statement."""
    found = [part.value for part in statements(cell) if isinstance(part, ast.Expr)]
    return [c for c in found if isinstance(c, ast.Call) and getattr(c.func, "id", "") == name]


def imported(path: Path, wanted: set[str]) -> dict:
    """The things of these names that a notebook imports."""
    parts = [part for cell in cells(path) for part in statements(cell)]
    found = {}
    for part in parts:
        if isinstance(part, ast.Import | ast.ImportFrom):
            names = {(name.asname or name.name).split(".")[0] for name in part.names}
            if names & wanted:
                exec(compile(ast.Module([part], []), str(path), "exec"), found)
    return found


def listings(path: Path) -> list[tuple[list[str], str]]:
    """What `show_source` was asked to show, and what is shown, for each time it was called."""
    shown = [(cell, call) for cell in cells(path) for call in calls(cell, "show_source")]
    return [([ast.unparse(thing) for thing in call.args], texts(cell)) for cell, call in shown]


@EVERY
def test_every_code_cell_was_executed_in_order(path):
    counts = [c["execution_count"] for c in cells(path) if "".join(c["source"]).strip()]
    assert counts == list(range(1, len(counts) + 1))


@EVERY
def test_the_title_names_the_chapter_and_exercises_are_called_so(path):
    title = "".join(cells(path, "markdown")[0]["source"]).splitlines()[0]
    number = re.match(r"ch0*(\d+)_", path.parent.name)
    chapter = f"# Chapter {number[1]}: " if number else "# Appendix: "
    assert title.startswith(chapter)
    assert (title == chapter + "Exercises") == (path.name == "exercises.ipynb")


@EVERY
def test_what_is_printed_is_there(path):
    for cell in cells(path):
        printed = [call for call in calls(cell, "print") if call.args]
        assert cell["outputs"] or not printed, "".join(cell["source"])


@EVERY
def test_a_listing_is_the_code_that_is_imported(path):
    for things, shown in listings(path):
        found = imported(path, {thing.split(".")[0] for thing in things})
        for thing in things:
            source = dedent(inspect.getsource(eval(thing, found))).strip()
            assert source in shown, f"{thing} has changed since the notebook was executed"


@EVERY
def test_every_relative_link_leads_to_a_file(path):
    for cell in cells(path, "markdown"):
        for link in LINK.findall("".join(cell["source"])):
            target = unquote("".join(link).split("#")[0])
            outside = re.match(r"[a-z]+:", target) or not target
            assert outside or (path.parent / target).exists(), target


@EVERY
def test_fractions_have_braces_since_the_book_misreads_them_without(path):
    for cell in cells(path, "markdown"):
        assert not re.findall(r"\\[dt]?frac(?!\s*\{).{,20}", "".join(cell["source"]))


@EVERY
def test_no_code_in_a_table_has_a_bar_that_would_end_its_column(path):
    for cell in cells(path, "markdown"):
        rows = re.findall(r"^\|.*", "".join(cell["source"]), re.M)
        spans = [span for row in rows for span in re.findall(r"`[^`]*`", row)]
        assert not [span for span in spans if re.search(r"(?<!\\)\|", span)]


@EVERY
def test_tags_are_those_the_book_knows(path):
    for cell in cells(path):
        assert set(tags(cell)) <= TAGS, "".join(cell["source"])


@EVERY
def test_no_output_is_an_error_unless_it_teaches(path):
    for cell in cells(path):
        failed = any(output["output_type"] == "error" for output in cell["outputs"])
        assert failed == ("raises-exception" in tags(cell)), "".join(cell["source"])


@EVERY
def test_nothing_was_written_to_stderr(path):
    for cell in cells(path):
        names = {output.get("name") for output in cell["outputs"]}
        assert "stderr" not in names or "nbval-ignore-output" in tags(cell)


@EVERY
def test_no_machine_paths_no_remote_images(path):
    for cell in cells(path, "markdown"):
        source = "".join(cell["source"])
        assert not re.search(r"!\[[^]]*\]\(http|<img[^>]*http", source)
    for cell in cells(path):
        assert not re.search(r"/(home|work|root|tmp|Users)/", "".join(cell["source"]) + texts(cell))


@EVERY
def test_code_cells_are_short(path):
    for cell in cells(path):
        lines = [line for line in "".join(cell["source"]).splitlines() if line.strip()]
        assert len(lines) <= MOST_LINES, "".join(cell["source"])


@EVERY
def test_the_file_is_small(path):
    assert path.stat().st_size < 1_500_000


@EVERY
def test_any_python_kernel_will_do(path):
    assert json.loads(path.read_text("utf-8"))["metadata"]["kernelspec"]["name"] == "python3"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_most_outputs_are_compared(path):
    with_output = [c for c in cells(path) if c["outputs"]]
    ignored = [c for c in with_output if "nbval-ignore-output" in tags(c)]
    assert len(ignored) <= 0.15 * len(with_output)
