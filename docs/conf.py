"""Sphinx configuration: `make docs`."""

from importlib.metadata import version as _version

project = "rvdflow"
author = "The rvdflow developers"
copyright = author
release = version = _version("rvdflow")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "rvdflow"
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
suppress_warnings = ["docutils", "ref.python", "myst.header"]
nitpicky = False
