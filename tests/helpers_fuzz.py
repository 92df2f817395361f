# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What the fuzz tests share: damaged copies of valid inputs, and the judge of what a call makes of them.

A case is right if it ends in a result, or in an error that names what is wrong; either within `MAX_SECONDS` and
`MAX_BYTES`, and without writing, running or reaching anything outside of its folder.
"""

import contextlib
import copy
import os
import re
import resource
import signal
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

MAX_SECONDS = 5.0  # of the processor, so that a busy machine does not count
MAX_BYTES = 2**30
HANGS_AFTER = 20  # seconds of the clock
DEEPEST = 20  # places for changes: a deep value in a deep value would leave the stack no room, at some calls
ERRORS = (ValueError, TypeError, OSError)

# What JSON, YAML and callers can put into any place.
VALUES = (
    *(
        None,
        True,
        False,
        "",
        "a",
        "1",
        "nan",
        "../x",
        "/etc/passwd",
        "expert.0",
        "\x00",
        "\x1b[31mX",
        "\ud800",
        "x" * 3000,
    ),
    *(0, -1, 1, 2, 3, 7, 64, 10**6, 10**9, 2**31, 2**63, 10**18, 10**400, -(10**400)),
    *(-0.0, 0.5, 1.5, 1e-300, 5e-324, 1e308, float("nan"), float("inf"), -float("inf")),
    *([], [[]], {}, {"a": 1}, [None], [0], [1, 2], [0.1, 0.2], ["a"], [float("nan")], [10**400], [[0, 1]], [1] * 100),
)


@dataclass(frozen=True)
class Case:
    """An input, and the words of which an error must name one."""

    value: object
    words: tuple[str, ...] = ()


def nested(depth):
    value = 0
    for _ in range(depth):
        value = [value]
    return value


def values():
    """Any value in any place, some of them deep; a new one each time."""
    deep = st.sampled_from([20, 200, 900]).map(nested)
    numbers = st.floats() | st.integers(-(2**70), 2**70)
    return st.sampled_from(VALUES).map(copy.deepcopy) | numbers | st.text(max_size=20) | deep


def places(value, path=()):
    """The paths to all that a value of lists and dictionaries holds, at most `DEEPEST` long."""
    if len(path) == DEEPEST:
        return
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in items:
        yield (*path, key)
        yield from places(entry, (*path, key))


@st.composite
def damaged(draw, valid, further=()):
    """A copy of a value of lists and dictionaries with up to three changes; `further` are keys that may be added."""
    value, words = copy.deepcopy(valid), []
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 1, 1, 2, 3]))):
        paths = list(places(value))
        if not paths:
            break
        *parents, key = draw(st.sampled_from(paths))
        holder = value
        for parent in parents:
            holder = holder[parent]
        words += [str(name) for name in (*parents, key) if isinstance(name, str)]
        words += change(draw, holder, key, further)
    return Case(value, tuple(words))


def change(draw, holder, key, further):
    """Changes one entry of a list or dictionary; the words that an error may name besides its place."""
    old = holder[key]
    number = old if isinstance(old, int | float) and not isinstance(old, bool) and abs(old) < 1e300 else None
    how = draw(st.sampled_from(["value"] * 6 + ["like"] * 6 + ["remove", "add", "wrap", "repeat"]))
    if how == "remove":
        del holder[key]
        return words_of(old)
    if how == "add" and isinstance(holder, dict):
        key = draw(st.sampled_from(["extra", "_x", "_class_name", *further]))
        holder[key] = draw(values())
    elif how == "repeat" and isinstance(holder, list):
        holder += [copy.copy(entry) for entry in holder]
    elif how == "wrap":
        holder[key] = [old]
    elif how == "like" and number is not None:
        holder[key] = draw(
            st.sampled_from([-number, number * 2, number * 0.9, number + 1, float(number), str(number)])
        )
    elif how == "like" and isinstance(old, str):
        holder[key] = draw(st.sampled_from([old.upper(), old + "x", f"../{old}", old * 100, [old]]))
    else:
        holder[key] = draw(values())
    return [key if isinstance(key, str) else "", *words_of(old), *words_of(holder[key])]


def words_of(value):
    """What a message may show of a value: its beginning, and the names and texts in it."""
    inside = [entry for path in places(value) for entry in path if isinstance(entry, str)] if holds(value) else []
    leaves = [text for text in leaves_of(value) if isinstance(text, str)]
    return [str(value).strip("[](){}'")[:12], repr(value)[:12], *inside, *leaves][:50]


def holds(value):
    return isinstance(value, dict | list)


def leaves_of(value):
    """The values in lists and dictionaries that are neither."""
    left = [value]
    while left:
        entry = left.pop()
        if holds(entry):
            left += reversed(entry.values() if isinstance(entry, dict) else entry)
        else:
            yield entry


@st.composite
def damaged_bytes(draw, valid):
    """A copy of a file's content that is cut, or has other bytes in some places."""
    data = bytearray(draw(st.sampled_from(valid)))
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 1, 2, 4]))):
        how = draw(st.sampled_from(["byte", "byte", "cut", "long", "double", "head"]))
        at = draw(st.integers(0, max(0, min(len(data) - 1, 400)) if how == "head" else max(0, len(data) - 1)))
        if how == "cut":
            del data[at:]
        elif how == "double":
            data += data[: 2**16]
        else:
            new = draw(st.binary(min_size=1, max_size=8 if how == "long" else 1))
            data[at : at + len(new)] = new
    return bytes(data)


@dataclass
class Tally:
    """What became of the cases of a kind."""

    cases: int = 0
    results: int = 0
    slowest: float = 0.0
    most_bytes: int = 0
    faults: dict[str, str] = field(default_factory=dict)


TALLIES: dict[str, Tally] = {}


class Fault(AssertionError):
    """A case that ended in none of the ways it may."""


class Hangs(BaseException):
    """A case that does not end; no `Exception`, so that nothing takes it for its own."""


def fuzz(kind, cases, call, count, collect=False):
    """Judges `call(case.value)` for `count` cases.

    Args:
        kind: The name of the cases.
        cases: A strategy of [`Case`].
        call: What is tested; it returns the result, or fails an assertion of its own.
        count: How many cases.
        collect: Whether to go on after a fault and to name all kinds of faults at the end, instead of looking for the
            smallest case of the first.
    """
    tally = TALLIES.setdefault(kind, Tally())

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=not collect,
        phases=(Phase.generate,) if collect else (Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def every_case(case):
        try:
            judge(tally, call, case)
        except Fault as fault:
            if not collect:
                raise
            tally.faults.setdefault(signature(fault), f"{str(fault)[:600]}\n    case: {case.value!r:.600}")

    every_case()
    if tally.faults:
        pytest.fail(f"{len(tally.faults)} kinds of faults:\n" + "\n".join(tally.faults.values()), pytrace=False)


def signature(fault):
    """What faults of one cause share."""
    trace = fault.__cause__.__traceback__ if fault.__cause__ else None
    frames = []
    while trace:
        frames.append(f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{str(fault)[:40]} {frames[-4:]}"


def judge(tally, call, case):
    """Runs one case and counts it.

    Raises:
        Fault: It ended in none of the ways it may.
    """
    tally.cases += 1
    with tempfile.TemporaryDirectory() as folder, watched(folder) as seen:
        try:
            call(case.value, folder)
            tally.results += 1
        except ERRORS as error:
            seen.error = error
        except BaseException as error:  # panics of Rust and `Hangs` are no `Exception`
            seen.wrong = error
    tally.slowest = max(tally.slowest, seen.seconds)
    tally.most_bytes = max(tally.most_bytes, seen.bytes)
    if isinstance(seen.wrong, KeyboardInterrupt):
        raise seen.wrong
    fault = verdict(seen, case)
    if fault:
        raise Fault(fault) from seen.wrong or seen.error


def verdict(seen, case):
    """What is wrong with how a case ended, or `None`."""
    if seen.wrong is not None:
        return f"{type(seen.wrong).__name__}: {seen.wrong}"
    if seen.outside:
        return f"outside of its folder: {seen.outside[:3]}"
    if seen.seconds > MAX_SECONDS or seen.bytes > MAX_BYTES:
        return f"it took {seen.seconds:.1f} s and {seen.bytes >> 20} MB"
    message = str(seen.error).lower()
    named = any(len(word) > 2 and word.lower() in message for word in case.words)
    if seen.error is None or (named and not isinstance(seen.error, UnicodeError)):
        return None
    return f"{type(seen.error).__name__} names nothing of {case.words}: {seen.error}"


@dataclass
class Seen:
    """What a case did."""

    seconds: float = 0.0
    bytes: int = 0
    outside: list[str] = field(default_factory=list)
    error: Exception | None = None
    wrong: BaseException | None = None


@contextlib.contextmanager
def watched(folder):
    """Measures what the block does and what it touches outside of a folder; ends it where it hangs or takes all
    memory."""
    seen = Seen()

    def hang(*_):
        raise Hangs(f"it has not ended after {HANGS_AFTER} s")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(HANGS_AFTER)
    at_start, start = memory_at_start(), time.process_time()
    try:
        with limited_memory(), audited(folder, seen.outside), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield seen
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        seen.seconds = time.process_time() - start
        seen.bytes = max(0, status("VmHWM") - at_start)


def status(name):
    """An entry of Linux's status of this process, in bytes; 0 elsewhere."""
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        return int(re.search(rf"{name}:\s+(\d+) kB", file.read())[1]) * 1024
    return 0


def memory_at_start():
    """The memory in use; from here on its peak is counted anew."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return status("VmRSS")


@contextlib.contextmanager
def limited_memory():
    """Far above `MAX_BYTES`, so that a case that asks for all memory fails instead of the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + 4 * MAX_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


RUNS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "pty.spawn")
CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "shutil.rmtree")
_WATCHING: list[tuple[str, list[str]]] = []  # the folder and what was done outside of it


@contextlib.contextmanager
def audited(folder, outside):
    _WATCHING.append((folder, outside))
    try:
        yield
    finally:
        _WATCHING.pop()


def _audit(event, arguments):
    if not _WATCHING:
        return
    folder, outside = _WATCHING[-1]
    if event in RUNS:
        outside.append(f"{event} {arguments!r:.100}")
    elif event in CHANGES or (event == "open" and _writes(arguments[2])):
        path = arguments[1] if event in ("os.link", "os.rename", "os.symlink") else arguments[0]
        if isinstance(path, str | bytes | os.PathLike):
            path = os.path.abspath(os.fsdecode(path))
            if not path.startswith((folder, os.devnull, "/proc/self/")) and "__pycache__" not in path:
                outside.append(f"{event} {path}")


def _writes(flags):
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND))


sys.addaudithook(_audit)
