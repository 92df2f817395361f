# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What `EDiffIPipeline` is to draw: prompts, style references and embeddings, refused where they are wrong.

Every error is a `ValueError` that names the argument, its value and what to pass instead, before anything expensive
runs. What a call asks of the stages is checked in `stages`, guidance in `guidance`, pictures in `style`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

from ..checks import MAX_CLASSES, MAX_IMAGES, is_number
from ..models.encoder_table import CLIP_IMAGE, TEXT_EMBEDDINGS, TEXT_ENCODERS, Encoder
from .conditioning import CLASS_LABELS, Conditioning
from .prompt_schedule import PromptSchedule
from .safety import check_safety_checker
from .stages import Generator, Stage, check_schedulers
from .style import References

OUTPUT_TYPES = ("pil", "np", "pt", "latent")

Embeddings = dict[str, torch.Tensor | None]


@dataclass(frozen=True)
class Inputs:
    """What is to be drawn, as it was given.

    Args:
        prompt (`str` or `list` of `str`, *optional*): Of a schedule the first.
        negative_prompt (`str` or `list` of `str`, *optional*): What guidance leads away from.
        style (`list`, *optional*): The style references of each row.
        given (`dict`): Every embedding by its name in the pipeline's call; `None` where it is not given.
        num_images_per_prompt (`int`): Images for each prompt.
        class_labels (`torch.Tensor`, *optional*): The class of each row, int64 (batch,).
    """

    prompt: str | list[str] | None
    negative_prompt: str | list[str] | None
    style: References | None
    given: Embeddings
    num_images_per_prompt: int = 1
    class_labels: torch.Tensor | None = None

    @property
    def batch_size(self) -> int:
        """Number of prompts; without any, of the embeddings, the rows of style references or the class labels, and
        one for networks that read none of these."""
        if isinstance(self.prompt, str):
            return 1
        if self.prompt is not None:
            return len(self.prompt)
        rows = (self.first_embedding, self.style, self.class_labels)
        return next((len(row) for row in rows if row is not None), 1)

    @property
    def num_images(self) -> int:
        """How many images are drawn."""
        return self.batch_size * int(self.num_images_per_prompt)

    @property
    def first_embedding(self) -> torch.Tensor | None:
        """The first embedding of prompts or a style that is given."""
        embeddings = (self.given[encoder.sequence] for encoder in (*TEXT_ENCODERS, CLIP_IMAGE))
        return next((embedding for embedding in embeddings if embedding is not None), None)


def check_inputs(
    pipe: Any, inputs: Inputs, stages: list[Stage], generator: Generator, latents: torch.Tensor | None
) -> None:
    """Refuses what the pipeline cannot draw; `generator` and `latents` are those of its call."""
    check_schedulers(stages)
    count = inputs.num_images_per_prompt
    if not is_number(count, Integral) or not 1 <= count <= MAX_IMAGES:
        raise ValueError(f"num_images_per_prompt={count!r} must be a whole number from 1 to {MAX_IMAGES}.")
    for name, tensor in {**inputs.given, "latents": latents}.items():
        _check_tensor(name, tensor)
    _check_text(pipe, "prompt", inputs.prompt, inputs.given)
    _check_text(pipe, "negative_prompt", inputs.negative_prompt, inputs.given)
    check_safety_checker(pipe)
    _check_rows(pipe, inputs)
    _check_embeddings(pipe._conditioning, pipe.unet.config, inputs)
    _check_conditions(pipe, inputs, stages)
    _check_class_labels(inputs, stages)
    _check_generator(generator, inputs.num_images)
    shape = (inputs.num_images, stages[0].channels, stages[0].size, stages[0].size)
    if latents is not None and tuple(latents.shape) != shape:
        raise ValueError(f"latents have shape {tuple(latents.shape)}; the base stage starts from {shape}.")


def check_choice(name: str, values: Sequence[str], choices: Sequence[str]) -> None:
    """Refuses values of an argument that are not among its choices."""
    for value in values:
        if value not in choices:
            raise ValueError(f"{name}={value!r} is unknown; choose from {', '.join(choices)}.")


def check_callback(callback: Any, names: Any, choices: Sequence[str]) -> None:
    """Refuses a `callback_on_step_end` that cannot be called, and tensors that it cannot be given."""
    if callback is not None and not callable(callback):
        raise ValueError(f"callback_on_step_end={callback!r} must be a function (pipe, step, timestep, tensors).")
    if not isinstance(names, list | tuple):
        raise ValueError(f"callback_on_step_end_tensor_inputs={names!r} must be a list of {', '.join(choices)}.")
    check_choice("callback_on_step_end_tensor_inputs", names, choices)


def check_prompt_schedule(schedule: Any, prompt: Any, given: Embeddings) -> PromptSchedule | None:
    """Reads `prompt_schedule`, a list of (prompt, share of the steps); `None` without one."""
    if schedule is None:
        return None
    if prompt is not None or any(given.get(name) is not None for name in TEXT_EMBEDDINGS):
        raise ValueError("pass either prompt_schedule or prompt (or its embeddings), not both.")
    entries = schedule if isinstance(schedule, list | tuple) else []
    if not entries or not all(isinstance(entry, list | tuple) and len(entry) == 2 for entry in entries):
        raise ValueError(f'prompt_schedule={schedule!r} must be a list such as [("a cat", 0.0), ("a dog", 0.3)].')
    prompts, shares = zip(*entries, strict=True)
    _check_shares(shares)
    return PromptSchedule(_scheduled_prompts(prompts), [float(share) for share in shares])


def _check_shares(shares: Sequence[Any]) -> None:
    """Shares of the steps begin with 0 and increase to at most 1."""
    if not all(is_number(share, Real) and 0 <= share <= 1 for share in shares):
        raise ValueError(f"the shares {shares} of prompt_schedule must be numbers from 0 to 1.")
    if shares[0] != 0 or any(share >= later for share, later in zip(shares, shares[1:], strict=False)):
        raise ValueError(f"the shares {shares} of prompt_schedule are out of order; start with 0, then increase.")


def _scheduled_prompts(prompts: Sequence[Any]) -> list[str | list[str]]:
    """The prompts of a schedule: where any entry lists prompts for the rows of the batch, all entries do."""
    for entry in prompts:
        if not all(isinstance(text, str) and text.strip() for text in _as_list(entry)):
            raise ValueError(f"{entry!r} in prompt_schedule must be a text or a list of texts, none of them empty.")
    rows = {len(entry) for entry in prompts if isinstance(entry, list)}
    if len(rows) > 1:
        raise ValueError(f"prompt_schedule lists {sorted(rows)} prompts; give one, or one for each row, throughout.")
    return [[entry] * max(rows) if rows and isinstance(entry, str) else entry for entry in prompts]


def encoders_in_use(pipe: Any, encoders: Any, stages: list[Stage], inputs: Inputs) -> tuple[str, ...]:
    """The encoders whose conditions the networks receive; those named, in `encoders` or by a weight in the base's
    guidance scale, must have a condition."""
    there, scale = tuple(pipe._conditioning.encoders), stages[0].guidance_scale
    if encoders is not None and (not isinstance(encoders, list | tuple) or not encoders):
        raise ValueError(f"encoders={encoders!r} must be a list of at least one of {', '.join(there)}.")
    used = there if encoders is None else tuple(encoders)
    check_choice("encoders", used, there)
    for encoder in pipe._conditioning.text_encoders:
        readers = [s for s in stages if not s.inputs.zeros and encoder.sequence in s.inputs.embeddings]
        if encoder.name not in used and readers:
            raise ValueError(
                f"encoders={encoders!r} leaves out {encoder.name!r}, which {readers[0].label} has learned to read in "
                "every call: name it as well."
            )
    for name in () if encoders is None else used:
        _check_condition("encoders", pipe, name, inputs)
    if isinstance(scale, dict):
        check_choice("encoder in guidance_scale", list(scale), there)
    for name in [name for name, weight in scale.items() if weight] if isinstance(scale, dict) else []:
        _check_condition("guidance_scale", pipe, name, inputs)
        if name not in used:
            raise ValueError(
                f"guidance_scale has a weight for {name!r}, which encoders={encoders!r} switches off: "
                "name it there, or leave the weight out."
            )
    return used


def _check_condition(argument: str, pipe: Any, name: str, inputs: Inputs) -> None:
    """An encoder that an argument names has its embedding, or something to encode and what encodes it."""
    encoder = pipe._conditioning.encoders[name]
    source = inputs.style if name == CLIP_IMAGE.name else inputs.prompt
    can_encode = source is not None and getattr(pipe, encoder.component) is not None
    if inputs.given[encoder.sequence] is None and not can_encode:
        raise ValueError(f"{argument} names {name!r}, which has no condition: {encoder.remedy}, or leave it out.")


def _as_list(text: Any) -> list:
    """The texts of a prompt; an empty list counts as a wrong text."""
    return text if isinstance(text, list) and text else [text]


def _check_text(pipe: Any, name: str, text: Any, given: Embeddings) -> None:
    """`name` is `prompt` or `negative_prompt`; only the latter may be an empty text."""
    tokens, pooled, tokens_2, mask_2 = (name.removesuffix("prompt") + part for part in TEXT_EMBEDDINGS)
    reads_both = {"prompt_embeds", "pooled_prompt_embeds"} <= set(pipe._conditioning.text_embeddings)
    if reads_both and (given[tokens] is None) != (given[pooled] is None):
        raise ValueError(f"{tokens} and {pooled} belong together; pass both or neither.")
    if given[mask_2] is not None and given[tokens_2] is None:
        raise ValueError(f"{mask_2} without {tokens_2} has no meaning; pass both.")
    if text is None:
        return
    if not all(isinstance(entry, str) for entry in _as_list(text)):
        raise ValueError(f"{name}={text!r} must be a text or a list of texts.")
    if name == "prompt" and not all(entry.strip() for entry in _as_list(text)):
        raise ValueError(f"prompt={text!r} is empty; say what to draw, or pass embeddings or style_image alone.")
    if given[tokens] is not None or given[tokens_2] is not None:
        raise ValueError(f"pass either {name} or {tokens} and {tokens_2}, not both.")
    if pipe.text_encoder is None and pipe.text_encoder_2 is None:
        raise ValueError(f"{name} needs a text encoder and none is loaded; load one or pass {tokens}.")


def _check_rows(pipe: Any, inputs: Inputs) -> None:
    """There is something to draw, and as many styles and negative prompts as prompts."""
    given = (inputs.prompt, inputs.style, inputs.first_embedding, inputs.class_labels)
    if all(value is None for value in given) and pipe._conditioning.of("unet").arguments:
        raise ValueError(
            "there is nothing to draw; pass prompt, prompt_schedule, embeddings, style_image or class_labels."
        )
    batch_size = inputs.batch_size
    if inputs.style is not None:
        if pipe.image_encoder is None or pipe.feature_extractor is None:
            raise ValueError("style_image needs image_encoder and feature_extractor; load both or pass image_embeds.")
        images = len(inputs.style)
        if images not in (1, batch_size) or not images:
            raise ValueError(f"style_image holds {images} images for {batch_size} prompts; pass one, or one for each.")
    negative = inputs.negative_prompt
    if isinstance(negative, list) and len(negative) != batch_size:
        raise ValueError(f"negative_prompt lists {len(negative)} texts for {batch_size} prompts; pass one for each.")


def _check_embeddings(conditioning: Conditioning, config: Any, inputs: Inputs) -> None:
    """Shapes: tokens (batch, 77 or up to 113, width), vectors (batch, width), the mask (batch, tokens)."""
    given, batch_size = inputs.given, inputs.batch_size
    read: set[str] = set()
    for encoder in conditioning.encoders.values():
        for prefix in ("", "negative_") if encoder in conditioning.text_encoders else ("",):
            read.update(f"{prefix}{name}" for name in encoder.embeddings)
            for name in encoder.widths:
                width = encoder.width(name, config)
                _check_embedding(encoder, f"{prefix}{name}", given[f"{prefix}{name}"], width, batch_size)
            if encoder.mask is not None:
                _check_mask(f"{prefix}{encoder.sequence}", given, given.get(f"{prefix}{encoder.mask}"))
    for name, tensor in given.items():
        if tensor is not None and name not in read:
            raise ValueError(
                f"{name} is not read by this model, whose encoders are {', '.join(conditioning.encoders)}."
            )


def _check_conditions(pipe: Any, inputs: Inputs, stages: list[Stage]) -> None:
    """A U-Net of diffusers has no zeros for what is left out: each embedding that it reads is given or encoded."""
    encoders = pipe._conditioning.encoders.values()
    for stage in stages:
        for name in () if stage.inputs.zeros else stage.inputs.embeddings:
            encoder = next(encoder for encoder in encoders if name in encoder.embeddings)
            source = inputs.style if encoder.name == CLIP_IMAGE.name else inputs.prompt
            can_encode = source is not None and getattr(pipe, encoder.component) is not None
            is_optional = name == encoder.mask and name in inputs.given
            if not can_encode and not is_optional and inputs.given.get(name) is None:
                raise ValueError(f"{stage.label} reads {name}, which is missing: {encoder.remedy}.")
            negative = f"negative_{encoder.sequence}"
            is_guided = pipe._conditioning.empty_text and stage.is_guided and encoder.name != CLIP_IMAGE.name
            if is_guided and inputs.given[negative] is None and getattr(pipe, encoder.component) is None:
                raise ValueError(
                    f"guidance of {stage.label} reads {negative}, which is missing: load {encoder.component}, or pass "
                    "it."
                )


def as_class_labels(labels: Any) -> torch.Tensor | None:
    """Class labels of the pipeline's call as int64 (batch,): a number, or a list or tensor with one for each row.

    Raises:
        ValueError: They are none of these.
    """
    if labels is None:
        return None
    values = labels.tolist() if isinstance(labels, torch.Tensor | np.ndarray) else labels
    values = list(values) if isinstance(values, list | tuple) else [values]
    if not values or not all(is_number(value, Integral) and 0 <= value < MAX_CLASSES for value in values):
        raise ValueError(f"class_labels={labels!r} must be whole numbers from 0, one for each row.")
    return torch.tensor(values, dtype=torch.int64)


def _check_class_labels(inputs: Inputs, stages: list[Stage]) -> None:
    """Each row has a class that the networks know, if they read classes."""
    labels, batch_size = inputs.class_labels, inputs.batch_size
    readers = [stage for stage in stages if CLASS_LABELS in stage.inputs.arguments.values()]
    if labels is None and readers:
        raise ValueError(f"{readers[0].label} reads class_labels, which are missing: pass one for each row.")
    if labels is None:
        return
    if not readers:
        raise ValueError(f"class_labels={labels.tolist()} are not read by any network that runs; leave them out.")
    if len(labels) not in (1, batch_size):
        raise ValueError(f"class_labels lists {len(labels)} for {batch_size} rows; pass one for all, or one for each.")
    for stage in readers:
        classes = stage.unet.config.get("num_class_embeds") or 0
        if int(labels.max()) >= classes:
            raise ValueError(f"class_labels={labels.tolist()}: {stage.label} knows {classes} classes, counted from 0.")


def _check_embedding(encoder: Encoder, name: str, embedding: torch.Tensor | None, width: int, batch_size: int) -> None:
    if embedding is None:
        return
    shape = tuple(embedding.shape)
    is_sequence = encoder.name != CLIP_IMAGE.name and name.removeprefix("negative_") == encoder.sequence
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


def _check_generator(generator: Any, images: int) -> None:
    generators = generator if isinstance(generator, list) else [generator] * images
    if not all(entry is None or isinstance(entry, torch.Generator) for entry in generators):
        raise ValueError(f"generator={generator!r} must be a torch.Generator or a list of them.")
    if len(generators) != images:
        raise ValueError(f"generator lists {len(generators)} generators for {images} images; pass one for each.")
