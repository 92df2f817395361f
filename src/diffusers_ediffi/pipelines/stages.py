# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The stages of the cascade, base -> SR256 -> SR1024: which of them a call runs, and what it asks of each."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from numbers import Integral, Real
from typing import Any

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor

from ..checks import MAX_INFERENCE_STEPS, MAX_STAGES, is_finite, is_number
from ..discrete_time import has_betas, settings_of
from ..edm import c_in
from ..models.encoder_table import CLIP_IMAGE
from ..models.low_res import augment_low_res, upsample_low_res
from ..paint.painting import Painting
from .conditioning import CLASS_LABELS, EDIFFI_ARGUMENTS, UNETS, Conditioning, UNetInputs
from .parametrization import Parametrization

GuidanceScale = float | dict[str, float]
Generator = torch.Generator | list[torch.Generator] | None
LABELS = {"unet_sr256": "SR256", "unet_sr1024": "SR1024"}


@dataclass(frozen=True)
class Stage:
    """One network of the cascade with its scheduler, and what a call asks of it.

    Args:
        label (`str`): Its name in messages.
        unet ([`EDiffIUNet`] or [`ExpertRouterUNet`]): The network.
        scheduler (`SchedulerMixin`): Its scheduler.
        size (`int`): Height and width of its images.
        num_inference_steps (`int`): Steps.
        guidance_scale (`float` or `dict`): A number, or weights for encoders.
        noise_level (`float`, *optional*): Noise on the low-resolution image; `None` where the network is not told any.
        painting ([`Painting`], *optional*): What is painted, if anything is.
        refines (`bool`): Whether it sees the image of the stage before.
        inputs ([`UNetInputs`]): What the network reads.
        conditioning ([`Conditioning`]): The encoders of the pipeline.
        text_proj (`nn.Module`, *optional*): What makes the network's inputs of embeddings, if it needs that.
    """

    label: str
    unet: Any
    scheduler: Any
    size: int
    num_inference_steps: int = 1
    guidance_scale: GuidanceScale = 1.0
    noise_level: float | None = None
    painting: Painting | None = None
    refines: bool = False
    inputs: UNetInputs = UNetInputs()
    conditioning: Conditioning = Conditioning()
    text_proj: Any = None

    @property
    def channels(self) -> int:
        """Of its images."""
        return self.unet.config.in_channels // (2 if self.refines else 1)

    @property
    def reads_text(self) -> bool:
        """Whether the network attends to texts."""
        return any(encoder.sequence in self.inputs.embeddings for encoder in self.conditioning.text_encoders)

    @property
    def learned_variance(self) -> bool:
        """Whether the scheduler reads the variance that some networks have learned besides."""
        is_learned = self.scheduler.config.get("variance_type") in ("learned", "learned_range")
        return is_learned and self.unet.config.out_channels == 2 * self.channels

    @property
    def is_guided(self) -> bool:
        """Whether any step may be guided, by this scale or an expert's."""
        scales = (self.guidance_scale, *getattr(self.unet, "guidance_scales", ()))
        return any(isinstance(scale, dict) or scale > 1 for scale in scales if scale is not None)

    @cached_property
    def parametrization(self) -> Parametrization:
        """What the scheduler says of the network."""
        return Parametrization.of(self.scheduler)

    def dropped(self, name: str, negative: torch.Tensor | None) -> torch.Tensor | None:
        """What the network reads in the place of an embedding that is dropped: unCLIP's (1, width) for a picture,
        which it has learned, and for a text what the unconditional model reads; `None` is zeros."""
        if self.text_proj is not None and name == CLIP_IMAGE.sequence:
            return self.text_proj.learned_classifier_free_guidance_embeddings[None]
        return None if self.inputs.zeros else negative

    def check_finite(self, sample: torch.Tensor) -> None:
        """Refuses a sample that is no picture.

        Raises:
            ValueError: It has values that are NaN or infinite.
        """
        if not torch.isfinite(sample).all():
            raise ValueError(
                f"{self.label} drew values that are not finite, which are no picture: its weights are damaged, or "
                f"their type ({self.unet.dtype}) overflows. Load the model again, or with dtype=torch.float32."
            )

    def noise(self, images: int, generator: Generator, device: torch.device) -> torch.Tensor:
        """Standard normal noise, (images, 3, size, size) in float32."""
        shape = (images, self.channels, self.size, self.size)
        return randn_tensor(shape, generator, device, torch.float32)

    def low_res(self, image: torch.Tensor, generator: Generator) -> torch.Tensor:
        """What the network sees of the stage before: (images, 3, size, size), from that stage's sample."""
        low_res = upsample_low_res(image.clamp(-1, 1), self.size, self.inputs.low_res_filter)
        if not self.noise_level:
            return low_res
        low_res = augment_low_res(low_res, randn_tensor(low_res.shape, generator, low_res.device), self.noise_level)
        return low_res if self.inputs.noise_betas is None else low_res * c_in(self.noise_level, 1.0)

    @property
    def sigmas(self) -> list[float]:
        """The noise level of the sample at each timestep, then where the last step ends."""
        scheduler = self.scheduler
        if hasattr(scheduler, "sigmas"):
            return [*map(float, scheduler.sigmas[: len(scheduler.timesteps)]), 0.0]
        return [*self.parametrization.sigma_of(scheduler.timesteps).tolist(), 0.0]

    def as_sample(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """The scheduler's sample of x = image + sigma * noise: many of those with betas keep the variance at 1."""
        return x * c_in(sigma, 1.0) if self._keeps_variance else x

    def from_sample(self, sample: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """The inverse of `as_sample`."""
        return sample / c_in(sigma, 1.0) if self._keeps_variance else sample

    @property
    def _keeps_variance(self) -> bool:
        is_discrete = self.parametrization.log_sigmas is not None
        return is_discrete and float(self.scheduler.init_noise_sigma) == 1  # that of its first sample

    def steps_from(self, begin: int) -> Iterator[tuple[int, torch.Tensor, float]]:
        """The index, timestep and noise level of each call of the network, from the timestep `begin` on."""
        # Read before the first step: choosing an expert must not wait for the device in every step.
        levels = [float(sigma) for sigma in getattr(self.scheduler, "routing_sigmas", self.sigmas)]
        indices = range(begin, len(self.scheduler.timesteps))
        return zip(indices, self.scheduler.timesteps[begin:], levels[begin:], strict=False)

    def stepper(self, generator: Generator, begin: int) -> Callable[..., tuple[torch.Tensor, ...]]:
        """The scheduler's `step` from the timestep `begin` on, with the generator where the scheduler adds noise."""
        parameters = inspect.signature(self.scheduler.step).parameters
        extra = {"generator": generator} if "generator" in parameters else {}
        step = partial(self.scheduler.step, return_dict=False, **extra)
        if "prev_timestep" not in parameters:
            return step
        ends = chain(self.scheduler.timesteps[begin + 1 :], [None])  # UnCLIPScheduler is told them
        return lambda *arguments: step(*arguments, prev_timestep=next(ends))

    @contextmanager
    def expert_choice(self) -> Iterator[Callable[[float], None]]:
        """Yields what chooses the expert for a noise level, and undoes the choice at the end of the block."""
        if not hasattr(self.unet, "select_expert"):
            yield lambda sigma: None
            return
        try:
            yield self.unet.select_expert
        finally:
            self.unet.reset_expert()


def changed_by_calls(pipe: Any, stages: Sequence[Stage]) -> list[Any]:
    """What a call changes while it draws: the pipeline, the networks, of which a router has several, their schedulers,
    and what is offloaded."""
    unets = [getattr(stage.unet, "_orig_mod", stage.unet) for stage in stages]  # of torch.compile
    experts = chain.from_iterable(getattr(unet, "experts", ()) for unet in unets)
    offloaded = [part for part in vars(pipe).values() if hasattr(part, "_hf_hook")]
    return [pipe, *unets, *experts, *(stage.scheduler for stage in stages), *offloaded]


def loaded_stages(pipe: Any) -> list[Stage]:
    """The stages that are loaded into a pipeline, up to the first that is not.

    Raises:
        ValueError: The base model or its scheduler is missing.
    """
    if pipe.unet is None or pipe.scheduler is None:
        raise ValueError("unet and scheduler are needed to draw an image; load them into the pipeline.")
    size, conditioning = pipe.unet.config.sample_size, pipe._conditioning
    stages: list[Stage] = []
    for name in UNETS:
        unet, scheduler = (getattr(pipe, name.replace("unet", part, 1)) for part in ("unet", "scheduler"))
        if unet is None:
            break
        inputs = conditioning.of(name)
        if inputs == UNetInputs() and unet.config.get("num_class_embeds"):
            inputs = UNetInputs({**EDIFFI_ARGUMENTS, CLASS_LABELS: CLASS_LABELS})
        label = LABELS.get(name, f"base {size}x{size}")
        stages.append(
            Stage(
                label,
                unet,
                scheduler,
                size * pipe.config.sr_scale ** len(stages),
                refines=bool(stages),
                inputs=inputs,
                conditioning=conditioning,
                text_proj=pipe.text_proj if inputs.has_text_proj else None,
            )
        )
    return stages


def stages_up_to(stages: list[Stage], height: int | None, width: int | None) -> list[Stage]:
    """The stages that draw an image of this size, by default all that are loaded."""
    sizes = [stage.size for stage in stages]
    wanted = [size for size in (height, width) if size is not None] or [sizes[-1]]
    if not all(is_number(size, Integral) and size in sizes for size in wanted) or wanted[0] != wanted[-1]:
        raise ValueError(
            f"this pipeline does not draw height={height!r} and width={width!r}: images are square and the loaded "
            f"stages draw {', '.join(map(str, sizes))} pixels; choose one of these or load a further stage."
        )
    return stages[: sizes.index(wanted[0]) + 1]


def per_stage(name: str, value: Any, stages: list[Stage]) -> list:
    """One entry for each stage that runs, from one number for all or a list; entries beyond are left out."""
    values = [value] * len(stages) if is_number(value, Real) else value
    if not isinstance(values, list | tuple) or not len(stages) <= len(values) <= MAX_STAGES:
        raise ValueError(
            f"{name}={value!r} must be one number, or one for each of the {len(stages)} stages ({labels(stages)})."
        )
    return list(values)


def labels(stages: list[Stage]) -> str:
    """The names of stages, for messages."""
    return ", ".join(stage.label for stage in stages)


def with_steps(stages: list[Stage], value: Any, default: Sequence[int]) -> list[Stage]:
    """The stages with their numbers of steps; `value` is one for all, or one for each."""
    numbers = per_stage("num_inference_steps", default if value is None else value, stages)
    if not all(is_number(number, Integral) and 1 <= number <= MAX_INFERENCE_STEPS for number in numbers):
        raise ValueError(f"num_inference_steps={value!r} must be whole numbers from 1 to {MAX_INFERENCE_STEPS}.")
    return [replace(stage, num_inference_steps=int(n)) for stage, n in zip(stages, numbers, strict=False)]


def with_noise_levels(stages: list[Stage], value: Any, default: Sequence[float]) -> list[Stage]:
    """The stages with the noise levels of their low-resolution images; `value` is one number for every
    super-resolution stage, or one for each."""
    value = default if value is None else value
    values = [value] * (MAX_STAGES - 1) if is_number(value, Real) else value
    base, *later = stages
    are_levels = isinstance(values, list | tuple) and all(is_number(level, Real) and level >= 0 for level in values)
    if not are_levels or not len(later) <= len(values) < MAX_STAGES:
        raise ValueError(
            f"noise_level={value!r} must be one number of at least 0, or one for each of SR256 and SR1024."
        )
    return [base, *(_with_noise_level(stage, level, value) for stage, level in zip(later, values, strict=False))]


def _with_noise_level(stage: Stage, level: float, value: Any) -> Stage:
    """A super-resolution stage with its noise level; `value` is the whole argument, for messages."""
    highest = stage.inputs.max_noise_level or stage.unet.config.get("max_noise_level")
    if level > (highest or 0):
        known = "without noise" if highest is None else f"with noise up to {highest:g}"
        raise ValueError(f"noise_level={value!r}: {stage.label} was trained {known}; pass at most {highest or 0}.")
    return stage if highest is None else replace(stage, noise_level=float(level))


def check_schedulers(stages: list[Stage]) -> None:
    """Refuses schedulers that do not fit the networks.

    Raises:
        ValueError: A scheduler is not EDM's, is that of a discrete-time model, does not fit its network's training, or
            serves two stages.
    """
    for stage in stages:
        _check_is_described(stage)
        _check_reads_output(stage)
        _check_preconditioning(stage)
        _check_channels(stage)
    if len({id(stage.scheduler) for stage in stages}) < len(stages):
        raise ValueError("two stages share a scheduler, which carries state; give each stage its own scheduler.")


def _check_is_described(stage: Stage) -> None:
    """What a U-Net of diffusers reads is told by the pipeline's configuration."""
    network = getattr(stage.unet, "experts", [stage.unet])[0]
    if stage.inputs.zeros and isinstance(network, UNet2DConditionModel | UNet2DModel):
        raise ValueError(
            f"the network of {stage.label} is a {type(network).__name__}: say what it reads by conditioning=, see "
            "Conditioning, or convert its model by a script of conversion/."
        )


def _check_reads_output(stage: Stage) -> None:
    """The scheduler reads what the network returns: F of equation 1, or what a discrete-time model predicts."""
    scheduler, is_edm = stage.scheduler, stage.unet.config.get("preconditioning") == "edm"
    if is_edm and not hasattr(scheduler, "precondition_inputs"):
        raise ValueError(
            f"the scheduler of {stage.label} is {type(scheduler).__name__}, which does not read EDM's model "
            "output; use EDMDEISScheduler, EDMEulerScheduler or EDMDPMSolverMultistepScheduler."
        )
    if is_edm and has_betas(settings_of(scheduler)):
        raise ValueError(
            f"the scheduler of {stage.label} has the betas of a discrete-time model; build it without beta_schedule "
            "and trained_betas."
        )
    for name in ("sigma_min", "sigma_max"):
        sigma = scheduler.config.get(name)
        if sigma is not None and not (is_finite(sigma) and sigma > 0):
            raise ValueError(f"the scheduler of {stage.label} has {name}={sigma!r}, which is no noise level.")
    try:
        Parametrization.of(scheduler)
    except ValueError as error:
        raise ValueError(f"the scheduler of {stage.label} does not fit: {error}") from error


def _check_preconditioning(stage: Stage) -> None:
    """The scheduler turns the network's output into an image as the training did."""
    network, scheduler = stage.unet.config, stage.scheduler.config
    trained, predicted = network.get("preconditioning"), scheduler.get("prediction_type", "epsilon")
    if trained == "edm" and predicted != "epsilon":
        raise ValueError(
            f"the scheduler of {stage.label} has prediction_type={predicted!r}, which is not what the network was "
            'trained for; build it with prediction_type="epsilon", EDM\'s name for F.'
        )
    if trained in ("epsilon", "v_prediction", "sample"):
        if predicted != trained or stage.parametrization.log_sigmas is None:
            raise ValueError(
                f"the network of {stage.label} is a discrete-time model that predicts {trained!r}; build its "
                f"scheduler with prediction_type={trained!r} and the beta_schedule of its training."
            )
        return
    trained, used = network.get("sigma_data"), scheduler.get("sigma_data")
    if trained != used and trained is not None:
        raise ValueError(
            f"the network of {stage.label} was trained with sigma_data={trained}, its scheduler has {used}; build the "
            f"scheduler with sigma_data={trained}."
        )


def _check_channels(stage: Stage) -> None:
    """A network sees the noisy image, in super-resolution the image of the stage before as well, and returns an image,
    beside which some have learned the variance."""
    config, channels = stage.unet.config, stage.channels
    if config.in_channels != channels * (2 if stage.refines else 1) or config.out_channels not in (
        channels,
        2 * channels,
    ):
        raise ValueError(
            f"the network of {stage.label} has in_channels={config.in_channels} and out_channels={config.out_channels}"
            f"; a {'super-resolution' if stage.refines else 'base'} network of this cascade has "
            f"{'6' if stage.refines else '3'} and 3, or 6 with learned variance."
        )
