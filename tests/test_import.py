# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What `import diffusers_ediffi` costs, what it serves, and how diffusers hears of it, in fresh processes."""

import ast
import inspect
import subprocess
import sys

import pytest

import diffusers_ediffi
from diffusers_ediffi.pipelines.registration import CLASSES, STEPS, register


def run(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


# --- what it costs ---


def test_the_import_costs_nothing():
    heavy = ("PIL", "diffusers", "huggingface_hub", "numpy", "torch", "transformers")
    assert run(f"import sys, diffusers_ediffi; print([name for name in {heavy} if name in sys.modules])") == "[]\n"


# --- what it serves ---


def test_listed_names_exist():
    for name in diffusers_ediffi.__all__:
        assert getattr(diffusers_ediffi, name).__doc__
    assert set(diffusers_ediffi.__all__) <= set(dir(diffusers_ediffi))


def test_type_checkers_see_the_names_where_they_are():
    """The imports under `TYPE_CHECKING` and the table that runs name the same modules."""
    (block,) = (
        node
        for node in ast.parse(inspect.getsource(diffusers_ediffi)).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = {alias.name: "." * node.level + node.module for node in block.body for alias in node.names}
    assert seen == diffusers_ediffi._MODULES
    assert sorted([*seen, "__version__"]) == sorted(diffusers_ediffi.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'diffusers_ediffi' has no attribute 'EDiffIPipelin'"):
        diffusers_ediffi.EDiffIPipelin  # noqa: B018


def test_a_module_may_be_imported_first_of_all():
    """Its classes are pickled by their names, and `*` brings them all."""
    code = """
import diffusers_ediffi.pipelines.pipeline_ediffi as module
import pickle, diffusers, diffusers_ediffi
from diffusers_ediffi import *
assert EDiffIPipeline is module.EDiffIPipeline is diffusers.EDiffIPipeline
for name in diffusers_ediffi.__all__:
    assert globals()[name] is getattr(diffusers_ediffi, name)
classes = [value for value in globals().values() if isinstance(value, type)]
assert len(classes) > 10 and pickle.loads(pickle.dumps(classes)) == classes
assert isinstance(pickle.loads(pickle.dumps(EDMDEISScheduler())), EDMDEISScheduler)
"""
    run(code)


# --- how diffusers hears of it ---

ORDERS = {
    "diffusers first": "import diffusers.pipelines.pipeline_utils, diffusers_ediffi",
    "diffusers second": "import diffusers_ediffi, diffusers",
    "in two threads": """
import importlib, threading
names = ("diffusers", "diffusers_ediffi")
threads = [threading.Thread(target=importlib.import_module, args=[name]) for name in names]
[thread.start() for thread in threads], [thread.join() for thread in threads]
import diffusers, diffusers_ediffi
""",
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_diffusers_knows_the_package(order):
    code = """
import sys
assert "diffusers_ediffi.pipelines.pipeline_ediffi" not in sys.modules, "imported when it is used"
from diffusers import EDMDEISScheduler, EDMEulerScheduler
assert EDMDEISScheduler is diffusers_ediffi.EDMDEISScheduler
other = EDMEulerScheduler.from_config(EDMDEISScheduler(sigma_max=60.0).config)
assert EDMDEISScheduler.from_config(other.config).config.sigma_max == 60.0
assert diffusers.pipelines.diffusers_ediffi is diffusers_ediffi
import diffusers.pipelines.diffusers_ediffi
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(diffusers_ediffi.demo_checkpoint())
assert type(pipe) is diffusers_ediffi.EDiffIPipeline is diffusers.EDiffIPipeline
from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES
assert LOADABLE_CLASSES["diffusers_ediffi"] is LOADABLE_CLASSES["diffusers"]
assert not hasattr(diffusers, "EDiffIPipelin")
assert not [finder for finder in sys.meta_path if "diffusers_ediffi" in type(finder).__module__], "it is done"
"""
    run(order + code)


def test_diffusers_finds_the_pipeline_of_a_task():
    code = """
import diffusers_ediffi
from diffusers import AutoPipelineForImage2Image, AutoPipelineForInpainting, AutoPipelineForText2Image
pipe = AutoPipelineForText2Image.from_pretrained(diffusers_ediffi.demo_checkpoint())
assert type(pipe) is diffusers_ediffi.EDiffIPipeline
edit = AutoPipelineForImage2Image.from_pipe(pipe)
assert type(edit) is diffusers_ediffi.EDiffIImg2ImgPipeline and edit.unet is pipe.unet
fill = AutoPipelineForInpainting.from_pretrained(diffusers_ediffi.demo_checkpoint())
assert type(fill) is diffusers_ediffi.EDiffIInpaintPipeline
assert type(AutoPipelineForText2Image.from_pipe(fill)) is diffusers_ediffi.EDiffIPipeline
"""
    run(code)


def test_waiting_for_diffusers_is_not_seen():
    """By those who look for diffusers before it is imported, by other finders, and in the imported modules."""
    code = """
import copy, importlib, importlib.util, pickle, sys
class Other:
    asked = []
    def find_spec(self, name, path=None, target=None):
        self.asked.append(name)
sys.meta_path.insert(0, Other())
import diffusers_ediffi
sys.meta_path.insert(0, Other())
importlib.reload(diffusers_ediffi)
assert sum("diffusers_ediffi" in type(finder).__module__ for finder in sys.meta_path) == 1
spec = importlib.util.find_spec("diffusers")
assert "diffusers" not in sys.modules and spec.loader.get_source("diffusers").startswith("__version__")
for again in (copy.deepcopy(spec), pickle.loads(pickle.dumps(spec))):
    assert again.origin == spec.origin and again.loader.path == spec.origin
assert importlib.util.find_spec("diffusers_of_nobody") is None
Other.asked.clear()
import diffusers
assert Other.asked.count("diffusers") == 2, "each is asked once"
finders = type(spec.loader._loader)
for module in (diffusers, diffusers.pipelines, importlib.import_module("diffusers.pipelines.pipeline_loading_utils")):
    assert type(module.__spec__.loader) is finders and type(module).__name__ in ("module", "_LazyModule")
assert type(module.__loader__) is finders
assert pickle.loads(pickle.dumps(diffusers)).__name__ == "diffusers"
assert importlib.reload(diffusers).__version__ and importlib.reload(diffusers_ediffi) is diffusers_ediffi
from diffusers import EDiffIPipeline
"""
    run(code)


@pytest.mark.parametrize("name", STEPS)
def test_registering_again_changes_nothing(name):
    finders = list(sys.meta_path)
    before = dict(vars(sys.modules[name]))
    register()
    assert sys.meta_path == finders and set(vars(sys.modules[name])) == set(before)


def test_the_classes_are_public():
    assert set(CLASSES) <= set(diffusers_ediffi.__all__)
