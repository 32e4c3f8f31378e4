"""What is changed in the README and in a notebook on the way into the book.

The files stay as they are. Sphinx hands over each text before it is read (`source-read`), and here
the list of chapters is added, links are led to the pages of the book, and, for the printed book,
hints and answers are moved to the end.
"""

import json
import re
from pathlib import Path

DETAILS = re.compile(r"<details[^>]*>\s*<summary>(.*?)</summary>(.*?)</details>", re.S)
LANDMARK = re.compile(r"^#+ +(?P<heading>.+)|^\*\*(?P<question>\d+)\.", re.M)
FENCE = re.compile(r"(^```.*?^```$)", re.S | re.M)


def chapters(root: Path) -> list[str]:
    """The notebooks that are there, without `.ipynb`, in the order in which they are read."""
    folders = sorted(root.glob("ch[0-9]*")) + sorted(root.glob("appendix_*"))
    return [
        path.relative_to(root).with_suffix("").as_posix()
        for folder in folders
        for path in sorted(
            folder.glob("*.ipynb"), key=lambda path: (path.stem == "exercises", path.stem)
        )
    ]


def toctree(names: list[str], *options: str) -> str:
    """The list of pages, as Sphinx wants it written."""
    return "\n".join(["", "```{toctree}", *options, "", *names, "```", ""])


def homes(names: list[str]) -> dict[str, str]:
    """Where a reader is led who follows the name of a folder or of a notebook."""
    found = {}
    for name in names:
        found.setdefault(name.split("/")[0], name + ".ipynb")
        found[name + ".ipynb"] = name + ".ipynb"
    return found


def lead_to_pages(text: str, names: list[str]) -> str:
    """Links to chapter folders go to their pages, and names of chapters in code become links.

    >>> lead_to_pages("Begin with `ch01_overview`.", ["ch01_overview/overview"])
    'Begin with [`ch01_overview`](ch01_overview/overview.ipynb).'
    """
    pages = homes(names)
    parts = FENCE.split(text)
    for i in range(0, len(parts), 2):  # the odd ones are code
        for name, page in pages.items():
            parts[i] = re.sub(rf"\]\((\./)?{re.escape(name)}/?\)", f"]({page})", parts[i])
            parts[i] = re.sub(rf"(?<!\[)`{re.escape(name)}/?`", f"[`{name}`]({page})", parts[i])
    return "".join(parts)


def front_page(text: str, names: list[str], book_is_there: bool) -> str:
    """The README of the site: with the contents, and the printed book where there is one."""
    pdf = '\n\nThe same as <a href="book.pdf">one PDF</a>.\n' * book_is_there
    contents = "\n\n## Contents\n" + toctree(names, ":maxdepth: 1")
    about = toctree(["CONTRIBUTING", "CHANGELOG"], ":hidden:", ":caption: The project")
    return lead_to_pages(text, names) + contents + pdf + about


def foreword(text: str, names: list[str]) -> str:
    """The README of the printed book, which has the chapters only."""
    text = re.sub(r"^# .*", "# Before you begin", text, count=1)
    text = re.sub(r"\[(\w+)\]\(\1\.md\)", r"`\1.md`", text)
    return lead_to_pages(text, names)


def one_title(cells: list[dict]) -> None:
    """A page has one title: what stands below it as large as a title becomes a section."""
    seen = False
    for cell in cells:
        lines = FENCE.split(cell["source"])
        for i in range(0, len(lines), 2):
            if seen:
                lines[i] = re.sub(r"^# ", "## ", lines[i], flags=re.M)
            seen = seen or bool(re.search(r"^# ", lines[i], re.M))
        cell["source"] = "".join(lines)


class Answers:
    """Takes what can be opened on a screen out of the text, for the end of the printed chapter."""

    def __init__(self, name: str):
        """Answers of the notebook `name`; the anchors carry its name, since the PDF has many."""
        self.name = name.replace("/", "-")
        self.heading = self.question = ""
        self.taken: list[str] = []

    def take_from(self, text: str) -> str:
        """The text with a page number wherever something could be opened."""
        kept, end = [], 0
        for match in DETAILS.finditer(text):
            kept.append(self._look_around(text[end : match.start()]))
            kept.append(self._take(match[1].strip(), match[2].strip()))
            end = match.end()
        return "".join(kept) + self._look_around(text[end:])

    def _look_around(self, text: str) -> str:
        for mark in LANDMARK.finditer(text):
            self.heading = mark["heading"] or self.heading
            self.question = mark["question"] or ""
        return text

    def _take(self, summary: str, body: str) -> str:
        anchor = f"answer-{self.name}-{len(self.taken) + 1}"
        title = self.heading + (f", {self.question}" if self.question else "")
        self.taken.append(f'<span id="{anchor}">**{title}.**</span> *{summary}.* {body}')
        page = f'<a class="page" href="#{anchor}">000</a>'
        return f'<span class="answer">{summary}: page&nbsp;{page}</span>'


def print_answers_last(cells: list[dict], name: str) -> None:
    """Hints and answers stand at the end of the notebook, each with a page number in its place."""
    answers = Answers(name)
    for cell in cells:
        cell["source"] = answers.take_from(cell["source"])
    if answers.taken:
        text = "\n\n".join(["## Hints and answers", *answers.taken])
        cells.append({"cell_type": "markdown", "id": "answers", "metadata": {}, "source": text})


def notebook(text: str, name: str, printed: bool) -> str:
    """The text of a notebook file as the book wants it."""
    content = json.loads(text)
    for number, cell in enumerate(content["cells"], 1):
        cell["source"] = "".join(cell["source"])
        cell.setdefault("id", f"cell-{number}")
    prose = [cell for cell in content["cells"] if cell["cell_type"] == "markdown"]
    one_title(prose)
    if printed:
        before = len(prose)
        print_answers_last(prose, name)
        content["cells"] += prose[before:]
    return json.dumps(content)


def edit(app, name: str, source: list[str]) -> None:
    """Sphinx has read the file `name`: change its text before it is parsed."""
    printed = app.tags.has("printed")
    names = chapters(Path(app.srcdir))
    if name in names:
        source[0] = notebook(source[0], name, printed)
        return
    source[0] = source[0].replace("```sh\n", "```text\n")  # a backslash there is no escape
    if name == "README" and printed:
        source[0] = foreword(source[0], names)
    elif name == "README":
        pdf = Path(app.confdir) / "_build" / "pdf" / "book.pdf"
        source[0] = front_page(source[0], names, pdf.exists())
    elif name == "book/cover":
        source[0] = source[0].replace("VERSION", app.config.version)
        source[0] += toctree(["/README", *("/" + name for name in names)])


def setup(app) -> dict:
    """Tell Sphinx about this module."""
    app.connect("source-read", edit)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
