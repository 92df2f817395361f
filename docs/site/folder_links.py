# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Links to folders of the repository: on the site they lead to the folder's README, or are plain text without one."""

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref


def setup(app: Any) -> dict[str, bool]:
    app.connect("doctree-read", replace)
    return {"parallel_read_safe": True}


def replace(app: Any, doctree: nodes.document) -> None:
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
