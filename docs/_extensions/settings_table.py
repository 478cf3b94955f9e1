"""The directive ``settings``: a table of the training's settings, from where they are declared."""

import dataclasses

from docutils import nodes
from docutils.parsers.rst import Directive

from ssdml_fast.train import Config

COLUMNS = (("Setting", 22), ("Default", 14), ("Meaning", 64))


class Settings(Directive):
    def run(self):
        table, group = nodes.table(classes=["settings"]), nodes.tgroup(cols=len(COLUMNS))
        table += group
        group += [nodes.colspec(colwidth=width) for _, width in COLUMNS]
        head, body = nodes.thead(), nodes.tbody()
        group += [head, body]
        head += row([nodes.paragraph(text=title) for title, _ in COLUMNS])
        for field in dataclasses.fields(Config):
            name, default = (nodes.literal(text=text) for text in (field.name, str(field.default)))
            meaning = nodes.paragraph(text=field.metadata["help"])
            body += row([nodes.paragraph("", "", name), nodes.paragraph("", "", default), meaning])
        return [table]


def row(cells):
    entries = [nodes.entry("", cell) for cell in cells]
    return nodes.row("", *entries)


def setup(app):
    app.add_directive("settings", Settings)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
