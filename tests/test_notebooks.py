"""What holds for every notebook, seen in the file as committed."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("ch*/*.ipynb")) + sorted(ROOT.glob("appendix_*/*.ipynb"))
CHAPTERS = [path for path in NOTEBOOKS if path.name != "exercises.ipynb"]
EVERY = pytest.mark.parametrize(
    "path", NOTEBOOKS, ids=lambda path: path.stem + "-" + path.parent.name
)
MOST_LINES = 20  # of a code cell


def cells(path: Path, kind: str = "code") -> list[dict]:
    return [c for c in json.loads(path.read_text("utf-8"))["cells"] if c["cell_type"] == kind]


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def texts(cell: dict) -> str:
    """All that a cell's outputs say, other than pictures."""
    found = []
    for output in cell["outputs"]:
        found += [output.get("text", "")]
        found += [v for k, v in output.get("data", {}).items() if not k.startswith("image/")]
    return "".join("".join(part) for part in found)


@EVERY
def test_every_code_cell_was_executed_in_order(path):
    counts = [c["execution_count"] for c in cells(path) if "".join(c["source"]).strip()]
    assert counts == list(range(1, len(counts) + 1))


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
