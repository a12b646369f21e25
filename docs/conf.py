"""How the pages are built: ``make docs`` writes them to build/docs, without a network and with warnings as errors."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import pyro_vaes

project = "pyro-vaes"
author = "The pyro-vaes developers"
copyright = "2026, the pyro-vaes developers"
version = release = pyro_vaes.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx-mathjax-offline",
    "generated",
    "docstrings",
]
exclude_patterns = ["_ext", "_static"]
myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3
# The notebooks are executed by `make notebooks`, and shown as they were committed.
nb_execution_mode = "off"
nb_merge_streams = True

# A forward that says nothing does not repeat what torch says of every module.
autodoc_inherit_docstrings = False
# Single backticks in docstrings are code too.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
add_module_names = False
# A name in single backticks is code, not the title of a book.
default_role = "code"
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = "pyro-vaes"
# Otherwise the theme complains on everybody's first visit.
html_context = {"default_mode": "auto"}
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_js_files = [("figures.js", {"defer": "defer"})]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 6,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": False,
}
html_sidebars = {"index": [], "explore": [], "quickstart": []}
