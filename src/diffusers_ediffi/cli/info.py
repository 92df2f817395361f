# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`ediffi info PICTURE`: how a picture was made, as its file says."""

import argparse
from typing import Any

from ..provenance import Provenance, as_json, read_provenance
from .messages import say, say_json


def describe_picture(args: argparse.Namespace) -> None:
    """Prints the provenance of `args.picture`, one entry on a line, or all of it as JSON."""
    if args.model is not None:
        raise ValueError("info describes a picture or a --model, not both at once.")
    provenance = read_provenance(args.picture)
    if args.json:
        say_json({"file": str(args.picture), **as_dict(provenance)})
        return
    heading = {"software": provenance.software, "source type": provenance.digital_source_type}
    for name, value in {**heading, **provenance.settings}.items():
        say(f"{as_json(name)[1:-1]:<22}{as_json(_without_masks(value) if name == 'regions' else value)}")


def as_dict(provenance: Provenance) -> dict[str, Any]:
    """Provenance as JSON has it; what was not given is left out."""
    settings = {name: value for name, value in provenance.settings.items() if value is not None}
    return {
        "software": provenance.software,
        "digital_source_type": provenance.digital_source_type,
        "settings": settings,
    }


def _without_masks(regions: Any) -> Any:
    """Regions whose painted masks are shown as "picture", since they have thousands of characters."""
    if not isinstance(regions, list):
        return regions
    return [
        {**region, "mask": "picture"} if isinstance(region, dict) and isinstance(region.get("mask"), str) else region
        for region in regions
    ]
