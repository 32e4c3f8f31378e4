"""Formulas as MathML, which browsers draw themselves: no script, no fonts from elsewhere.

docutils translates the TeX. It knows no `\\tag` and no `align`; use `aligned`, and
`\\operatorname*{arg\\,max}`. What it knows under another name only is given that name here. A
formula that it cannot read ends the build with its place.
"""

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.errors import SphinxError

OTHER_NAMES = {
    r"(?<=\d)\{,\}(?=\d)": ",",
    r"\\dots\b": r"\\ldots",
    r"\\(big|Big|bigg|Bigg)(?=\s*[(\[])": r"\\\1l",
    r"\\(big|Big|bigg|Bigg)(?=\s*[)\]])": r"\\\1r",
}
THIN = '<mspace width="0.17em"/>'
NAME_WITH_INDEX = r"<(msu[bp])>\s*<mi>[a-z]{2,}</mi>\s*<m([in])>[^<]*</m\2>\s*</\1>"
LEANS = re.compile(r"(<msub(?:sup)?>\s*)?<mi>(?=[FPTVWY]</mi>)")
FACTOR = r"(?:</m(?:i|n|su[bp]|subsup|frac|sqrt|row)>|[)\]]</mo>)\s*"
FUNCTION = r"(?:(?<=su[bp])>\s*<mi)?>(?:arg|cos|exp|ln|log|sin|tan|tanh)</mi>"
FACTOR_BEFORE_FUNCTION = re.compile(rf"({FACTOR}<m(?:i|su[bp]))(?={FUNCTION})")
OPERATOR_NAME = re.compile(r'<mo( movablelimits="true")?>(?=([a-z]{2,}</mo>)(\s*<mo)?)[a-z]+</mo>')
CELL = 10_000  # myst-nb counts a notebook's lines from 10,000 times the number of the cell


def place(node: nodes.Node) -> str:
    """Where a formula stands, in words."""
    while node.parent is not None and node.line is None:
        node = node.parent
    path, line = node.source or "", node.line or 0
    return f"{path}, " + (f"cell {line // CELL}" if line >= CELL else f"line {line}")


def spaced(mathml: str) -> str:
    """As TeX has it: thin spaces around log in "a log p", none between min and its bracket.

    And a little room behind a letter that leans over what comes next, but for an index.
    """
    mathml = re.sub(r"<mo>&ApplyFunction;</mo>(?!\s*<mo)", THIN, mathml)
    mathml = re.sub(NAME_WITH_INDEX + r"(?=\s*<m[^o])", lambda m: m[0] + THIN, mathml)
    mathml = FACTOR_BEFORE_FUNCTION.sub(r'\1 style="margin-left: 0.17em"', mathml)
    mathml = LEANS.sub(lambda m: m[0] if m[1] else '<mi style="padding-right: 0.1em">', mathml)
    mathml = mathml.replace("<mo>'</mo>", "<mo>′</mo>").replace("<mo>*</mo>", "<mo>∗</mo>")
    return OPERATOR_NAME.sub(
        lambda m: f'<mo{m[1] or ""} lspace="0.17em" rspace="{0 if m[3] else "0.17em"}">{m[2]}',
        mathml,
    )


def to_mathml(node: nodes.Node, as_block: bool) -> str:
    """The MathML of a formula; an error that names notebook and cell where there is none."""
    tex = node.astext()
    for name, known in OTHER_NAMES.items():
        tex = re.sub(name, known, tex)
    try:
        return spaced(tex2mathml(tex, as_block=as_block))
    except (MathError, SyntaxError, ValueError, KeyError, IndexError) as error:
        raise SphinxError(f"{place(node)}: cannot draw {tex!r}: {error}") from error


def keep_punctuation(app, doctree: nodes.document) -> None:
    """What touches a formula in a line of text stays in its line: a comma, a bracket."""
    for formula in list(doctree.findall(nodes.math)):
        parent, at = formula.parent, formula.parent.index(formula)
        kept = nodes.inline("", "", formula, classes=["kept"])
        after = parent[at + 1] if at + 1 < len(parent) else None
        if isinstance(after, nodes.Text) and (touching := re.match(r"\S+", after)):
            kept += nodes.Text(touching[0])
            parent[at + 1] = nodes.Text(after[touching.end() :])
        before = parent[at - 1] if at else None
        if isinstance(before, nodes.Text) and (touching := re.search(r"\S+$", before)):
            kept.insert(0, nodes.Text(touching[0]))
            parent[at - 1] = nodes.Text(before[: touching.start()])
        parent[at] = kept


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
    app.connect("doctree-read", keep_punctuation)
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
