"""What every notebook of the book uses: its plot style, and a look at the code it imports."""

import inspect
import warnings
from pathlib import Path
from textwrap import dedent, fill

import matplotlib.pyplot as plt
from IPython import get_ipython
from IPython.display import Markdown, display

__all__ = ["show_source", "use_book_style", "wrapped"]

# Without ipywidgets a progress bar is drawn as text, which is what the book wants.
warnings.filterwarnings("ignore", message="IProgress not found")


def use_book_style() -> None:
    """Draw the figures from here on in the book's style (`book.mplstyle`).

    And print the last line of an error alone: a chapter's errors are made on purpose.
    """
    plt.style.use(Path(__file__).with_name("book.mplstyle"))
    if (shell := get_ipython()) is not None:
        shell.InteractiveTB.set_mode("Minimal")


def show_source(*things: object) -> None:
    """Show the code of functions, classes or methods, as it stands in the file it came from.

    What is read is then what is imported, down to the last character.
    """
    code = "\n\n".join(dedent(inspect.getsource(thing)).strip() for thing in things)
    display(Markdown(f"```python\n{code}\n```"))


def wrapped(text: str, width: int = 96) -> str:
    """The text with its long lines broken, as a page needs it."""
    return "\n".join(fill(line, width) for line in text.splitlines())
