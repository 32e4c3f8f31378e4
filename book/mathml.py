"""Formulas as MathML, which browsers draw themselves: no script, no fonts from elsewhere.

docutils translates the TeX. It knows no `\\tag` and no `align`; use `aligned`, and
`\\operatorname*{arg\\,max}`. A formula that it cannot read ends the build with its place.
"""

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.errors import SphinxError

CELL = 10_000  # myst-nb counts a notebook's lines from 10,000 times the number of the cell


def place(node: nodes.Node) -> str:
    """Where a formula stands, in words."""
    while node.parent is not None and node.line is None:
        node = node.parent
    path, line = node.source or "", node.line or 0
    return f"{path}, " + (f"cell {line // CELL}" if line >= CELL else f"line {line}")


def to_mathml(node: nodes.Node, as_block: bool) -> str:
    """The MathML of a formula; an error that names notebook and cell where there is none."""
    try:
        return tex2mathml(node.astext(), as_block=as_block)
    except (MathError, SyntaxError, ValueError, KeyError, IndexError) as error:
        raise SphinxError(f"{place(node)}: cannot draw {node.astext()!r}: {error}") from error


def visit_inline(writer, node: nodes.math) -> None:
    """A formula in a line of text."""
    writer.body.append(to_mathml(node, as_block=False))
    raise nodes.SkipNode


def visit_block(writer, node: nodes.math_block) -> None:
    """A formula in a line of its own."""
    writer.body.append(f'<div class="formula">{to_mathml(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app) -> dict:
    """Tell Sphinx about this module."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
