"""What the book changes in the texts that it is made from."""
# ruff: noqa: D103

import json

import pytest
from docutils import nodes
from mathml import THIN, keep_punctuation, to_mathml
from pdf import code, operators, paragraphs
from sources import chapters, foreword, front_page, lead_to_pages, notebook
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


def test_the_printed_readme_has_another_title_and_names_what_is_not_printed():
    text = "# Book\n\nSee [CONTRIBUTING](CONTRIBUTING.md)."
    assert foreword(text, NAMES) == "# Before you begin\n\nSee `CONTRIBUTING.md`."


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
    assert answers.endswith("**Quiz, 7.**</span> *Answer.* Because.")


def test_a_paragraph_that_ends_in_a_colon_is_kept_with_what_it_announces():
    long = "word " * 100
    page = f"<p>{long}</p>\n<p>{long}:</p>\n<div>code</div><p>{long}:</p><p>No.</p></div>"
    marked = page.replace(f"<p>{long}:</p>\n", f'<p class="announces">{long}:</p>\n')
    assert paragraphs(page) == marked.replace("<p>No", '<p class="short">No')


def test_short_code_is_kept_on_a_page_and_a_line_that_does_not_fit_is_marked():
    long = "x" * 102
    assert code("<pre>a\n</pre>") == '<pre class="short">a\n</pre>'
    assert code(f"<pre>a\n{long}\n</pre>").count(f'<span class="wide">{long}</span>') == 1
    for lines, short in [(25, True), (26, False)]:
        assert ("short" in code("<pre>" + "a\n" * lines + "</pre>")) == short


def test_no_line_begins_with_an_operator_and_code_is_left_alone():
    page = '<p title="a = b">2 · 3 = 6</p><pre>a = 6</pre><code>a = 6</code>'
    assert operators(page) == page.replace("2 · 3 = 6", "2\u00a0· 3\u00a0= 6")


def formula(tex: str, line: int) -> nodes.math:
    node = nodes.math(text=tex)
    node.source, node.line = "ch03_attention/attention.ipynb", line
    return node


def test_a_formula_becomes_mathml():
    assert to_mathml(formula(r"\frac{1}{\sqrt{D}}", 1), as_block=False).startswith("<math")


@pytest.mark.parametrize(
    ("tex", "known"),
    {r"1 + \dots + n": r"1 + \ldots + n", r"\Big( x \Big)": r"\Bigl( x \Bigr)"}.items(),
)
def test_a_command_is_drawn_under_either_name(tex, known):
    one, other = (to_mathml(formula(text, 1), as_block=False) for text in (tex, known))
    assert one == other


@pytest.mark.parametrize(
    ("tex", "spaces"),
    {r"\log p": 1, r"\log_2 p": 1, r"\log(p)": 0, r"\log_2(p)": 0, "xy": 0}.items(),
)
def test_between_a_function_and_its_argument_is_a_space_unless_there_is_a_bracket(tex, spaces):
    assert to_mathml(formula(tex, 1), as_block=False).count(THIN) == spaces


@pytest.mark.parametrize(
    ("tex", "spaces"),
    {r"a \log p": 1, r"x_i \log_2 p": 1, r"(a) \sin p": 1, r"-\log p": 0, r"= \log_2 p": 0}.items(),
)
def test_between_a_factor_and_a_function_is_a_space(tex, spaces):
    assert to_mathml(formula(tex, 1), as_block=False).count("margin-left") == spaces


def test_a_number_with_a_comma_is_one_number():
    assert "<mn>50,257</mn>" in to_mathml(formula("50{,}257", 1), as_block=False)


@pytest.mark.parametrize(("tex", "rooms"), {"V d": 1, "V_i": 0, "V_i V": 1, "v": 0}.items())
def test_a_leaning_letter_has_room_behind_it_unless_an_index_is_there(tex, rooms):
    assert to_mathml(formula(tex, 1), as_block=False).count("padding-right") == rooms


def test_a_prime_is_a_prime():
    assert "<mo>′</mo>" in to_mathml(formula("a'", 1), as_block=False)


def test_what_touches_a_formula_stays_in_its_line():
    parts = [nodes.Text("is ("), formula("a", 1), nodes.Text("), and "), formula("b", 1)]
    text = nodes.paragraph("", "", *parts, nodes.Text(" or."))
    keep_punctuation(None, text)
    assert [part.astext() for part in text] == ["is ", "(a),", " and ", "b", " or."]
    assert [type(part) for part in text][1::2] == [nodes.inline, nodes.inline]


def test_min_keeps_no_distance_from_its_bracket():
    assert 'rspace="0">min' in to_mathml(formula(r"\min(p, q)", 1), as_block=False)
    assert 'rspace="0.17em">min' in to_mathml(formula(r"\min_i x_i", 1), as_block=False)


def test_a_formula_that_cannot_be_drawn_is_named_with_notebook_and_cell():
    with pytest.raises(SphinxError, match=r"attention\.ipynb, cell 12: .*nonsense"):
        to_mathml(formula(r"\nonsense{", 120_003), as_block=True)
