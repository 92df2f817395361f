# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""eDiff-I (arXiv 2211.01324) for diffusers: an ensemble of expert denoisers, from a sentence to an image."""

import sys

import diffusers.pipelines
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES

from ._version import __version__
from .attention_recorder import AttentionRecorder, record_attention
from .demo.checkpoint import demo_checkpoint
from .experts.adapter import ExpertAdapter
from .experts.factorize import factorize_expert
from .experts.lora import LoraExpert
from .experts.noise_interval import ENSEMBLES, NoiseInterval
from .experts.router import ExpertRouterUNet
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

# diffusers treats the package as one of its own. Without these lines pipelines would be saved under the paths of our
# modules, could not be loaded by Hub id, and `DiffusionPipeline.from_pretrained` would not know `EDiffIPipeline`.
LOADABLE_CLASSES[__name__] = LOADABLE_CLASSES["diffusers"]
sys.modules[f"diffusers.pipelines.{__name__}"] = sys.modules[__name__]
# Not `from diffusers import pipelines`: in this module that name is our room.
setattr(diffusers.pipelines, __name__, sys.modules[__name__])
diffusers.EDiffIPipeline = EDiffIPipeline
diffusers.EDiffIImg2ImgPipeline = EDiffIImg2ImgPipeline
diffusers.EDiffIInpaintPipeline = EDiffIInpaintPipeline
# `from_config` between schedulers looks a class up by its name in diffusers.
diffusers.EDMDEISScheduler = EDMDEISScheduler
