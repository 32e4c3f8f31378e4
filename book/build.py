"""Makes the book: `_build/pdf/book.pdf` and, with it, the site in `_build/html`.

Offline, from the notebooks as they lie in the repository; nothing is executed.
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pdf

BOOK = Path(__file__).parent
BUILD = BOOK / "_build"
PDF = BUILD / "pdf" / "book.pdf"


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


def main() -> None:
    """The PDF first, so that the site can carry it."""
    start = time.monotonic()
    print(make_pdf())
    site = sphinx("html")
    print(f"{(site / 'index.html').relative_to(BOOK.parent)}: the site")
    print(f"made in {time.monotonic() - start:.0f} seconds")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
