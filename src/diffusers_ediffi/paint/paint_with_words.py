# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Paint-with-words in any pipeline of diffusers with a U-Net, without a change to the pipeline.

    with paint_with_words(pipe, prompt, regions, strength=0.4):
        image = pipe(prompt).images[0]

[`EDiffIPipeline`] takes `regions` itself.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import chain
from threading import get_ident
from typing import Any

import torch

from ..discrete_time import takes_c_noise
from ..foreign_pipelines import (
    BatchRows,
    NoiseLevels,
    as_tokenized,
    check_takes_noise,
    check_tells_rows,
    is_called_by_another,
    one_thread_at_a_time,
    prompt_tokens,
    replaced,
)
from .columns import region_columns
from .painting import Painting
from .processor import painted
from .regions import PaintRegion, check_regions, check_strength


def paint_with_words(
    pipe: Any,
    prompt: str | Sequence[str],
    regions: Sequence[Any],
    strength: float = 0.4,
    normalizer: str = "max",
) -> "PaintedPipeline":
    """Lets a pipeline of diffusers put phrases of its prompt where regions say (section 4.4 of eDiff-I).

        >>> regions = [PaintRegion("a red apple", (0.0, 0.3, 0.5, 1.0)), PaintRegion("rocket", rocket_mask)]
        >>> with paint_with_words(pipe, prompt, regions) as pipe:
        ...     image = pipe(prompt, height=520, width=776).images[0]

    For the Stable Diffusion, SDXL and DeepFloyd IF pipelines, their image-to-image, inpainting and ControlNet forms,
    with LoRA and IP-Adapter loaded, with any scheduler, size, number of images and guidance, and with an
    [`ExpertRouterUNet`] as the U-Net. The unconditional half of guidance and the attention of a ControlNet are not
    painted. At the end of the block the pipeline is what it was. Load adapters before the block.

    Args:
        pipe (`DiffusionPipeline`): The pipeline, with a `unet` and a tokenizer.
        prompt (`str` or `list` of `str`): The prompt that it will be called with.
        regions (`list` of [`PaintRegion`]): What is where, for a `list` of prompts either for all of them or a list
            for each. Without any, or with a strength of 0, the pipeline runs untouched.
        strength (`float`): w' of the paper: how strongly attention is led. 0.1 to 0.5 is usual.
        normalizer (`str`): `max`, as in the paper, or `std` of the attention scores.

    Raises:
        ValueError: An argument is wrong, or the pipeline cannot be painted.
    """
    _check_pipeline(pipe)
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts or not all(isinstance(text, str) for text in prompts):
        raise ValueError(f"prompt={prompt!r} must be a text or a list of texts.")
    check_strength("strength", strength)
    per_prompt = check_regions(regions, len(prompts))
    columns, num_columns = _prompt_columns(pipe, prompts, per_prompt)
    painting = Painting(per_prompt, columns, num_columns, float(strength), normalizer)
    if painting.has_seeds:
        check_takes_noise(pipe)
    return PaintedPipeline(pipe, prompts, painting)


def _check_pipeline(pipe: Any) -> None:
    """Refuses a pipeline that cannot be painted."""
    if "regions" in inspect.signature(pipe.__call__).parameters:
        raise ValueError(f"{type(pipe).__name__} paints itself: call it with regions=[...] and region_strength=...")
    if getattr(pipe, "unet", None) is None:
        raise ValueError(f"{type(pipe).__name__} has no U-Net; paint-with-words is for pipelines with a `unet`.")
    check_tells_rows(pipe)
    takes_c_noise(pipe.scheduler)


def _prompt_columns(
    pipe: Any, prompts: Sequence[str], regions: Sequence[Sequence[PaintRegion]]
) -> tuple[list[list[list[int]]], int]:
    """The columns of every prompt and region, and how many columns the text has."""
    columns, num_columns = [], 0
    for prompt, prompt_regions in zip(prompts, regions, strict=True):
        name, tokens = prompt_tokens(pipe, prompt)
        renamed = [_renamed(region, as_tokenized(pipe, region.phrase)) for region in prompt_regions]
        columns.append(region_columns(tokens.prompt, renamed, [(name, tokens, 0)]))
        num_columns = len(tokens.places)
    return columns, num_columns


class PaintedPipeline:
    """The `with` block of [`paint_with_words`]; it can be entered once."""

    def __init__(self, pipe: Any, prompts: list[str], painting: Painting):
        self.pipe = pipe
        self.prompts = prompts
        self.painting = painting
        self._rows = BatchRows(pipe)
        self._images = list(range(len(prompts)))  # of each image the number of its prompt
        self._stack: ExitStack | None = None
        self._thread: int | None = None  # that draws
        self._is_aspect_checked = False

    def __enter__(self) -> Any:
        if self._stack is not None:
            raise ValueError("this block was entered before; call paint_with_words again for another.")
        with ExitStack() as stack:
            stack.enter_context(one_thread_at_a_time(self.pipe.unet))
            handle = self.pipe.unet.register_forward_pre_hook(self._begin_call, with_kwargs=True)
            stack.callback(handle.remove)
            stack.enter_context(painted(self.pipe.unet, self.painting, NoiseLevels(self.pipe)))
            if any(self.painting.regions):
                stack.enter_context(replaced(self.pipe, "encode_prompt", self._encode_prompt))
                if hasattr(self.pipe, "prepare_latents"):
                    stack.enter_context(replaced(self.pipe, "prepare_latents", self._prepare_latents))
            self._stack = stack.pop_all()
        return self.pipe

    def __exit__(self, *error: Any) -> None:
        if self._stack is not None:
            self._stack.close()

    def _begin_call(self, unet: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        """Refuses calls that are not the pipeline's; tells the painting which rows of the batch are painted, and looks
        at the shape of the first."""
        if self._thread not in (None, get_ident()) or is_called_by_another(self.pipe):
            raise ValueError(
                "another pipeline or thread calls this U-Net while it is painted, and would draw the painted regions: "
                "let it draw before or after the paint_with_words block, or with a copy (copy.deepcopy) of the U-Net "
                "that is made before."
            )
        sample = args[0] if args else kwargs["sample"]
        if self._rows.num_images is not None and not self.painting.is_blank:
            self._rows.check(sample)
        self.painting.select(self._images, self._rows.copies, unconditional=self._rows.unconditional)
        if not self._is_aspect_checked:
            self._check_aspect(sample)
        self._is_aspect_checked = True

    def _check_aspect(self, sample: torch.Tensor) -> None:
        """Warns of masks of another shape than the image."""
        scale = getattr(self.pipe, "vae_scale_factor", 1)
        for region in set(chain.from_iterable(self.painting.regions)):
            region.check_aspect(*(scale * size for size in sample.shape[-2:]))

    def _encode_prompt(self, original: Callable, *args: Any, **kwargs: Any) -> Any:
        """Learns which images are drawn, that they are those of the painted prompts, and which thread draws."""
        self._thread = get_ident()
        bound = inspect.signature(original).bind(*args, **kwargs)
        bound.apply_defaults()
        prompts = self._numbers_of_prompts(bound.arguments)
        embeds = original(*args, **kwargs)
        self._rows.encoded(bound.arguments, embeds)
        each = (self._rows.num_images or 0) // len(prompts)
        self._images = [number for number in prompts for _ in range(each)]
        return embeds

    def _numbers_of_prompts(self, arguments: dict[str, Any]) -> list[int]:
        """Which of the painted prompts each text is that the pipeline encodes."""
        prompt, embeds = arguments.get("prompt"), arguments.get("prompt_embeds")
        called = None if prompt is None else [prompt] if isinstance(prompt, str) else list(prompt)
        count = len(called) if called is not None else len(self.prompts) if embeds is None else len(embeds)
        if called in (None, self.prompts) and count == len(self.prompts):
            return list(range(count))
        if len(self.prompts) == 1 and set(called or self.prompts) == set(self.prompts):
            return [0] * count
        given = f"{count} rows of prompt_embeds" if called is None else repr(prompt)
        raise ValueError(f"the pipeline is called with {given}, but the regions belong to {self.prompts!r}.")

    def _prepare_latents(self, original: Callable, *args: Any, **kwargs: Any) -> Any:
        """Learns the size of the images, and mixes the noise of the regions' seeds into that of the pipeline."""
        latents = original(*args, **kwargs)
        self._rows.prepared(latents)
        if not self.painting.has_seeds:
            return latents
        return self.painting.mix_noise(latents, std=float(self.pipe.scheduler.init_noise_sigma))


def _renamed(region: PaintRegion, phrase: str) -> PaintRegion:
    """The same region for a phrase as the pipeline tokenises it."""
    if phrase == region.phrase:
        return region
    return PaintRegion(phrase, region.mask, region.weight, region.occurrence, region.seed)
