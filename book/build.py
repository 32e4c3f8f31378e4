"""Makes the book: `_build/pdf/book.pdf` and, with it, the site in `_build/html`.

Offline, from the notebooks as they lie in the repository; nothing is executed. The README's figure
is taken from them, too.
"""

import base64
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pdf

BOOK = Path(__file__).parent
BUILD = BOOK / "_build"
PDF = BUILD / "pdf" / "book.pdf"
LADDER = BOOK.parent / "ch05_pretraining" / "pretraining.ipynb", "draw_ladder("


def sphinx(builder: str, *options: str) -> Path:
    """Run one of Sphinx's builders on the repository; the folder of what it made."""
    target = BUILD / builder
    shutil.rmtree(target, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-q", "-E", "-b", builder, *options]
    command += ["-d", BUILD / "doctrees" / builder, "-c", BOOK, BOOK.parent, target]
    subprocess.run(command, check=True)
    return target


def make_pdf() -> str:
    """Print the book where there is Chromium; what came of it."""
    shutil.rmtree(PDF.parent, ignore_errors=True)
    PDF.parent.mkdir(parents=True)
    if pdf.find_chromium() is None:
        return f"no PDF: printing {pdf.INSTALL}"
    page = sphinx("singlehtml", "-t", "printed") / "book" / "cover.html"
    return f"{PDF.relative_to(BOOK.parent)}: {pdf.print_book(page, PDF)} pages"


def picture(notebook: Path, code: str) -> bytes:
    """The PNG that the last cell with this code in it drew when the notebook was executed."""
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    drawn = [cell for cell in cells if code in "".join(cell["source"]) and cell.get("outputs")][-1]
    data = [output["data"] for output in drawn["outputs"] if "data" in output]
    return base64.b64decode(next(d["image/png"] for d in data if "image/png" in d))


def main() -> None:
    """The PDF first, so that the site can carry it."""
    start = time.monotonic()
    (BOOK / "ladder.png").write_bytes(picture(*LADDER))
    print(make_pdf())
    site = sphinx("html")
    print(f"{(site / 'index.html').relative_to(BOOK.parent)}: the site")
    print(f"made in {time.monotonic() - start:.0f} seconds")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
