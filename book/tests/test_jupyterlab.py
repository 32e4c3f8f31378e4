"""The notebooks as a reader works in them: JupyterLab in a browser."""
# ruff: noqa: D103

from pathlib import Path

import pytest
from sources import chapters

ROOT = Path(__file__).parents[2]
NOTEBOOKS = [name + ".ipynb" for name in chapters(ROOT)]

OPEN = """async path => {
    const app = window.jupyterapp;
    await app.restored;
    const panel = await app.commands.execute("docmanager:open", {path, factory: "Notebook"});
    await panel.context.ready;
    await panel.sessionContext.ready;
    await panel.sessionContext.session.kernel.info;
    window.panel = panel;
}"""
RUN_ALL = """async () => {
    await window.jupyterapp.commands.execute("notebook:run-all-cells");
    await window.panel.sessionContext.session.kernel.requestExecute({code: ""}).done;
    return window.panel.content.model.toJSON().cells;
}"""
SHOW = """async text => {
    const notebook = window.panel.content;
    const cells = notebook.widgets;
    const at = cells.findIndex(
        cell => cell.model.type === "code" && cell.model.sharedModel.source.startsWith(text));
    notebook.activeCellIndex = at;
    await notebook.scrollToItem(at);
}"""
OUTPUT = """async () => {
    await window.panel.sessionContext.session.kernel.requestExecute({code: ""}).done;
    const cell = window.panel.content.activeCell.model.toJSON();
    return JSON.stringify(cell.outputs);
}"""


@pytest.fixture
def in_jupyterlab(open_page, jupyterlab):
    """A function that opens a notebook, with a kernel of its own that ends with the test."""
    pages = []

    def in_jupyterlab(path: str):
        opened = open_page()
        opened.page.goto(f"{jupyterlab}/lab?reset")
        opened.page.wait_for_function("window.jupyterapp !== undefined", timeout=120_000)
        opened.page.evaluate(OPEN, path)
        pages.append(opened.page)
        return opened

    yield in_jupyterlab
    for page in pages:
        page.evaluate("() => window.panel.sessionContext.shutdown()")


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def failed(cell: dict) -> bool:
    return any(output["output_type"] == "error" for output in cell["outputs"])


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_run_all_executes_every_cell_and_no_error_comes_unannounced(in_jupyterlab, path):
    opened = in_jupyterlab(path)
    cells = opened.page.evaluate(RUN_ALL)
    code = [c for c in cells if c["cell_type"] == "code" and "".join(c["source"]).strip()]
    bad = [c["source"] for c in code if failed(c) and "raises-exception" not in tags(c)]
    assert bad == []
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1))
    assert opened.outside == []


def run_cell(page, beginning: str) -> str:
    """Run the cell that begins so, as a reader does, with Control-Enter; what it printed."""
    page.evaluate(SHOW, beginning)
    page.locator(".jp-Notebook .jp-mod-active .cm-content").click()
    page.keyboard.press("Control+Enter")
    return page.evaluate(OUTPUT)


def type_cell(page, beginning: str, lines: list[str]) -> None:
    """Type over the cell that begins so. JupyterLab indents by itself after a colon."""
    page.evaluate(SHOW, beginning)
    page.locator(".jp-Notebook .jp-mod-active .cm-content").click()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("\n".join(lines))
    page.keyboard.press("Control+Enter")


def test_a_wrong_and_a_right_answer_are_typed_and_the_check_says_so(in_jupyterlab):
    page = in_jupyterlab("ch01_overview/exercises.ipynb").page
    head, check = "def bits_per_byte(", "check_bits_per_byte("
    run_cell(page, "import math")
    run_cell(page, head)
    assert "not done yet" in run_cell(page, check)
    question = head + "nats_per_token, n_tokens, n_bytes):"
    type_cell(page, head, [question, "return nats_per_token * n_tokens / n_bytes"])
    assert "Hint: " in run_cell(page, check)
    type_cell(page, head, [question, "return nats_per_token * n_tokens / n_bytes / math.log(2)"])
    assert "bits_per_byte: correct" in run_cell(page, check)
