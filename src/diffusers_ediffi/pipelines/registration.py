# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Makes diffusers treat the package as one of its own, without importing diffusers.

Without this, pipelines would be saved under the paths of our modules, could not be loaded by Hub id,
`DiffusionPipeline.from_pretrained` and `AutoPipelineForText2Image` would not know `EDiffIPipeline`, and `from_config`
between schedulers would not find `EDMDEISScheduler`.

Three modules of diffusers are changed, each as soon as it is imported, or at once where it has been. Importing them
for that purpose would take seconds, which `import diffusers_ediffi` is not to cost. Until then a finder on
`sys.meta_path` waits for them: it leaves the finding to the finders behind it and lets the loader of these modules
call their step of `STEPS`. Imports nothing of this package.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, cast

PACKAGE = __name__.partition(".")[0]
CLASSES = ("EDiffIPipeline", "EDiffIImg2ImgPipeline", "EDiffIInpaintPipeline", "EDMDEISScheduler")

# What diffusers finds a pipeline for a task by, and ours.
TASKS = {
    "AutoPipelineForText2Image": ("AUTO_TEXT2IMAGE_PIPELINES_MAPPING", "EDiffIPipeline"),
    "AutoPipelineForImage2Image": ("AUTO_IMAGE2IMAGE_PIPELINES_MAPPING", "EDiffIImg2ImgPipeline"),
    "AutoPipelineForInpainting": ("AUTO_INPAINT_PIPELINES_MAPPING", "EDiffIInpaintPipeline"),
}


def register() -> None:
    """Changes the modules of `STEPS` that have been imported and sees to it that the others will be; it may be called
    again."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    for name, step in STEPS.items():
        if name in sys.modules:
            step(importlib.import_module(name))  # waits for a thread that is importing it
    _stop_waiting()


def _serve_classes(diffusers: ModuleType) -> None:
    """`diffusers.EDiffIPipeline` and the others, which are imported when somebody asks for them."""

    def serve(name: str) -> Any:
        if name in TASKS:
            _join_auto_pipelines()
        if name not in CLASSES:
            raise AttributeError(f"module {diffusers.__name__!r} has no attribute {name!r}")
        value = getattr(sys.modules[PACKAGE], name)
        setattr(diffusers, name, value)
        return value

    # Asked before the `__getattr__` of diffusers' class of lazy modules (PEP 562).
    vars(diffusers)["__getattr__"] = serve


def _join_auto_pipelines() -> None:
    """`AutoPipelineForText2Image` and the others, when somebody asks `diffusers` for them, find the pipelines of their
    task."""
    auto_pipeline = importlib.import_module("diffusers.pipelines.auto_pipeline")
    for mapping, name in TASKS.values():
        getattr(auto_pipeline, mapping)["ediffi"] = getattr(sys.modules[PACKAGE], name)


def _stand_among_pipelines(pipelines: ModuleType) -> None:
    """`diffusers.pipelines.diffusers_ediffi` is the package."""
    sys.modules[f"{pipelines.__name__}.{PACKAGE}"] = sys.modules[PACKAGE]
    setattr(pipelines, PACKAGE, sys.modules[PACKAGE])


def _allow_loading(pipeline_loading_utils: ModuleType) -> None:
    """Components whose library is the package are loaded and saved by the methods that those of diffusers have."""
    loadable = pipeline_loading_utils.LOADABLE_CLASSES
    loadable[PACKAGE] = loadable["diffusers"]


# In the order in which they are imported.
STEPS: dict[str, Callable[[ModuleType], None]] = {
    "diffusers": _serve_classes,
    "diffusers.pipelines": _stand_among_pipelines,
    "diffusers.pipelines.pipeline_loading_utils": _allow_loading,
}


class _Finder:
    """Finds the modules of `STEPS` as the finders behind it do, with a loader that calls [`register`]."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        finders = sys.meta_path
        if name not in STEPS or self not in finders:
            return None
        for finder in finders[finders.index(self) + 1 :]:
            spec = finder.find_spec(name, path, target) if hasattr(finder, "find_spec") else None
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = cast(Any, _Loader(spec.loader))
                return spec
        return None


class _Loader:
    """The loader of a module of diffusers in all respects; it leaves no trace in the module."""

    def __init__(self, loader: Any):
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what pickle and copy ask of an instance that is still empty
            raise AttributeError(name)
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        register()  # all steps that are due, since another thread may have imported a module before the finder stood


def _stop_waiting() -> None:
    """Takes the finder away when all modules have been imported."""
    if all(name in sys.modules for name in STEPS):
        # A new list: a thread that walks along this one would skip a finder.
        sys.meta_path = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
