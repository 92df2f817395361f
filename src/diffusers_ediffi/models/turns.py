# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Threads take turns on what they share: the networks, schedulers and pipelines that a call changes while it draws.

Locks are kept here, by weak references, since networks and pipelines are copied and pickled, which locks cannot be.
Imports nothing of this package.
"""

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

_GUARD = threading.Lock()
_LOCKS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def _start_anew() -> None:
    """In a forked process, where the threads that had locks are no more."""
    global _GUARD, _LOCKS
    _GUARD, _LOCKS = threading.Lock(), WeakKeyDictionary()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


class _Held(threading.local):
    """What the turn of a thread holds."""

    things: tuple[Any, ...] = ()


_HELD = _Held()


def lock_of(thing: Any) -> Any:
    """The lock of an object, always the same one; a thread may take it again while it has it."""
    with _GUARD:
        return _LOCKS.setdefault(thing, threading.RLock())


@contextmanager
def turn(things: Iterable[Any]) -> Iterator[None]:
    """Keeps objects for the thread in the `with` block; waits while another thread has any of them.

    A thread that has a turn already does not wait, since two such threads might wait for each other. A callback must
    not wait for another thread that wants what the running call has: nothing tells it.

    Args:
        things (iterable): The objects.

    Raises:
        ValueError: The thread itself has one of them, as in a callback that calls its pipeline, or it has a turn and
            another thread has one of them.
    """
    wanted = tuple({id(thing): thing for thing in things}.values())
    before = _HELD.things
    if any(thing is held for thing in wanted for held in before):
        raise ValueError(
            "a callback calls a pipeline whose networks or schedulers the running call is using: call it after this "
            "call, or give it copies (copy.deepcopy) of them."
        )
    # In the same order everywhere, so that threads do not wait for each other.
    locks = sorted((lock_of(thing) for thing in wanted), key=id)
    with ExitStack() as stack:
        for lock in locks:
            if not lock.acquire(blocking=not before):
                raise ValueError(
                    "a callback calls a pipeline whose networks or schedulers another thread is using: call it after "
                    "this call, or give it copies (copy.deepcopy) of them."
                )
            stack.callback(lock.release)
        _HELD.things = before + wanted
        try:
            yield
        finally:
            _HELD.things = before
