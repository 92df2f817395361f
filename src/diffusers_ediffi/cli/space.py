# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`ediffi space`: the page in the browser where words of a prompt are painted and drawn."""

import argparse

from ..space.app import build_app, launch
from ..space.drawing import Drawer
from .device import usable_device
from .messages import one_line, say
from .model import quiet


def space(args: argparse.Namespace) -> None:
    """Loads the model, and serves the page until Ctrl-C."""
    device = usable_device(args.device)
    quiet()
    try:
        drawer = Drawer.load(args.model, device)
    except Exception as error:  # there is no end to the errors that damaged or foreign files raise
        raise ValueError(f"cannot load {args.model!r}: {type(error).__name__}: {one_line(error)}") from error
    blocks = build_app(drawer)
    try:
        _, address, public = launch(
            blocks,
            drawer.limits,
            server_name=args.host,
            server_port=args.port,
            share=args.share,
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise ValueError(f"cannot serve on {args.host} port {args.port}: {one_line(error)}") from None
    for place in filter(None, (address, public)):
        say(f"The page is at {place} (Ctrl-C ends it)")
    blocks.block_thread()
