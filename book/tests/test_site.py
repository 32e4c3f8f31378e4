"""The site as a reader sees it, opened from the disk."""
# ruff: noqa: D103

import re
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest
from sources import chapters

ROOT = Path(__file__).parents[2]
SITE = ROOT / "book" / "_build" / "html"
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
CHAPTERS = [name + ".html" for name in chapters(ROOT)]


def address(page: str) -> str:
    return (SITE / page).as_uri()


def test_the_site_is_built_and_has_every_chapter():
    assert PAGES, "build it first: make book"
    assert set(CHAPTERS) <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_opens_without_complaints_and_asks_for_nothing_elsewhere(open_page, page):
    opened = open_page()
    opened.page.goto(address(page), wait_until="load")
    assert opened.outside == []
    assert opened.complaints == []


@pytest.mark.parametrize("page", ["README.html", *CHAPTERS])
def test_every_picture_is_there(open_page, page):
    pictures = open_page().page
    pictures.goto(address(page), wait_until="load")
    broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
    assert pictures.evaluate(broken) == []


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("page", ["README.html", *CHAPTERS])
def test_no_page_is_wider_than_the_screen(open_page, page, width):
    narrow = open_page(width).page
    narrow.goto(address(page))
    assert narrow.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_ground_is_light_or_dark_as_the_reader_prefers(open_page, scheme):
    page = open_page(scheme=scheme).page
    page.goto(address("README.html"))
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(n) for n in re.findall(r"\d+", colour)[:3]) / 3
    assert (brightness > 200) == (scheme == "light")


def test_search_finds_the_causal_mask(open_page):
    opened = open_page()
    opened.page.goto(address("README.html"))
    opened.page.locator("input[name=q]:visible").fill("causal mask")
    opened.page.locator("input[name=q]:visible").press("Enter")
    opened.page.wait_for_selector("#search-results li a")
    found = opened.page.locator("#search-results li a").evaluate_all("all => all.map(a => a.href)")
    assert any("ch03_attention/attention.html" in link for link in found)
    assert opened.complaints == [] and opened.outside == []


def links(page: str) -> list[tuple[str, str]]:
    """The file and the place in it of every link to somewhere in the site."""
    found = []
    for link in re.findall(r'<a [^>]*href="([^"]*)"', (SITE / page).read_text("utf-8")):
        target, place = urldefrag(urljoin(address(page), link.replace("&amp;", "&")))
        if target.startswith("file:"):
            found.append((unquote(target.split("?")[0]), unquote(place)))
    return found


def places(target: str, known: dict[str, set[str]]) -> set[str] | None:
    """The names of the places in a file of the site, or None where there is no such file."""
    path = Path(target.removeprefix(SITE.as_uri().removesuffix(str(SITE))))
    if target not in known and path.exists():
        text = path.read_text("utf-8") if path.suffix == ".html" else ""
        known[target] = set(re.findall(r'\bid="([^"]*)"', text))
    return known.get(target)


def test_every_link_leads_somewhere():
    known, broken = {}, []
    for page in PAGES:
        for target, place in links(page):
            there = places(target, known)
            if there is None or (place and place not in there):
                broken.append((page, target, place))
    assert broken == []


def test_command_lines_and_errors_are_not_coloured_as_programs():
    texts = {page: (SITE / page).read_text("utf-8") for page in ["README.html", *CHAPTERS]}
    assert 'class="se"' not in texts["README.html"]  # a backslash before a folder's name
    assert any("output traceback" in text for text in texts.values())
    for text in texts.values():
        for error in re.findall(r'<div class="output traceback.*?<pre>(.*?)</pre>', text, re.S):
            assert "<span class=" not in error


def test_next_leads_through_the_whole_book_and_previous_back(open_page):
    page = open_page().page
    page.goto(address("README.html"))
    for name in CHAPTERS:
        page.locator(".related-pages a.next-page").click()
        assert page.url.split("#")[0] == address(name)
    for name in [*reversed(CHAPTERS[:-1]), "README.html"]:
        page.locator(".related-pages a.prev-page").click()
        assert page.url.split("#")[0] == address(name)


@pytest.mark.parametrize("page", [page for page in CHAPTERS if "exercises" in page])
def test_hints_and_answers_open(open_page, page):
    opened = open_page().page
    opened.goto(address(page))
    first = opened.locator("details").first
    inside = first.locator("p").first
    assert not inside.is_visible()
    first.locator("summary").click()
    assert inside.is_visible()
