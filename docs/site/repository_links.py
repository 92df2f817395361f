# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What pages link in the repository and Sphinx knows nothing of: folders, and the pictures in README's HTML.

A link to a folder leads to its README on the site, and is plain text without one.
"""

import re
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref


def setup(app: Any) -> dict[str, bool]:
    app.connect("doctree-read", replace_folders)
    app.connect("build-finished", copy_pictures)
    return {"parallel_read_safe": True}


def copy_pictures(app: Any, error: Exception | None) -> None:
    """Puts the pictures of README's HTML where its page looks for them."""
    root, site = Path(app.srcdir), Path(app.outdir)
    for name in re.findall(r'<img src="([^":]+)"', (root / "README.md").read_text(encoding="utf-8")):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, site / name)


def replace_folders(app: Any, doctree: nodes.document) -> None:
    """Replaces the links of a page whose target is a folder."""
    root, page = Path(app.srcdir), app.env.docname
    for node in list(doctree.findall(pending_xref)):
        folder = root / Path(page).parent / node["reftarget"]
        if node["reftype"] != "myst" or not folder.is_dir():
            continue
        content = nodes.inline("", "", *(child.deepcopy() for child in node.children))
        if (folder / "README.md").is_file():
            target = f"/{folder.resolve().relative_to(root.resolve()).as_posix()}/README"
            options = {"refdomain": "std", "reftype": "doc", "reftarget": target, "refexplicit": True, "refdoc": page}
            content = pending_xref("", content, **options)
        node.replace_self(content)
