# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""A Space: Hugging Face runs this file, and so does `python app.py` here."""

import os

from diffusers_ediffi.space.app import build_app, launch

launch(build_app(os.environ.get("MODEL")))
