"""How Sphinx builds the site (`make docs`). The source folder is the repository: its pages read well there, too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for lab/, which is no distribution

project = "StreamSpace Agent"
author = "The StreamSpace Agent authors"
copyright = author  # noqa: A001 - Sphinx's own name
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "lab.site_extension"]
root_doc = "docs/index"
include_patterns = ["docs/**", "deployments/README.md", "plugins/*/README.md", "C*.md", "SECURITY.md"]
exclude_patterns = [".*", "build", "core", "lab", "tests", "dist", "**/tests", "**/src", "**/build"]
nitpicky = True  # lab.site_extension says for which pages
smartquotes = False
suppress_warnings = ["config.cache", "ref.python"]  # one name in two modules, such as Gateway

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}
add_module_names = False
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "StreamSpace Agent"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True
pygments_style = "friendly"
pygments_dark_style = "github-dark"
