# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`python -m diffusers_ediffi` is `ediffi`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
