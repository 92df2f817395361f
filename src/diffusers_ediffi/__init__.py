# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""eDiff-I (arXiv 2211.01324) for diffusers: an ensemble of expert denoisers, from a sentence to an image.

Importing the package is cheap: a name below imports its module when it is first used, and diffusers learns about the
package as soon as both are imported, in either order.
"""

import importlib
import sys
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin

    from .demo.checkpoint import demo_checkpoint
    from .expert_tree import ENSEMBLES, NoiseInterval
    from .pipeline_ediffi import EDiffIPipeline, EDiffIPipelineOutput
    from .router import ExpertRouterUNet
    from .scheduling_edm_deis import EDMDEISScheduler
    from .unet import EDiffIUNet

__version__ = "0.1.0"

__all__ = [
    "ENSEMBLES",
    "DiffusionPipeline",
    "EDMDEISScheduler",
    "EDiffIPipeline",
    "EDiffIPipelineOutput",
    "EDiffIUNet",
    "ExpertRouterUNet",
    "ModelMixin",
    "NoiseInterval",
    "SchedulerMixin",
    "demo_checkpoint",
]

_MODULES = {
    "ENSEMBLES": ".expert_tree",
    "EDMDEISScheduler": ".scheduling_edm_deis",
    "EDiffIPipeline": ".pipeline_ediffi",
    "EDiffIPipelineOutput": ".pipeline_ediffi",
    "EDiffIUNet": ".unet",
    "ExpertRouterUNet": ".router",
    "NoiseInterval": ".expert_tree",
    "demo_checkpoint": ".demo.checkpoint",
    # diffusers looks for the base classes of a component in the library that model_index.json names.
    "DiffusionPipeline": "diffusers",
    "ModelMixin": "diffusers",
    "SchedulerMixin": "diffusers",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register() -> None:
    """Makes diffusers treat the package as one of its own.

    Without it, pipelines are saved under the paths of our modules, cannot be loaded by Hub id, and
    `DiffusionPipeline.from_pretrained` does not know `EDiffIPipeline`.
    """
    import diffusers
    from diffusers import pipelines
    from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES

    LOADABLE_CLASSES[__name__] = LOADABLE_CLASSES["diffusers"]
    sys.modules[f"diffusers.pipelines.{__name__}"] = sys.modules[__name__]
    setattr(pipelines, __name__, sys.modules[__name__])
    # `diffusers.EDiffIPipeline`, imported on first use: this may run while one of our modules is being imported.
    diffusers._class_to_module["EDiffIPipeline"] = f"pipelines.{__name__}"


class _RegisterAfterImport(MetaPathFinder):
    """Waits for somebody to import diffusers, which takes seconds that nobody should pay for `ediffi --help`."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "diffusers":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((found for finder in others if (found := finder.find_spec(fullname, path, target))), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module):
                execute(module)
                sys.meta_path.remove(self)
                _register()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


if "diffusers" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _RegisterAfterImport())
