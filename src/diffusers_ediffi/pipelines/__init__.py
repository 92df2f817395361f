# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The cascade as pipelines of diffusers: text to image, image to image, inpainting."""
