# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""eDiff-I (arXiv 2211.01324) for diffusers: an ensemble of expert denoisers, from a sentence to an image.

Importing the package imports neither torch nor diffusers; a public name is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

from .pipelines.registration import register

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin

    from .attention_recorder import AttentionRecorder, record_attention
    from .demo.checkpoint import demo_checkpoint
    from .experts.adapter import ExpertAdapter
    from .experts.factorize import factorize_expert
    from .experts.lora import LoraExpert
    from .experts.noise_interval import ENSEMBLES, NoiseInterval
    from .experts.router import ExpertRouterUNet
    from .models.text_projection import UnCLIPTextProjection
    from .models.unet import EDiffIUNet
    from .paint.attention_mass import measure_attention_mass
    from .paint.paint_with_words import paint_with_words
    from .paint.processor import PaintWithWordsAttnProcessor
    from .paint.regions import PaintRegion, regions_from_color_map
    from .pipelines.pipeline_ediffi import EDiffIPipeline, EDiffIPipelineOutput
    from .pipelines.pipeline_ediffi_img2img import EDiffIImg2ImgPipeline
    from .pipelines.pipeline_ediffi_inpaint import EDiffIInpaintPipeline
    from .provenance import Provenance, read_provenance, save_image
    from .schedulers.scheduling_edm_deis import EDMDEISScheduler

__all__ = [
    "ENSEMBLES",
    "AttentionRecorder",
    # diffusers looks for the base classes of a component in the library that model_index.json names.
    "DiffusionPipeline",
    "EDMDEISScheduler",
    "EDiffIImg2ImgPipeline",
    "EDiffIInpaintPipeline",
    "EDiffIPipeline",
    "EDiffIPipelineOutput",
    "EDiffIUNet",
    "ExpertAdapter",
    "ExpertRouterUNet",
    "LoraExpert",
    "ModelMixin",
    "NoiseInterval",
    "PaintRegion",
    "PaintWithWordsAttnProcessor",
    "Provenance",
    "SchedulerMixin",
    "UnCLIPTextProjection",
    "__version__",
    "demo_checkpoint",
    "factorize_expert",
    "measure_attention_mass",
    "paint_with_words",
    "read_provenance",
    "record_attention",
    "regions_from_color_map",
    "save_image",
]

# Where the public names come from; the imports above say the same to editors and type checkers.
_MODULES = {
    "ENSEMBLES": ".experts.noise_interval",
    "AttentionRecorder": ".attention_recorder",
    "DiffusionPipeline": "diffusers",
    "EDMDEISScheduler": ".schedulers.scheduling_edm_deis",
    "EDiffIImg2ImgPipeline": ".pipelines.pipeline_ediffi_img2img",
    "EDiffIInpaintPipeline": ".pipelines.pipeline_ediffi_inpaint",
    "EDiffIPipeline": ".pipelines.pipeline_ediffi",
    "EDiffIPipelineOutput": ".pipelines.pipeline_ediffi",
    "EDiffIUNet": ".models.unet",
    "ExpertAdapter": ".experts.adapter",
    "ExpertRouterUNet": ".experts.router",
    "LoraExpert": ".experts.lora",
    "ModelMixin": "diffusers",
    "NoiseInterval": ".experts.noise_interval",
    "PaintRegion": ".paint.regions",
    "PaintWithWordsAttnProcessor": ".paint.processor",
    "Provenance": ".provenance",
    "SchedulerMixin": "diffusers",
    "UnCLIPTextProjection": ".models.text_projection",
    "demo_checkpoint": ".demo.checkpoint",
    "factorize_expert": ".experts.factorize",
    "measure_attention_mass": ".paint.attention_mass",
    "paint_with_words": ".paint.paint_with_words",
    "read_provenance": ".provenance",
    "record_attention": ".attention_recorder",
    "regions_from_color_map": ".paint.regions",
    "save_image": ".provenance",
}


if not TYPE_CHECKING:  # a type checker would take every name for a public one

    def __getattr__(name: str) -> Any:
        """Imports a public name when it is first used (PEP 562)."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_MODULES[name], __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register()
