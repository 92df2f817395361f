# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Experts: several denoisers, each for an interval of noise levels, behind the call of one."""
