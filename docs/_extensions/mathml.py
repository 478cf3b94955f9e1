"""Formulas as MathML, which browsers set by themselves: a page loads no script and no font from elsewhere."""

from docutils import nodes
from latex2mathml.converter import convert

BARS = "<mo>&#x02016;</mo>"  # of a norm; left to themselves they stretch with what stands beside them, each differently


def mathml(node, display):
    return convert(node.astext(), display=display).replace(BARS, BARS.replace("<mo>", '<mo stretchy="false">'))


def visit_inline(translator, node):
    translator.body.append(mathml(node, "inline"))
    raise nodes.SkipNode


def visit_block(translator, node):
    translator.body.append(f'<div class="formula">{mathml(node, "block")}</div>')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
