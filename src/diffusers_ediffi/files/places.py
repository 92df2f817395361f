# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Names of folders of this machine, which configurations hold and which do not go to the Hub."""

import json
from pathlib import Path
from typing import Any


def configs_without_places(folder: Path) -> dict[str, str]:
    """The JSON files in a folder that say from which folder they were loaded, without that, by their places."""
    changed: dict[str, str] = {}
    for path in sorted(folder.rglob("*.json")):
        text = path.read_text(encoding="utf-8")
        if '"_name_or_path"' in text:
            content = json.loads(text)
            if content != (content := without_places(content)):
                changed[path.relative_to(folder).as_posix()] = json.dumps(content, indent=2) + "\n"
    return changed


def without_places(value: Any) -> Any:
    """JSON without entries that name a folder; the names of repositories stay."""
    if isinstance(value, list):
        return [without_places(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    return {
        key: without_places(entry) for key, entry in value.items() if not (key == "_name_or_path" and _is_place(entry))
    }


def _is_place(name: Any) -> bool:
    """Whether a name is that of a folder of some machine, rather than of a repository such as ORG/NAME."""
    text = str(name)
    return Path(text).exists() or text.startswith((".", "/", "~")) or "\\" in text or text.count("/") > 1
