"""The printed book: bookmarks, page numbers, nothing cut off."""
# ruff: noqa: D103

import re
import unicodedata
from pathlib import Path

import pytest
from pdf import find_chromium, headings, text_of
from pypdf import PdfReader

BUILD = Path(__file__).parents[1] / "_build"
PRINTED = BUILD / "singlehtml" / "book.html"
TEXT_WIDTH = 643  # pixels in 170 mm
CUT_OFF = """() => {
    const edge = document.body.getBoundingClientRect().right + 1;
    const parts = [...document.querySelectorAll("pre, code, td, img, math, p, li, h2, h3, h4")];
    return parts.filter(part => part.getBoundingClientRect().right > edge)
        .map(part => part.textContent.slice(0, 100) || part.src);
}"""


@pytest.fixture(scope="module")
def book() -> PdfReader:
    if find_chromium() is None:
        pytest.skip("there is no PDF without Chromium")
    return PdfReader(BUILD / "pdf" / "book.pdf")


def chapters() -> list[str]:
    page = PRINTED.read_text("utf-8")
    return [text_of(heading) for level, _, heading in headings(page) if level == "2"]


def words(text: str) -> str:
    return re.sub(r"\W+", "", unicodedata.normalize("NFKC", text))


def test_every_chapter_has_a_bookmark_that_leads_to_its_title(book):
    marks = {mark.title: mark for mark in book.outline if not isinstance(mark, list)}
    for title in chapters():
        page = book.pages[book.get_destination_page_number(marks[title])]
        assert words(title) in words(page.extract_text())


def test_the_contents_give_the_number_printed_on_the_page(book):
    line = re.compile(r'<li class="chapter"><a [^>]*>(.*?)</a>.*?class="page"[^>]*>(\d+)<')
    lines = line.findall(PRINTED.read_text("utf-8"))
    assert [text_of(title) for title, _ in lines] == chapters()
    for title, number in lines:
        text = book.pages[int(number) - 1].extract_text()
        assert words(text_of(title)) in words(text)
        assert number in text.split()


def test_every_hint_names_the_page_on_which_its_answer_begins(book):
    page = PRINTED.read_text("utf-8")
    numbers = dict(re.findall(r'class="answer">.*?href="#([^"]*)">(\d*)</a>', page))
    answers = re.findall(r'<span id="(answer-[^"]*)">(.*?)</span> <em>(.*?)</em>', page, re.S)
    assert len(answers) == len(numbers) > 0
    for anchor, title, kind in answers:
        on_page = words(book.pages[int(numbers[anchor]) - 1].extract_text())
        assert words(text_of(title) + text_of(kind)) in on_page


def test_nothing_is_cut_off_at_the_margin(open_page):
    if not PRINTED.exists():
        pytest.skip("there is no PDF without Chromium")
    page = open_page(TEXT_WIDTH).page
    page.emulate_media(media="print")
    page.goto(PRINTED.as_uri())
    assert page.evaluate(CUT_OFF) == []
