"""Sphinx's settings for the pages that pages.py has prepared."""

import os

project, author, copyright = "The AdaLN course", "the AdaLN course authors", "the AdaLN course authors, CC BY 4.0"
extensions = ["myst_nb", "sphinx.ext.mathjax"]
nb_execution_mode = "off"  # the notebooks are stored executed
nb_render_markdown_format = "myst"  # so that formulas in outputs are typeset
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
myst_dmath_double_inline = True
suppress_warnings = ["mystnb.unknown_mime_type", "myst.header"]

mathjax_path = "mathjax/tex-svg-full.js"  # one file, with its letters in it
mathjax3_config = {"options": {"enableMenu": False}}  # the menu would fetch more

html_theme = "sphinx_book_theme"
html_title = project
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system
html_static_path = ["_static"]
html_extra_path = ["extra"]
html_css_files = ["site.css"]
html_js_files = ["cards.js", "explorers.js"]
html_copy_source = False
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navbar_persistent": [],  # one field for the search is enough, and it stands above the list of pages
    "show_navbar_depth": 1,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
if repository := os.environ.get("ADALN_LAB_REPOSITORY"):
    html_theme_options |= {"repository_url": repository, "use_repository_button": True}
