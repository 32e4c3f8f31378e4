"""Prints the one long page that Sphinx made: contents, page numbers, bookmarks.

Chromium lays the pages out, and only then is known what stands on which. So the book is printed
twice: the first printing tells the numbers for the second.
"""

import html
import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pypdf import PdfReader, PdfWriter
from pypdf.generic import IndirectObject, NameObject, TextStringObject

CITATION = Path(__file__).parents[1] / "CITATION.cff"
CHROMIUM = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
]
INSTALL = (
    "needs Chromium, which was not found. On Debian and Ubuntu: apt-get install chromium "
    "fonts-lmodern fonts-noto-core fonts-noto-cjk fonts-noto-color-emoji. Elsewhere, install "
    "Chromium or Chrome and set CHROMIUM to its program."
)
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
QUIET += ["--disable-background-networking", "--disable-component-update", "--disable-quic"]
PRINT = ["--no-pdf-header-footer", "--generate-pdf-document-outline"]
logging.getLogger("pypdf").setLevel(logging.ERROR)  # it counts Chromium's objects otherwise

DOCUMENT = re.compile(r'<span id="document-[^"]*"></span><section ')
HEADING = re.compile(r"<h([23])>(.*?)</h\1>", re.S)
LONG_NAME = re.compile(r'(?<=<span class="pre">)[^<\s]{13,}(?=</span>)')
NUMBER = re.compile(r'(<a class="page" href="#([^"]*)">)[^<]*(?=</a>)')
PARAGRAPH = re.compile(r"<p>((?:(?!</p>).)*)</p>(?=\s*<(/?\w+))", re.S)
ANNOUNCES, THREE_LINES = ("Goal.", "Slow obvious spec."), 320  # characters
CODE = re.compile(r"<pre>(.*?)</pre>", re.S)
WIDE, SHORT = 101, 25  # characters in a line of code, lines that stay together
FOOT_OF_TEXT = 2 * 22 / 25.4 * 72 + 2  # points; two margins of print.css, and a little
MARKUP = re.compile(r"(<pre.*?</pre>|<code.*?</code>|<math.*?</math>|<[^>]*>)", re.S)
OPERATOR = re.compile(r"(?<=\S) (?=[·×=+/−] )")
FOOT = '@bottom-center { content: counter(page); font: 9.5pt "Latin Modern Roman", serif; }'
HEAD = '@top-left {{ content: {}; font: italic 9pt "Latin Modern Roman", serif; color: #555; }}'


def find_chromium() -> str | None:
    """The program that prints and that the tests look through, or None where there is none."""
    named = os.environ.get("CHROMIUM")
    return named or next((path for name in CHROMIUM if (path := shutil.which(name))), None)


def plain(line: str) -> str:
    """A line without its markup."""
    return html.unescape(re.sub(r"<[^>]*>", "", line))


def text_of(heading: str) -> str:
    """The words of a heading."""
    return plain(heading).strip()


def breakable(page: str) -> str:
    """Long names in the text may be broken behind a point, an underscore, a bracket."""
    return LONG_NAME.sub(lambda name: re.sub(r"(?<=[._(,=/])(?=\w)", "<wbr>", name[0]), page)


def paragraphs(page: str) -> str:
    """What ends in a colon stays on the page of what follows; three lines are not torn apart."""

    def marked(paragraph: re.Match) -> str:
        words = " ".join(text_of(paragraph[1]).split())
        colon = words.endswith(":") and paragraph[2] in ("div", "ul", "ol", "table")
        kinds = ["announces"] * (colon or words.startswith(ANNOUNCES))
        kinds += ["short"] * (len(words) < THREE_LINES)
        return f'<p class="{" ".join(kinds)}">{paragraph[1]}</p>' if kinds else paragraph[0]

    return PARAGRAPH.sub(marked, page)


def operators(page: str) -> str:
    """No line of text begins with an operator."""
    parts = MARKUP.split(page)
    parts[::2] = [OPERATOR.sub("\u00a0", text) for text in parts[::2]]
    return "".join(parts)


def code(page: str) -> str:
    """Short code and short outputs are marked, and so are lines that do not fit."""

    def marked(block: re.Match) -> str:
        lines = block[1].rstrip("\n").split("\n")
        widths = [len(plain(line)) for line in lines]
        for i, width in enumerate(widths):
            if width > WIDE:
                lines[i] = f'<span class="wide">{lines[i]}</span>'
        short = len(lines) + sum(width // WIDE for width in widths) <= SHORT
        return ('<pre class="short">' if short else "<pre>") + "\n".join(lines) + "\n</pre>"

    return CODE.sub(marked, page)


def with_anchors(page: str) -> str:
    """Every chapter and every section can be pointed at, by the number of its heading."""
    count = iter(range(10**6))
    return HEADING.sub(lambda m: f'<h{m[1]} id="heading-{next(count)}">{m[2]}</h{m[1]}>', page)


def headings(page: str) -> list[tuple[str, str, str]]:
    """What the contents list: level, anchor and heading. Of exercises, only the title."""
    found, exercises = [], False
    for level, anchor, heading in re.findall(r'<h([23]) id="([^"]*)">(.*?)</h', page, re.S):
        exercises = "xercise" in heading if level == "2" else exercises
        if level == "2" or not exercises:
            found.append((level, anchor, heading))
    return found


def contents(page: str) -> str:
    """The table of contents, with page numbers still to be filled in."""
    lines = [
        f'<li class="{"chapter" if level == "2" else "section"}"><a href="#{anchor}">{heading}</a>'
        f'<span class="dots"></span><a class="page" href="#{anchor}">000</a></li>'
        for level, anchor, heading in headings(page)
    ]
    return f'<nav class="contents"><h2>Contents</h2><ol>{"".join(lines)}</ol></nav>'


def page_styles(page: str) -> tuple[str, str]:
    """Each document prints its title above its pages: the page, and the style that does it."""
    titles = re.findall(r"<h2 [^>]*>(.*?)</h2>", page, re.S)
    count = iter(range(10**6))
    page = DOCUMENT.sub(lambda m: f'<section style="page: document{next(count)}" ', page)
    rules = [f"@page contents {{ {FOOT} }}"]
    for i, title in enumerate(titles):
        shown = '"' + text_of(title).replace("\\", "\\\\").replace('"', '\\"') + '"'
        rules.append(f"@page document{i} {{ {HEAD.format(shown)} {FOOT} }}")
    return page, "<style>" + "\n".join(rules) + "</style>"


def typeset(page: str) -> str:
    """The page with anchors, contents and running titles, ready for the first printing."""
    page = operators(breakable(paragraphs(code(page))))
    page = re.sub(r"<h1>(.*?)</h1>", r'<p class="title">\1</p>', page, count=1, flags=re.S)
    page, styles = page_styles(with_anchors(page))
    start = page.index('<div class="toctree-wrapper')
    page = page[:start] + contents(page) + page[start:]
    return page.replace("</head>", styles + "</head>")


def print_page(page: Path, pdf: Path) -> None:
    """Let Chromium print a page; an error of its own words where it does not."""
    with tempfile.TemporaryDirectory() as profile:
        command = [find_chromium(), *QUIET, *PRINT, f"--user-data-dir={profile}"]
        command += [f"--print-to-pdf={pdf}", page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode or not pdf.exists():
        raise RuntimeError(f"{command[0]} did not print {page}: {done.stderr[-2000:]}")


def page_numbers(pdf: Path) -> dict[str, int]:
    """The page, counted from 1, on which each anchor stands.

    What opens a page Chromium anchors at the foot of the page before. It counts heights from the
    upper margin, so that the foot of the text is two margins above the edge of the paper.
    """
    reader = PdfReader(pdf)
    return {
        name.removeprefix("/"): reader.get_destination_page_number(target)
        + (2 if target.top < FOOT_OF_TEXT else 1)
        for name, target in reader.named_destinations.items()
    }


def titles(page: str) -> Iterator[str]:
    """What the bookmarks should say: all headings, in order."""
    for _, heading in re.findall(r"<h([2-4])[^>]*>(.*?)</h\1>", page, re.S):
        yield text_of(heading)


def rename(mark: IndirectObject | None, names: Iterator[str]) -> None:
    """Give the bookmarks from `mark` on, and those below them, their names."""
    while mark is not None:
        entry = mark.get_object()
        entry[NameObject("/Title")] = TextStringObject(next(names))
        rename(entry.get("/First"), names)
        mark = entry.get("/Next")


def finish(pdf: Path, page: str) -> int:
    """Mend the bookmarks, whose words Chromium joins where a heading is broken into lines.

    And say whose book it is. The number of pages.
    """
    writer = PdfWriter(clone_from=pdf)
    names = titles(page)
    rename(writer.root_object["/Outlines"].get("/First"), names)
    assert next(names, None) is None, "a heading without a bookmark"
    author = re.search(r"- name: (.*)", CITATION.read_text("utf-8"))[1]
    writer.add_metadata({"/Author": author, "/Creator": "Sphinx, printed by Chromium"})
    writer.page_mode = "/UseOutlines"
    writer.write(pdf)
    return len(writer.pages)


def print_book(source: Path, pdf: Path) -> int:
    """Print Sphinx's page `source` as a book; the number of its pages."""
    page, draft = typeset(source.read_text("utf-8")), source.parents[1] / "book.html"
    for _ in range(2):
        draft.write_text(page, "utf-8")
        pdf.unlink(missing_ok=True)
        print_page(draft, pdf)
        numbers = page_numbers(pdf)
        page = NUMBER.sub(lambda m, numbers=numbers: f"{m[1]}{numbers[m[2]]}", page)
    return finish(pdf, page)
