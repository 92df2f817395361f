# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""A stage's network at one step: which images pass it at a time, and what it is called with."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from .conditioning import CLASS_LABELS, NOISE, NOISE_LEVEL
from .guidance import Guidance
from .inputs import Embeddings
from .stages import Stage


def batches(sample: torch.Tensor, guidance: Guidance, pixels_per_call: int) -> Iterator[slice]:
    """Which images of a sample (images, 3, height, width) pass the network at a time.

    An image may have two rows in the network's batch; with more of them fewer images pass.
    """
    pixels = max(2, len(guidance.rows)) * sample.shape[-1] * sample.shape[-2]
    count = max(1, 2 * pixels_per_call // pixels)
    for start in range(0, len(sample), count):
        yield slice(start, start + count)


def network_input(
    stage: Stage, guidance: Guidance, model_input: torch.Tensor, low_res: torch.Tensor | None
) -> torch.Tensor:
    """The network's sample: the scaled noisy images (images, 3, height, width), beside their low-resolution images in
    super-resolution, once for each row of guidance: (rows x images, 3 or 6, height, width)."""
    x = model_input if low_res is None else torch.cat([model_input, low_res], dim=1)
    return torch.cat([x] * len(guidance.rows)).to(stage.unet.dtype)


def network_conditions(
    stage: Stage, guidance: Guidance, embeds: Embeddings, images: slice, x: torch.Tensor
) -> dict[str, Any]:
    """The network's arguments beside sample `x` and timestep: what each row is conditioned on, and the noise on the
    low-resolution image where the network is told it."""
    values: dict[str, Any] = {}
    for argument, source in stage.inputs.arguments.items():
        if source in NOISE:
            value = _noise_of(stage, source, x)
        elif source == CLASS_LABELS:  # no row of guidance goes without
            labels = embeds[CLASS_LABELS]
            value = None if labels is None else labels[images].repeat(len(guidance.rows))
        else:
            value = guidance.rows_of(source, stage, embeds, images, len(x) // len(guidance.rows))
            value = None if value is None else value.to(stage.unet.dtype)
        values[argument] = value
    arguments = _nested(values)
    projected = arguments.pop("text_proj", None)
    if projected is not None:
        arguments |= _projected(stage.text_proj, projected)
    _pad_mask(arguments)
    if arguments.get("class_labels", 0) is None:  # a network without this condition
        del arguments["class_labels"]
    return arguments


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    """`{"a.b": 1}` as `{"a": {"b": 1}}`."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        outer, _, inner = name.partition(".")
        if inner:
            nested.setdefault(outer, {})[inner] = value
        else:
            nested[name] = value
    return nested


def _noise_of(stage: Stage, source: str, x: torch.Tensor) -> torch.Tensor | None:
    """The noise on the low-resolution image for every row, as the network is told it."""
    level = stage.noise_level
    if level is None:
        return None
    told = level if source == NOISE_LEVEL else stage.inputs.noise_timestep(level)
    return torch.full((len(x),), told, device=x.device)


def _projected(text_proj: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """What a network of unCLIP is called with, made of the embeddings of text and picture."""
    context, added = text_proj(**arguments)
    return {"encoder_hidden_states": context, "class_labels": added}


def _pad_mask(arguments: dict[str, Any]) -> None:
    """A mask of the text is open for the columns that stand before it."""
    mask = arguments.get("attention_mask")
    if mask is not None:
        missing = arguments["encoder_hidden_states"].shape[1] - mask.shape[1]
        arguments["attention_mask"] = F.pad(mask, (missing, 0), value=1)


def predict(
    pipe: Any,
    stage: Stage,
    sample: torch.Tensor,
    low_res: torch.Tensor | None,
    timestep: torch.Tensor,
    guidance: Guidance,
    embeds: Embeddings,
) -> torch.Tensor:
    """The guided output (batch, 3, size, size) in float32: the network's, for some images at a time."""
    model_input, outputs, rescale = stage.scheduler.scale_model_input(sample, timestep), [], pipe._guidance_rescale
    sigma = stage.parametrization.sigma_of(timestep).to(sample.device) if rescale else sample.new_ones(())
    coefficients = stage.parametrization.coefficients(sigma)
    for images in batches(sample, guidance, pipe.pixels_per_call):
        x = network_input(stage, guidance, model_input[images], None if low_res is None else low_res[images])
        conditions = network_conditions(stage, guidance, embeds, images, x)
        pipe._announce(stage, guidance, images, len(sample))
        output = stage.unet(x, timestep, **conditions, return_dict=False)[0].float()
        noisy = stage.from_sample(sample[images], sigma) if rescale else sample[images]
        guided = guidance.combine(output[:, : stage.channels], noisy, coefficients, rescale)
        if stage.learned_variance:  # for schedulers that add noise
            guided = torch.cat([guided, output[-len(guided) :, stage.channels :]], dim=1)
        outputs.append(guided)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def select_painted(stage: Stage, guidance: Guidance, images: slice, num_images: int) -> None:
    """Tells the stage's painting which of all images the network is called with."""
    if stage.painting is None:
        return
    prompts = len(stage.painting.regions)
    of_images = [image * prompts // num_images for image in range(num_images)]
    stage.painting.select(of_images[images], *guidance.painted_rows(stage.conditioning.text_encoders))
