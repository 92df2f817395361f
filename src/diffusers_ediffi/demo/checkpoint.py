# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Where the demo model lies that comes with the package."""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "demo"


def demo_checkpoint() -> str:
    """Returns the folder of the demo model, a small eDiff-I trained on scenes of emoji, ready for `from_pretrained`.

    Example:
        >>> from diffusers_ediffi import EDiffIPipeline, demo_checkpoint
        >>> pipe = EDiffIPipeline.from_pretrained(demo_checkpoint())

    Raises:
        FileNotFoundError: If the package was installed without its weights.
    """
    if not (FOLDER / "model_index.json").is_file():
        raise FileNotFoundError(
            f"The demo model is missing: {FOLDER} holds no model_index.json. Reinstall the package with its assets,"
            " or pass the folder or Hub id of another model."
        )
    return str(FOLDER)
