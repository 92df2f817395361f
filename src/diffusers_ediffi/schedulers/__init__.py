# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The sampler: DEIS for EDM-style and discrete-time models, as a scheduler of diffusers."""
