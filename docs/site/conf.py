# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Settings of the documentation site.

    pip install -c constraints.txt -e ".[docs]"
    sphinx-build -W --keep-going -c docs/site . build/site && python docs/site/check_links.py build/site

The root of the repository is the source folder, so that links between pages are the same here and on GitHub.
"""

import sys
from pathlib import Path

import diffusers_ediffi

sys.path.insert(0, str(Path(__file__).parent))

project = "diffusers_ediffi"
author = "The diffusers_ediffi authors"
project_copyright = f"2026, {author}"
release = version = diffusers_ediffi.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_parser",
    "sphinx_design",
    "sphinx_copybutton",
    "docstrings",
    "program_help",
    "repository_links",
]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "docs/api/*.md", "examples/README.md", "conversion/README.md"]
exclude_patterns = [".*", "benchmarks", "build", "dist", "noto*", "outputs", "runs", "src", "tests"]

myst_enable_extensions = ["colon_fence", "html_image"]
myst_heading_anchors = 4

nitpicky = True
smartquotes_action = "qe"  # quotes and ellipses: -- is an option
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say types, with shapes
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_preprocess_types = False

html_theme = "furo"
html_title = "diffusers_ediffi"
html_static_path = ["static"]
html_logo = "static/logo.svg"
html_favicon = "static/logo.svg"
html_extra_path = ["extra"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#b8371f", "color-brand-content": "#a33019"},
    "dark_css_variables": {"color-brand-primary": "#ff9b7d", "color-brand-content": "#ff9b7d"},
}
copybutton_exclude = ".linenos, .gp, .go"
