"""What the book changes in the texts that it is made from."""
# ruff: noqa: D103

import json

import pytest
from docutils import nodes
from mathml import to_mathml
from sources import chapters, front_page, lead_to_pages, notebook
from sphinx.errors import SphinxError

NAMES = ["ch01_overview/overview", "ch01_overview/exercises"]
QUIZ = "**7.** Why?\n\n<details><summary>Answer</summary>\n\nBecause.\n\n</details>\n\nEnd."


def prose(*sources: str) -> str:
    cells = [{"cell_type": "markdown", "metadata": {}, "source": [text]} for text in sources]
    return json.dumps({"cells": cells})


def edited(printed: bool, *sources: str) -> list[str]:
    cells = json.loads(notebook(prose(*sources), "ch01/exercises", printed))["cells"]
    return [cell["source"] for cell in cells]


def test_chapters_are_found_in_order_and_exercises_come_last(tmp_path):
    for name in ["ch02_b/x", "ch02_b/exercises", "ch01_a/z", "appendix_c/y", "ch10_d/w"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).with_suffix(".ipynb").touch()
    (tmp_path / "ch03_nothing_yet").mkdir()
    found = ["ch01_a/z", "ch02_b/x", "ch02_b/exercises", "ch10_d/w", "appendix_c/y"]
    assert chapters(tmp_path) == found


def test_names_of_chapters_become_links_outside_of_code_blocks():
    text = "See `ch01_overview`.\n```\n`ch01_overview`\n```\n"
    linked = "See [`ch01_overview`](ch01_overview/overview.ipynb).\n```\n`ch01_overview`\n```\n"
    assert lead_to_pages(text, NAMES) == linked


def test_links_to_folders_lead_to_chapters():
    linked = "[one](ch01_overview/overview.ipynb)"
    assert lead_to_pages("[one](ch01_overview/)", NAMES) == linked
    assert lead_to_pages("[one](./ch01_overview)", NAMES) == linked


@pytest.mark.parametrize("there", [True, False])
def test_the_front_page_links_the_pdf_where_there_is_one(there):
    assert ("book.pdf" in front_page("# Book", NAMES, there)) == there


def test_a_page_has_one_title_and_comments_in_code_are_no_titles():
    texts = edited(False, "# Title\n\n```\n# a comment\n```", "# Test yourself\n\n# Again")
    assert texts == ["# Title\n\n```\n# a comment\n```", "## Test yourself\n\n## Again"]


def test_answers_stay_where_they_are_on_the_site():
    assert edited(False, "## Quiz", QUIZ) == ["## Quiz", QUIZ]


@pytest.mark.parametrize("quiz", [QUIZ, QUIZ.replace(".** Why?", ". Why?**")])
def test_answers_are_printed_at_the_end_under_the_number_of_the_question(quiz):
    _, question, answers = edited(True, "## Quiz", quiz)
    assert "Because" not in question and question.endswith("End.")
    assert 'href="#answer-ch01-exercises-1"' in question
    assert 'id="answer-ch01-exercises-1"' in answers
    assert answers.endswith("**Quiz, 7.** *Answer.* Because.")


def formula(tex: str, line: int) -> nodes.math:
    node = nodes.math(text=tex)
    node.source, node.line = "ch03_attention/attention.ipynb", line
    return node


def test_a_formula_becomes_mathml():
    assert to_mathml(formula(r"\frac{1}{\sqrt{D}}", 1), as_block=False).startswith("<math")


def test_a_formula_that_cannot_be_drawn_is_named_with_notebook_and_cell():
    with pytest.raises(SphinxError, match=r"attention\.ipynb, cell 12: .*nonsense"):
        to_mathml(formula(r"\nonsense{", 120_003), as_block=True)
