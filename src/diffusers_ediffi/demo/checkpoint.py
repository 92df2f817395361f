# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Where the demo model lies that comes with the package."""

from pathlib import Path


def demo_checkpoint() -> str:
    """Returns the folder of the demo model, a small eDiff-I trained on scenes of emoji, ready for `from_pretrained`.

    Example:
        >>> from diffusers_ediffi import EDiffIPipeline, demo_checkpoint
        >>> pipe = EDiffIPipeline.from_pretrained(demo_checkpoint())

    Raises:
        FileNotFoundError: If the package was installed without its weights.
    """
    folder = Path(__file__).resolve().parent.parent / "assets" / "demo"
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(
            f"The demo model is missing: {folder} holds no model_index.json. Reinstall the package with its assets,"
            " or pass the folder or Hub id of another model."
        )
    return str(folder)
