"""How Sphinx turns the README and the notebooks, as they lie in the repository, into a book.

`sphinx-build -c book . book/_build/html` makes the site. With `-b singlehtml -t printed` the same
files become the one long page that `pdf.py` prints.
"""

import sys
import tomllib
from pathlib import Path

BOOK = Path(__file__).parent
ROOT = BOOK.parent
sys.path.insert(0, str(BOOK))

printed = tags.has("printed")  # Sphinx puts `tags` here

project = "Build a large language model from scratch"
author = "The authors of the book"
project_copyright = "2026, " + author
about = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
version = release = about["project"]["version"]

extensions = ["myst_nb", "sources", "mathml"]
root_doc = "book/cover" if printed else "README"
include_patterns = ["README.md", "ch*/*.ipynb", "appendix_*/*.ipynb"]
include_patterns += ["book/cover.md"] if printed else ["CONTRIBUTING.md", "CHANGELOG.md"]
exclude_patterns = [".*", "**/.ipynb_checkpoints", "tests", "runs", "book/.*", "book/_*"]

# The notebooks are shown as they were committed; nothing is executed, nothing is fetched.
nb_execution_mode = "off"
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars
nb_render_error_lexer = "none"  # an error is a sentence, not a program
nb_ipywidgets_js = {}
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header", "misc.highlighting_failure"]
html_math_renderer = "mathml"

html_theme = "basic" if printed else "furo"
html_title = project
templates_path = ["templates"] if printed else []
html_static_path = ["static"]
html_css_files = ["print.css" if printed else "site.css"]
html_js_files = [] if printed else ["search_on_disk.js"]
html_extra_path = [] if printed else ["extra", "_build/pdf"]
html_permalinks = not printed
html_copy_source = False
html_use_index = False
highlight_language = "none"
pygments_style = "default"
pygments_dark_style = "github-dark"
html_theme_options = {} if printed else {"navigation_with_keys": True, "top_of_page_buttons": []}
