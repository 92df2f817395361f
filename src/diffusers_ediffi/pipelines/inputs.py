# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What `EDiffIPipeline` is called with: refused here, before anything expensive runs, where it is wrong.

Every error is a `ValueError` that names the argument, its value and what to pass instead.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import torch

from ..checks import MAX_INFERENCE_STEPS, is_number
from ..discrete_time import has_betas
from ..models.encoder_table import CLIP_IMAGE, ENCODERS, TEXT_EMBEDDINGS, TEXT_ENCODERS, Encoder
from .prompt_schedule import PromptSchedule

OUTPUT_TYPES = ("pil", "np", "pt", "latent")

Embeddings = dict[str, torch.Tensor | None]
GuidanceScale = float | dict[str, float]


@dataclass(frozen=True)
class Stage:
    """One network of the cascade with its scheduler.

    Args:
        label (`str`): Its name in messages.
        unet, scheduler: The network and its scheduler.
        size (`int`): Height and width of its images.
        noise_level (`float`, *optional*): Noise on the low-resolution image; `None` where the network is not told any.
    """

    label: str
    unet: Any
    scheduler: Any
    size: int
    noise_level: float | None = None


def stages_up_to(stages: list[Stage], height: int | None, width: int | None) -> list[Stage]:
    """The stages that draw an image of this size, by default all that are loaded."""
    sizes = [stage.size for stage in stages]
    wanted = [size for size in (height, width) if size is not None] or [sizes[-1]]
    if wanted[0] != wanted[-1] or not all(is_number(size, Integral) and size in sizes for size in wanted):
        raise ValueError(
            f"height={height!r} and width={width!r} are no size of this pipeline: images are square and the "
            f"loaded stages draw {', '.join(map(str, sizes))} pixels; choose one of these or load a further stage."
        )
    return stages[: sizes.index(wanted[0]) + 1]


def check_inputs(
    pipe: Any,
    stages: list[Stage],
    prompt: Any,
    negative_prompt: Any,
    style_image: Any,
    given: Embeddings,
    num_images_per_prompt: Any,
    generator: Any,
    latents: torch.Tensor | None,
) -> None:
    """Refuses what the pipeline cannot draw. The arguments are those of its `__call__`, `given` its embeddings by
    name, `style_image` a list with an entry for each row."""
    for stage in stages:
        _check_scheduler(stage)
    if len({id(stage.scheduler) for stage in stages}) < len(stages):
        raise ValueError("two stages share a scheduler, which carries state; give each stage its own scheduler.")
    if not is_number(num_images_per_prompt, Integral) or num_images_per_prompt < 1:
        raise ValueError(f"num_images_per_prompt={num_images_per_prompt!r} must be a whole number of at least 1.")
    for name, tensor in {**given, "latents": latents}.items():
        _check_tensor(name, tensor)
    _check_text(pipe, "prompt", prompt, given)
    _check_text(pipe, "negative_prompt", negative_prompt, given)
    if prompt is None and style_image is None and _given_embedding(given) is None:
        raise ValueError("there is nothing to draw; pass prompt, prompt_schedule, embeddings or style_image.")
    batch_size = batch_size_of(prompt, style_image, given)
    _check_images(pipe, style_image, given, batch_size)
    if isinstance(negative_prompt, list) and len(negative_prompt) != batch_size:
        raise ValueError(
            f"negative_prompt lists {len(negative_prompt)} texts for {batch_size} prompts; pass one for each."
        )
    _check_embeddings(pipe.unet.config, given, batch_size)
    images = batch_size * num_images_per_prompt
    generators = generator if isinstance(generator, list) else [generator] * images
    if not all(one is None or isinstance(one, torch.Generator) for one in generators):
        raise ValueError(f"generator={generator!r} must be a torch.Generator or a list of them.")
    if len(generators) != images:
        raise ValueError(f"generator lists {len(generators)} generators for {images} images; pass one for each.")
    shape = (images, stages[0].unet.config.out_channels, stages[0].size, stages[0].size)
    if latents is not None and tuple(latents.shape) != shape:
        raise ValueError(f"latents have shape {tuple(latents.shape)}; the base stage starts from {shape}.")


def _check_text(pipe: Any, name: str, text: Any, given: Embeddings) -> None:
    """`name` is `prompt` or `negative_prompt`; only the latter may be an empty text."""
    tokens, pooled, tokens_2, mask_2 = (name.removesuffix("prompt") + part for part in TEXT_EMBEDDINGS)
    if (given[tokens] is None) != (given[pooled] is None):
        raise ValueError(f"{tokens} and {pooled} belong together; pass both or neither.")
    if given[mask_2] is not None and given[tokens_2] is None:
        raise ValueError(f"{mask_2} without {tokens_2} has no meaning; pass both.")
    if text is None:
        return
    texts = text if isinstance(text, list) and text else [text]
    if not all(isinstance(one, str) for one in texts):
        raise ValueError(f"{name}={text!r} must be a text or a list of texts.")
    if name == "prompt" and not all(one.strip() for one in texts):
        raise ValueError(f"prompt={text!r} is empty; say what to draw, or pass embeddings or style_image alone.")
    if given[tokens] is not None or given[tokens_2] is not None:
        raise ValueError(f"pass either {name} or {tokens} and {tokens_2}, not both.")
    if pipe.text_encoder is None and pipe.text_encoder_2 is None:
        raise ValueError(f"{name} needs a text encoder and none is loaded; load one or pass {tokens}.")


def _check_images(pipe: Any, style_image: Any, given: Embeddings, batch_size: int) -> None:
    if pipe.safety_checker is not None and not hasattr(pipe.safety_checker.config, "vision_config"):
        raise ValueError(
            f"safety_checker is a {type(pipe.safety_checker).__name__}, whose config has no vision_config; pass "
            "Stable Diffusion's or DeepFloyd IF's, or safety_checker=None."
        )
    if style_image is None:
        return
    if pipe.image_encoder is None or pipe.feature_extractor is None:
        raise ValueError("style_image needs image_encoder and feature_extractor; load both or pass image_embeds.")
    images = len(style_image)
    if images not in (1, batch_size) or not images:
        raise ValueError(f"style_image holds {images} images for {batch_size} prompts; pass one, or one for each.")


def check_style(style_image: Any, style_scale: Any, image_embeds: Any) -> None:
    """What can be said of a style before its pictures are read."""
    if not is_number(style_scale, Real) or not 0 <= style_scale < math.inf:
        raise ValueError(f"style_scale={style_scale!r} must be a number of at least 0; 1 is usual, 0 is no style.")
    if style_image is not None and image_embeds is not None:
        raise ValueError("pass either style_image or image_embeds, not both.")


def check_style_weights(weights: Any, references: int) -> None:
    if weights is None:
        return
    values = list(weights) if isinstance(weights, list | tuple) else []
    if not all(is_number(one, Real) and 0 <= one < math.inf for one in values) or not sum(values):
        raise ValueError(f"weights={weights!r} must be a list of numbers of at least 0, not all of them 0.")
    if len(values) != references:
        raise ValueError(f"weights lists {len(values)} numbers for {references} references; pass one for each.")


def check_prompt_schedule(schedule: Any, prompt: Any, given: Embeddings) -> PromptSchedule | None:
    """Reads `prompt_schedule`, a list of (prompt, share of the steps)."""
    if schedule is None:
        return None
    if prompt is not None or any(given.get(name) is not None for name in TEXT_EMBEDDINGS):
        raise ValueError("pass either prompt_schedule or prompt (or its embeddings), not both.")
    entries = schedule if isinstance(schedule, list | tuple) else []
    if not entries or not all(isinstance(entry, list | tuple) and len(entry) == 2 for entry in entries):
        raise ValueError(f'prompt_schedule={schedule!r} must be a list such as [("a cat", 0.0), ("a dog", 0.3)].')
    prompts, shares = zip(*entries, strict=True)
    if not all(is_number(share, Real) and 0 <= share <= 1 for share in shares):
        raise ValueError(f"the shares {shares} of prompt_schedule must be numbers from 0 to 1.")
    if shares[0] != 0 or any(one >= other for one, other in zip(shares, shares[1:], strict=False)):
        raise ValueError(f"the shares {shares} of prompt_schedule are out of order; start with 0, then increase.")
    for text in prompts:
        texts = text if isinstance(text, list) and text else [text]
        if not all(isinstance(one, str) and one.strip() for one in texts):
            raise ValueError(f"{text!r} in prompt_schedule must be a text or a list of texts, none of them empty.")
    rows = {len(text) for text in prompts if isinstance(text, list)}
    if len(rows) > 1:
        raise ValueError(f"prompt_schedule lists {sorted(rows)} prompts; give one, or one for each row, throughout.")
    texts = [[text] * max(rows) if rows and isinstance(text, str) else text for text in prompts]
    return PromptSchedule(texts, [float(share) for share in shares])


def _check_embeddings(config: Any, given: Embeddings, batch_size: int) -> None:
    """Shapes: tokens (batch, 77 or up to 113, width), vectors (batch, width), the mask (batch, tokens)."""
    for encoder in ENCODERS.values():
        for prefix in ("", "negative_") if encoder in TEXT_ENCODERS else ("",):
            for name, width in encoder.widths.items():
                _check_embedding(encoder, f"{prefix}{name}", given[f"{prefix}{name}"], config[width], batch_size)
            if encoder.mask is not None:
                _check_mask(f"{prefix}{encoder.sequence}", given, given[f"{prefix}{encoder.mask}"])


def _check_embedding(encoder: Encoder, name: str, embedding: torch.Tensor | None, width: int, batch_size: int) -> None:
    if embedding is None:
        return
    shape = tuple(embedding.shape)
    is_sequence = encoder in TEXT_ENCODERS and name.removeprefix("negative_") == encoder.sequence
    # Without a mask the padding is attended to, so that there is no shorter form of the tokens.
    counts = range(encoder.tokens if encoder.mask is None else 1, encoder.tokens + 1)
    batch_fits = shape[0] == batch_size or (name == "image_embeds" and shape[0] == 1)
    tokens_fit = len(shape) == 3 and shape[1] in counts if is_sequence else len(shape) == 2
    if not batch_fits or not tokens_fit or shape[-1] != width:
        tokens = f"{'up to ' if len(counts) > 1 else ''}{encoder.tokens}, " if is_sequence else ""
        name = "style_image or image_embeds" if name == "image_embeds" else name
        raise ValueError(
            f"{name} has shape {shape}, not ({batch_size}, {tokens}{width}); use the encoder of this model's training."
        )


def _check_mask(name: str, given: Embeddings, mask: torch.Tensor | None) -> None:
    tokens = given[name]
    shape = None if tokens is None else tuple(tokens.shape[:2])
    if mask is not None and tuple(mask.shape) != shape:
        raise ValueError(f"the attention mask of {name} has shape {tuple(mask.shape)}, not {shape}.")


def batch_size_of(prompt: str | list[str] | None, style_image: Sequence | None, given: Embeddings) -> int:
    """Number of prompts; without any, of the embeddings or the rows of style references."""
    if isinstance(prompt, str):
        return 1
    if prompt is not None:
        return len(prompt)
    embedding = _given_embedding(given)
    return len(style_image or ()) if embedding is None else len(embedding)


def _given_embedding(given: Embeddings) -> torch.Tensor | None:
    """The first embedding of prompts or a style that is given."""
    embeddings = (given[encoder.sequence] for encoder in (*TEXT_ENCODERS, CLIP_IMAGE))
    return next((embedding for embedding in embeddings if embedding is not None), None)


def per_stage(name: str, value: Any, default: Sequence, stages: list[Stage]) -> list:
    """One number for each stage that runs; entries for stages that do not run are left out."""
    values = default if value is None else value
    values = [values] * len(stages) if is_number(values, Real) else values
    if not isinstance(values, list | tuple) or not len(stages) <= len(values) <= 3:
        raise ValueError(
            f"{name}={values!r} must be one number, or one for each of the {len(stages)} stages "
            f"({', '.join(stage.label for stage in stages)})."
        )
    for number in values:
        if name == "num_inference_steps":
            if not is_number(number, Integral) or not 1 <= number <= MAX_INFERENCE_STEPS:
                raise ValueError(f"{name}={value!r} must be whole numbers from 1 to {MAX_INFERENCE_STEPS}.")
        elif not is_number(number, Real) or not math.isfinite(number):
            raise ValueError(f"{name}={value!r} must be finite; 1 switches guidance off, 5 is usual for the base.")
    kind = int if name == "num_inference_steps" else float
    return [kind(number) for number in values[: len(stages)]]


def with_noise_levels(stages: list[Stage], value: Any, default: Sequence) -> list[Stage]:
    """The stages with the noise levels of their low-resolution images; `value` is one number for every
    super-resolution stage, or one for each."""
    value = default if value is None else value
    values = [value] * 2 if is_number(value, Real) else value
    later = stages[1:]
    numbers = isinstance(values, list | tuple) and all(is_number(one, Real) and one >= 0 for one in values)
    if not numbers or not len(later) <= len(values) <= 2:
        raise ValueError(
            f"noise_level={value!r} must be one number of at least 0, or one for each of SR256 and SR1024."
        )
    told = [stages[0]]
    for stage, level in zip(later, values, strict=False):
        highest = stage.unet.config.get("max_noise_level")
        if level > (highest or 0):
            known = "without noise" if highest is None else f"with noise up to {highest:g}"
            raise ValueError(f"noise_level={value!r}: {stage.label} was trained {known}; pass at most {highest or 0}.")
        told.append(stage if highest is None else replace(stage, noise_level=float(level)))
    return told


def guidance_per_stage(value: Any, default: Sequence, stages: list[Stage]) -> list[GuidanceScale]:
    """The guidance scale of each stage that runs. That of the base may be a dictionary of weights for encoders, alone
    or as the first entry; alone it leaves the other stages their defaults."""
    value = default if value is None else value
    values = (value, *default[1:]) if isinstance(value, dict) else value
    if not isinstance(values, list | tuple) or not any(isinstance(one, dict) for one in values):
        return per_stage("guidance_scale", values, default, stages)
    weights, *others = values
    if any(isinstance(other, dict) for other in others):
        raise ValueError(
            f"guidance_scale={value!r} has weights for a super-resolution stage; only the base takes them, the others "
            "a number."
        )
    if not len(stages) <= len(values) <= 3 or not all(is_number(one, Real) and math.isfinite(one) for one in others):
        raise ValueError(
            f"guidance_scale={value!r} must be weights for the base alone, or these and finite numbers, one entry "
            f"for each of the {len(stages)} stages ({', '.join(stage.label for stage in stages)})."
        )
    numbers = per_stage("guidance_scale", [1.0, *others], default, stages)
    if not weights or not all(is_number(weight, Real) and math.isfinite(weight) for weight in weights.values()):
        raise ValueError(
            f"guidance_scale={weights!r} must hold a finite weight for at least one encoder ({', '.join(ENCODERS)})."
        )
    check_choice("encoder in guidance_scale", list(weights), tuple(ENCODERS))
    return [{name: float(weight) for name, weight in weights.items()}, *numbers[1:]]


def check_guidance(interval: Any, rescale: Any) -> None:
    """What narrows and what tames guidance."""
    if interval is not None:
        numbers = isinstance(interval, list | tuple) and all(is_number(sigma, Real) for sigma in interval)
        if not numbers or len(interval) != 2 or not 0 <= interval[0] < interval[1]:
            raise ValueError(
                f"guidance_interval={interval!r} must be two noise levels (low, high) in sigma, 0 <= low < high."
            )
    if not is_number(rescale, Real) or not 0 <= rescale <= 1:
        raise ValueError(f"guidance_rescale={rescale!r} must lie in [0, 1]; 0 switches it off, 0.7 is usual.")


def encoders_in_use(
    pipe: Any, encoders: Any, scale: GuidanceScale, prompt: Any, style_image: Any, given: Embeddings
) -> tuple[str, ...]:
    """The encoders whose conditions the networks receive; those named, in `encoders` or by a weight in the base's
    guidance scale, must have one."""
    if encoders is not None and (not isinstance(encoders, list | tuple) or not encoders):
        raise ValueError(f"encoders={encoders!r} must be a list of at least one of {', '.join(ENCODERS)}.")
    used = tuple(ENCODERS if encoders is None else encoders)
    check_choice("encoders", used, tuple(ENCODERS))
    weighted = [name for name, weight in scale.items() if weight] if isinstance(scale, dict) else []
    for argument, names in (("encoders", () if encoders is None else used), ("guidance_scale", weighted)):
        for name in names:
            encoder = ENCODERS[name]
            source = prompt if encoder in TEXT_ENCODERS else style_image
            can_encode = source is not None and getattr(pipe, encoder.component) is not None
            if given[encoder.sequence] is None and not can_encode:
                raise ValueError(
                    f"{argument} names {name!r}, which has no condition: {encoder.remedy}, or leave it out."
                )
            if name not in used:
                raise ValueError(
                    f"guidance_scale has a weight for {name!r}, which encoders={encoders!r} switches off: "
                    "name it there, or leave the weight out."
                )
    return used


def _check_tensor(name: str, value: Any) -> None:
    """What an embedding, a mask or noise must be before its shape is compared with the batch."""
    if value is None:
        return
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{name} is of type {type(value).__name__}; pass a torch.Tensor.")
    if value.dim() < 2 or not len(value):
        raise ValueError(f"{name} has shape {tuple(value.shape)}; pass at least one row, one for each prompt.")
    if not value.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinity; encode in bfloat16 or float32 if float16 overflowed.")


def check_choice(name: str, values: Sequence[str], choices: Sequence[str]) -> None:
    for value in values:
        if value not in choices:
            raise ValueError(f"{name}={value!r} is unknown; choose from {', '.join(choices)}.")


def _check_scheduler(stage: Stage) -> None:
    """eDiff-I's networks return F of equation 1, which only EDM's schedulers read."""
    scheduler = stage.scheduler
    if not hasattr(scheduler, "precondition_inputs"):
        raise ValueError(
            f"the scheduler of {stage.label} is {type(scheduler).__name__}, which does not read EDM's model output; "
            "use EDMDEISScheduler, EDMEulerScheduler or EDMDPMSolverMultistepScheduler."
        )
    if has_betas(scheduler.config):
        raise ValueError(
            f"the scheduler of {stage.label} has the betas of a discrete-time model; build it without beta_schedule "
            "and trained_betas."
        )
    predicted = scheduler.config.get("prediction_type", "epsilon")
    if stage.unet.config.get("preconditioning") == "edm" and predicted != "epsilon":
        raise ValueError(
            f"the scheduler of {stage.label} has prediction_type={predicted!r}, which is not what the network was "
            'trained for; build it with prediction_type="epsilon", EDM\'s name for F.'
        )
    trained, used = stage.unet.config.get("sigma_data"), scheduler.config.get("sigma_data")
    if trained != used:
        raise ValueError(
            f"the network of {stage.label} was trained with sigma_data={trained}, its scheduler has {used}; build the "
            f"scheduler with sigma_data={trained}."
        )
