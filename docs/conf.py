"""The site: MyST pages, and the reference from the docstrings. ``.ci/docs`` builds it; a warning is an error."""

import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_extensions"))
PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]

import ssdml_fast  # noqa: E402

project = "ssdml_fast"
author = PROJECT["authors"][0]["name"]
copyright = f"2026, {author}"
release = ssdml_fast.__version__
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "mathml",
    "settings_table",
]
exclude_patterns = ["_build"]
nitpicky = True
# References to other libraries lead nowhere: no inventory is fetched.
nitpick_ignore_regex = [("py:.*", r"(torch|numpy|scipy|sklearn|pytorch_metric_learning)\..*")]
suppress_warnings = ["config.cache"]

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_typehints = "none"  # the docstrings say shapes and types
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
numpydoc_show_class_members = False  # the template of a class lists them
numpydoc_xref_param_type = False
add_module_names = False
default_role = "code"  # `x` in a docstring is an argument

templates_path = ["_templates"]
html_theme = "pydata_sphinx_theme"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "github_url": PROJECT["urls"]["Source"],
    "logo": {"text": project},
    "navbar_align": "left",
    "navbar_persistent": ["search-button"],
    "header_links_before_dropdown": 6,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
ALONE = ("benchmarks", "changelog", "installation", "quickstart", "reproduction", "what_runs_where")
html_sidebars = {page: [] for page in ALONE}  # a section of one page has nothing to choose from
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def skip_field(app, what, name, obj, skip, options):
    """Leave out what the docstring of a class describes: fields of tuples and data classes, classes that it names."""
    is_field = type(obj).__name__ in ("_tuplegetter", "member_descriptor")
    return True if is_field or (what == "class" and isinstance(obj, type)) else skip


def setup(app):
    app.connect("autodoc-skip-member", skip_field)
