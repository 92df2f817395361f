# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""How many cases the fuzz tests try: few in the suite, and always the same; by hand as many as asked for, others each
time, as with `pytest tests/fuzz --fuzz-cases 20000`, which ends in a table.
"""

import diffusers.utils.logging
import helpers_fuzz
import pytest
import transformers.utils.logging
from helpers import tiny_pipeline

SHORT = 300  # in all, for the suite


def pytest_addoption(parser):
    parser.addoption("--fuzz-cases", type=int, help="how many hostile inputs tests/fuzz tries in all")


@pytest.fixture
def fuzz(request):
    """`helpers_fuzz.fuzz`, whose `count` is a share of all cases."""
    asked = request.config.getoption("--fuzz-cases", None)

    def run(kind, cases, call, share):
        helpers_fuzz.fuzz(kind, cases, call, max(1, round(share * (asked or SHORT))), collect=asked is not None)

    return run


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--fuzz-cases", None) is None:
        return
    write = terminalreporter.write_line
    write(f"{'kind':<34}{'cases':>7}{'results':>9}{'errors':>8}{'faults':>8}{'slowest':>10}{'memory':>9}")
    for kind, tally in helpers_fuzz.TALLIES.items():
        write(
            f"{kind:<34}{tally.cases:>7}{tally.results:>9}{tally.cases - tally.results:>8}{len(tally.faults):>8}"
            f"{tally.slowest:>8.1f} s{tally.most_bytes >> 20:>6} MB"
        )


@pytest.fixture(scope="session", autouse=True)
def quiet():
    """Nobody reads what the libraries say of thousands of cases."""
    modules = (diffusers.utils.logging, transformers.utils.logging)
    before = [module.get_verbosity() for module in modules]
    for module in modules:
        module.set_verbosity(100)
        module.disable_progress_bar()
    yield
    for module, verbosity in zip(modules, before, strict=True):
        module.set_verbosity(verbosity)
        module.enable_progress_bar()


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A saved pipeline of 8 and 32 pixels, for the command line."""
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline(unet_sr1024=None, scheduler_sr1024=None, default_num_inference_steps=(1, 1)).save_pretrained(folder)
    return folder
