# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What is written and read: files that are whole, YAML of strangers, and repositories of the Hub with their cards."""

from .strict_yaml import MAX_CHARACTERS, load_yaml
from .whole import check_is_folder, saved_whole, write_json, written_whole

__all__ = ["MAX_CHARACTERS", "check_is_folder", "load_yaml", "saved_whole", "write_json", "written_whole"]
