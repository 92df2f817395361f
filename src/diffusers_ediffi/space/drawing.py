# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The engine of the Space: one copy of a model that draws for one visitor after the other, and tells each step."""

import os
import queue
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral, Real
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from ..checks import MAX_SEED, is_number
from ..demo.checkpoint import demo_checkpoint
from ..paint.paint_with_words import paint_with_words
from ..phrases import find_phrase
from ..pipelines.pipeline_ediffi import EDiffIPipeline
from ..pipelines.pipeline_ediffi_img2img import EDiffIImg2ImgPipeline
from ..pipelines.pipeline_ediffi_inpaint import EDiffIInpaintPipeline
from ..provenance import model_name
from .limits import Limits
from .preview import StepPreview

PIPELINES = {
    "text": EDiffIPipeline,
    "image": EDiffIImg2ImgPipeline,
    "inpaint": EDiffIInpaintPipeline,
}


@dataclass(frozen=True)
class DrawRequest:
    """What a visitor asks for, with one click. It holds plain values and pictures, so that it can be sent to another
    process, as ZeroGPU does.

    Args:
        prompt (`str`, *optional*): What to draw; may be left out with a style picture or a prompt schedule.
        kind (`str`): `text`, `image` (image to image) or `inpaint`.
        negative_prompt (`str`): What guidance leads away from; empty is the unconditional model.
        seed (`int`): Of the first picture; the next have seed + 1, seed + 2, ...
        num_images (`int`): How many.
        size (`int`, *optional*): Height and width, by default the model's largest.
        steps (`int`, *optional*): Of the base stage; the others have the model's.
        guidance_scale (`float`, *optional*): Of the base stage.
        arguments (`dict`): Further arguments of the pipeline's call, such as `regions`, `region_strength`,
            `style_image`, `style_scale`, `prompt_schedule`, `image`, `mask_image` or `strength`.
        within (`Callable`, *optional*): `within(pipe)` is a context manager that is entered around the call, such as
            one that records attention; what it yields is called after the drawing, and its result is the `record` of
            the last [`Progress`]. A function of a module, so that it can be sent.
    """

    prompt: str | None = None
    kind: str = "text"
    negative_prompt: str = ""
    seed: int = 0
    num_images: int = 1
    size: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    within: Callable[[Any], AbstractContextManager[Callable[[], Any]]] | None = None


@dataclass(frozen=True)
class Progress:
    """What is there after a step.

    Args:
        images (`list` of `PIL.Image.Image`): The pictures as they look now, RGB; that of a step before the last of
            its stage is a guess.
        size (`int`): Height and width of the stage that draws.
        step (`int`), steps (`int`): The steps of this stage that are done, and all of them.
        share (`float`): Of the whole work that is done, from 0 to 1.
        is_stage_end (`bool`): Whether the stage is complete.
        is_last (`bool`): Whether these are the finished pictures.
        record (*optional*): What the request's `within` returned, in the last.
        blackened (`list` of `bool`): Which of the finished pictures a safety checker objected to; empty without one.
    """

    images: Sequence[Image.Image]
    size: int
    step: int
    steps: int
    share: float
    is_stage_end: bool = False
    is_last: bool = False
    record: Any = None
    blackened: Sequence[bool] = ()


class Cancelled(Exception):
    """A visitor has gone, or does not want the picture any more."""


class _Job:
    """A drawing that runs or waits."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.events: queue.SimpleQueue[Progress | Exception] = queue.SimpleQueue()

    def check(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled


class Drawer:
    """Draws with one copy of a model; threads wait for each other.

    Args:
        pipe: An [`EDiffIPipeline`], or a pipeline of diffusers that [`paint_with_words`] paints.
        model (`str`, *optional*): What the provenance calls it: a folder or a Hub id; the demo model by default.
        limits ([`Limits`]): What may be asked for.

    Raises:
        ValueError: It is another pipeline.
    """

    def __init__(self, pipe: Any, model: str | None = None, limits: Limits | None = None):
        _check_pipeline(pipe)
        self.pipe = pipe
        self.model = model_name(model)
        self.limits = limits or Limits()
        self._turn = threading.Lock()
        self._jobs: dict[str, _Job] = {}
        self._pipes = {"text": pipe}
        pipe.set_progress_bar_config(disable=True)

    @classmethod
    def load(cls, model: str | None = None, device: str | None = None, limits: Limits | None = None) -> "Drawer":
        """Loads a model.

        Args:
            model (`str`, *optional*): A folder or a Hub id; the demo model by default.
            device (`str`, *optional*): By default `cuda` where there is one, else the CPU.
            limits ([`Limits`]): What may be asked for.

        Raises:
            OSError, ValueError: It cannot be loaded.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        folder = model or demo_checkpoint()
        pipe = DiffusionPipeline.from_pretrained(folder, dtype=dtypes_on(device, folder))
        drawer = cls(pipe.to(device), model, limits)
        # The first step of a process is slow, and no visitor should wait for it. On ZeroGPU this process has no GPU.
        if drawer.is_ediffi and not _is_zero_gpu():
            list(drawer.draw(DrawRequest("a picture", size=drawer.sizes[0], steps=1)))
        return drawer

    @cached_property
    def is_ediffi(self) -> bool:
        """Whether the model is an [`EDiffIPipeline`]; others are painted by [`paint_with_words`]."""
        return isinstance(self.pipe, EDiffIPipeline)

    @cached_property
    def sizes(self) -> list[int]:
        """Heights and widths that the model draws, the smallest first."""
        if self.is_ediffi:
            return [stage.size for stage in self.pipe.stages]
        return [self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor]

    @cached_property
    def default_steps(self) -> int:
        """Steps of the base stage."""
        return self.pipe.config.default_num_inference_steps[0] if self.is_ediffi else 30

    @cached_property
    def default_guidance_scale(self) -> float:
        """Guidance of the base stage."""
        return float(self.pipe.config.default_guidance_scale[0]) if self.is_ediffi else 7.5

    @cached_property
    def default_region_strength(self) -> float:
        """w' of paint-with-words in the base stage."""
        strength = self.pipe.config.default_region_strength if self.is_ediffi else 0.4
        return float(strength[0] if isinstance(strength, list | tuple) else strength)

    @cached_property
    def takes_style(self) -> bool:
        """Whether the model draws in the style of a picture."""
        return self.is_ediffi and self.pipe.image_encoder is not None

    @cached_property
    def words(self) -> dict[str, list[str]]:
        """The words that the model knows, in groups; none where it does not list them."""
        vocabulary = self.pipe.vocabulary if self.is_ediffi else None
        return {} if vocabulary is None else vocabulary.groups

    def complaint(self, prompt: str) -> str:
        """What the model does not know of a prompt, as a sentence; empty where it knows all its words."""
        complaint = self.pipe.vocabulary.complaint([prompt]) if self.words else ""
        return f"The model {complaint}." if complaint else ""

    def check(self, request: DrawRequest) -> None:
        """Refuses what cannot be drawn, or is more than the limits allow, in words for a visitor.

        Raises:
            ValueError: A value is wrong; the message names it and the remedy.
        """
        limits, arguments = self.limits, request.arguments
        prompts = [prompt for prompt, _ in arguments.get("prompt_schedule") or ()] or [request.prompt or ""]
        for prompt in (*prompts, request.negative_prompt):
            if len(prompt) > limits.prompt_length:
                raise ValueError(f"The prompt has {len(prompt)} characters; write at most {limits.prompt_length}.")
        if not all(prompt.strip() for prompt in prompts) and arguments.get("style_image") is None:
            raise ValueError("There is nothing to draw yet: write what the picture shows.")
        size = request.size or self.sizes[-1]
        if size not in self.sizes:
            raise ValueError(f"The model draws {', '.join(map(str, self.sizes))} pixels, not {size}; choose one.")
        _check_number("number of pictures", request.num_images, Integral, 1, limits.images)
        if request.num_images * size**2 > limits.pixels:
            raise ValueError(
                f"{request.num_images} pictures of {size} x {size} are too much; choose fewer or smaller."
            )
        _check_number("seed", request.seed, Integral, 0, MAX_SEED - limits.images)
        if request.steps is not None:
            _check_number("number of steps", request.steps, Integral, 1, limits.steps)
        if request.guidance_scale is not None:
            _check_number("guidance", request.guidance_scale, Real, 0, limits.guidance)
        if arguments.get("region_strength") is not None:
            _check_number("strength of the painting", arguments["region_strength"], Real, 0, limits.strength)
        self._check_regions(request.prompt or "", arguments.get("regions") or ())

    def _check_regions(self, prompt: str, regions: Sequence[Any]) -> None:
        if len(regions) > self.limits.phrases:
            raise ValueError(f"{len(regions)} phrases are painted; paint at most {self.limits.phrases}.")
        for region in regions:
            find_phrase(prompt, region.phrase, region.occurrence)

    def draw(self, request: DrawRequest, visitor: str = "") -> Iterator[Progress]:
        """Draws, one request at a time, and yields what is there after each step. Where the iterator is closed, or
        [`cancel`] is called for this visitor, the drawing ends after the step that runs.

        Args:
            request ([`DrawRequest`]): What to draw.
            visitor (`str`): Whom to draw for; a further request of the same visitor cancels the one before.

        Raises:
            ValueError: Something is wrong with the request, in words for a visitor.
        """
        self.check(request)
        self.cancel(visitor)
        job = self._jobs[visitor] = _Job()
        threading.Thread(target=self._work, args=(request, job), daemon=True).start()
        try:
            yield from self._events(job)
        finally:
            job.cancelled.set()
            if self._jobs.get(visitor) is job:
                del self._jobs[visitor]

    @property
    def is_busy(self) -> bool:
        """Whether anything is being drawn."""
        return self._turn.locked()

    def cancel(self, visitor: str = "") -> bool:
        """Ends what is drawn for a visitor after the step that runs; whether there was anything."""
        job = self._jobs.pop(visitor, None)
        if job is not None:
            job.cancelled.set()
        return job is not None

    @staticmethod
    def _events(job: _Job) -> Iterator[Progress]:
        """What the thread tells, until the pictures are finished or the job is cancelled."""
        while True:
            event = job.events.get()
            if isinstance(event, Cancelled):
                return
            if isinstance(event, Exception):
                raise event
            yield event
            if event.is_last:
                return

    def _work(self, request: DrawRequest, job: _Job) -> None:
        try:
            with self._turn:
                job.check()
                self._draw(request, job)
        except Exception as error:  # handed on to whoever waits for the pictures
            job.events.put(error)

    def _draw(self, request: DrawRequest, job: _Job) -> None:
        pipe = self._pipe(request.kind)
        arguments = dict(request.arguments)
        painting: Any = nullcontext()
        if not self.is_ediffi:
            regions, strength = arguments.pop("regions", ()), arguments.pop("region_strength", None)
            if regions:
                strength = self.default_region_strength if strength is None else strength
                painting = paint_with_words(pipe, request.prompt or "", regions, strength)
        preview = StepPreview(pipe, self._plan(request))

        def after_step(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            job.check()
            job.events.put(Progress(**preview.after_step(tensors["latents"])))
            return {}

        with painting, preview, (request.within or _nothing)(pipe) as report:
            output = pipe(**self._call(request), **arguments, callback_on_step_end=after_step)
            record = report()
        job.check()
        size = output.images[0].width
        steps = preview.steps
        blackened = list(map(bool, getattr(output, "nsfw_content_detected", None) or ()))
        job.events.put(Progress(output.images, size, steps, steps, 1.0, True, True, record, blackened))

    def _pipe(self, kind: str) -> Any:
        """The pipeline of a kind, which shares all parts with the others."""
        if kind not in self._pipes:
            if not self.is_ediffi:
                raise ValueError(f"{type(self.pipe).__name__} draws from text alone here; choose an eDiff-I model.")
            made = self._pipes[kind] = PIPELINES[kind].from_pipe(self.pipe)
            made.set_progress_bar_config(disable=True)
        return self._pipes[kind]

    def _plan(self, request: DrawRequest) -> list[tuple[int, int]]:
        """The size and steps of each stage that runs."""
        steps = request.steps or self.default_steps
        if not self.is_ediffi:
            return [(self.sizes[0], steps)]
        count = self.sizes.index(request.size or self.sizes[-1]) + 1
        defaults = self.pipe.config.default_num_inference_steps
        return list(zip(self.sizes[:count], (steps, *defaults[1:]), strict=False))

    def _call(self, request: DrawRequest) -> dict[str, Any]:
        """The arguments that the pipeline of every kind has."""
        seeds = [request.seed + i for i in range(request.num_images)]
        call: dict[str, Any] = {
            "prompt": None if "prompt_schedule" in request.arguments else request.prompt or None,
            "negative_prompt": request.negative_prompt or None,
            "num_images_per_prompt": request.num_images,
            # Noise is drawn on the CPU, so that a seed means the same picture on every device.
            "generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        }
        if not self.is_ediffi:
            scale = self.default_guidance_scale if request.guidance_scale is None else request.guidance_scale
            return {**call, "num_inference_steps": request.steps or self.default_steps, "guidance_scale": scale}
        call |= {"height": request.size, "width": request.size}
        if request.steps is not None:
            call["num_inference_steps"] = (request.steps, *self.pipe.config.default_num_inference_steps[1:])
        if request.guidance_scale is not None:
            call["guidance_scale"] = (request.guidance_scale, *self.pipe.config.default_guidance_scale[1:])
        return call


def dtypes_on(device: str, model: str) -> dict[str, torch.dtype]:
    """The types that the parts of a model, a folder or a Hub id, have on a device.

    Raises:
        OSError: Its `model_index.json` cannot be read.
    """
    if device == "cpu":
        return {"default": torch.float32}
    is_ediffi = "EDiffI" in str(DiffusionPipeline.load_config(model).get("_class_name"))
    # T5 overflows in float16.
    return {"default": torch.float16, **({"text_encoder_2": torch.bfloat16} if is_ediffi else {})}


def random_seed() -> int:
    """A seed that fits a field of a form."""
    return secrets.randbelow(2**31)


def _check_pipeline(pipe: Any) -> None:
    """Refuses what neither draws as eDiff-I does nor is painted by [`paint_with_words`]."""
    if not isinstance(pipe, EDiffIPipeline) and not all(hasattr(pipe, name) for name in ("unet", "vae_scale_factor")):
        raise ValueError(
            f"the Space cannot draw with {type(pipe).__name__}; choose an eDiff-I model, or a pipeline of diffusers "
            "with a U-Net and a VAE, such as Stable Diffusion."
        )


def _is_zero_gpu() -> bool:
    """Whether this is a ZeroGPU Space, read as the package `spaces` does."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def _nothing(pipe: Any) -> AbstractContextManager[Callable[[], Any]]:
    return nullcontext(lambda: None)


def _check_number(name: str, value: Any, kind: type, least: float, most: float) -> None:
    if not is_number(value, kind) or not least <= value <= most:
        raise ValueError(f"The {name} is {value!r}; choose from {least} to {most}.")
