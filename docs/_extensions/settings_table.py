"""The directive ``settings``: a table of settings from where they are declared.

``.. settings::`` is of :class:`ssdml_fast.train.Config`, ``.. settings:: DataSettings`` and ``.. settings::
NetworkSettings`` of those classes, ``.. settings:: ssdml`` of that method.
"""

from docutils import nodes
from docutils.parsers.rst import Directive

from ssdml_fast._settings import told
from ssdml_fast.data.settings import DataSettings
from ssdml_fast.methods import settings_of
from ssdml_fast.models.settings import NetworkSettings
from ssdml_fast.train import Config

COLUMNS = (("Setting", 20), ("Default", 12), ("Limits", 18), ("Meaning", 50))
BESIDE = {kind.__name__: kind for kind in (DataSettings, NetworkSettings)}  # those of a method


class SettingsTable(Directive):
    optional_arguments = 1

    def run(self):
        table, group = nodes.table(classes=["settings"]), nodes.tgroup(cols=len(COLUMNS))
        table += group
        group += [nodes.colspec(colwidth=width) for _, width in COLUMNS]
        head, body = nodes.thead(), nodes.tbody()
        group += [head, body]
        head += row([nodes.paragraph(text=title) for title, _ in COLUMNS])
        for each in told(settings_named(*self.arguments)):
            name, default = (nodes.literal(text=text) for text in (each.name, str(each.default)))
            told_of = (nodes.paragraph(text=text) for text in (each.limits, each.help))
            body += row([nodes.paragraph("", "", name), nodes.paragraph("", "", default), *told_of])
        return [table]


def settings_named(name=None):
    if name is None:
        return Config
    return BESIDE[name] if name in BESIDE else settings_of(name)


def row(cells):
    entries = [nodes.entry("", cell) for cell in cells]
    return nodes.row("", *entries)


def setup(app):
    app.add_directive("settings", SettingsTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
