# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The networks: eDiff-I's U-Nets, their attention, and what they are conditioned on."""
