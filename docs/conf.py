"""Sphinx builds the course's site from this (``make site``)."""

from importlib import metadata

project = "kdcourse"
release = metadata.version(project)
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_design",
    "sphinx-mathjax-offline",
]
nb_execution_mode = "off"  # outputs are stored
nb_merge_streams = True
nb_render_markdown_format = "myst"  # tables that cells print
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 2
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"  # signatures with the types of twenty knobs are walls
autodoc_typehints_description_target = "documented"

html_theme = "pydata_sphinx_theme"
html_title = "Knowledge distillation, taught and measured"
# Room for wide tables and lines of code.
PAGES = "claims", "leaderboard", "published", "benchmarks", "guide", "loops", "teaching"
WIDE = *PAGES, "changes", "conformance", "gpu", "notebooks/*", "examples/*"
html_sidebars = {page: [] for page in WIDE}
html_static_path = ["static"]
templates_path = ["templates"]
html_css_files = ["course.css"]
html_js_files = ["versions.js"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": project},
    "header_links_before_dropdown": 4,
    "navbar_end": ["versions", "theme-switcher"],
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": [],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
