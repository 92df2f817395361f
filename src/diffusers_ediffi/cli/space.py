# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`ediffi space`: the page in the browser where words of a prompt are painted and drawn."""

import argparse
import socket

from ..space.app import build_app, launch
from ..space.drawing import Drawer
from .device import usable_device
from .messages import one_line, say
from .model import quiet


def space(args: argparse.Namespace) -> None:
    """Loads the model, and serves the page until Ctrl-C."""
    _check_free(args.host, args.port)
    device = usable_device(args.device)
    quiet()
    try:
        drawer = Drawer.load(args.model, device)
    except Exception as error:  # there is no end to the errors that damaged or foreign files raise
        raise ValueError(f"cannot load {args.model!r}: {type(error).__name__}: {one_line(error)}") from error
    blocks = build_app(drawer)
    where = {"server_name": args.host, "server_port": args.port, "share": args.share}
    _, address, public = launch(blocks, drawer.limits, quiet=True, prevent_thread_lock=True, **where)
    for place in filter(None, (address, public)):
        say(f"The page is at {place} (Ctrl-C ends it)")
    blocks.block_thread()


def _check_free(host: str, port: int | None) -> None:
    """Refuses an address that cannot be served on, before a model is loaded."""
    try:
        with socket.create_server((host, port or 0)):
            pass
    except OSError as error:
        raise ValueError(f"cannot serve on --host {host} --port {port or 'any'}: {one_line(error)}") from None
