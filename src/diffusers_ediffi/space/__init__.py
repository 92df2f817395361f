# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The Space: a page in the browser where words of a prompt are painted and drawn, `ediffi space`."""
