# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`ediffi info PICTURE`: how a picture was made, as its file says."""

import argparse

from ..provenance import as_json, read_provenance
from .messages import say


def describe_picture(args: argparse.Namespace) -> None:
    """Prints the provenance of `args.picture`, one entry on a line."""
    if args.model is not None:
        raise ValueError("info describes a picture or a --model, not both at once.")
    provenance = read_provenance(args.picture)
    heading = {"software": provenance.software, "source type": provenance.digital_source_type}
    for name, value in {**heading, **provenance.settings}.items():
        say(f"{as_json(name)[1:-1]:<22}{as_json(value)}")
