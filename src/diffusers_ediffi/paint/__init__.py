# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Paint-with-words: regions, and the attention that is led to them, in our networks and in those of diffusers."""
