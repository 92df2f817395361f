# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`EDiffIPipeline`: from a sentence to an image, through the cascade base -> SR256 -> SR1024 (section 3)."""

import inspect
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from transformers import (
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
    PreTrainedModel,
    T5EncoderModel,
    T5Tokenizer,
)
from transformers.image_processing_utils import BaseImageProcessor

from ..experts.router import ExpertRouterUNet
from ..models.conditioning import clip_pixels
from ..models.encoder_table import EMBEDDINGS, TEXT_EMBEDDINGS
from ..models.low_res import augment_low_res, upsample_low_res
from ..models.unet import EDiffIUNet, align_weights
from ..paint.paint_with_words import painted
from ..paint.painting import Painting
from .encoders import EncodersMixin, keep_out_of_float16
from .guidance import Guidance
from .inputs import (
    OUTPUT_TYPES,
    Embeddings,
    GuidanceScale,
    Stage,
    batch_size_of,
    check_choice,
    check_guidance,
    check_inputs,
    check_prompt_schedule,
    check_style,
    encoders_in_use,
    guidance_per_stage,
    per_stage,
    stages_up_to,
    with_noise_levels,
)
from .paintings import paintings_per_stage
from .prompt_schedule import PromptSchedule
from .style import read_references


@dataclass
class EDiffIPipelineOutput(BaseOutput):
    """What [`EDiffIPipeline`] returns.

    Args:
        images (`list[PIL.Image.Image]`, `np.ndarray` or `torch.Tensor`): The images of the last stage: a list, an
            array (batch, height, width, 3) or a tensor (batch, 3, height, width) in [0, 1], or for
            `output_type="latent"` the sample itself, in [-1, 1] and not clamped.
        nsfw_content_detected (`list[bool]`, *optional*): For each image whether the safety checker blackened it;
            `None` without one, and for `output_type="latent"`, which it does not see.
    """

    images: list[PIL.Image.Image] | np.ndarray | torch.Tensor
    nsfw_content_detected: list[bool] | None = None


class EDiffIPipeline(DiffusionPipeline, EncodersMixin):
    """Text-to-image generation with eDiff-I: an ensemble of expert denoisers and two super-resolution stages.

    ```python
    from diffusers_ediffi import EDiffIPipeline, demo_checkpoint

    pipe = EDiffIPipeline.from_pretrained(demo_checkpoint())
    pipe("a rocket above a red apple on a dark blue background").images[0].save("rocket.png")
    ```

    Every component but `unet` and `scheduler` is optional: a stage that is not loaded ends the cascade before it, and
    an encoder that is not loaded leaves its condition empty, which is what training saw as "dropped".

    Args:
        unet ([`EDiffIUNet`] or [`ExpertRouterUNet`]): The base model.
        scheduler (`SchedulerMixin`): Its EDM scheduler: [`EDMDEISScheduler`], `EDMEulerScheduler` or
            `EDMDPMSolverMultistepScheduler`.
        tokenizer (`CLIPTokenizer`, *optional*), text_encoder (`CLIPTextModelWithProjection`, *optional*): CLIP text.
        tokenizer_2 (`T5Tokenizer`, *optional*), text_encoder_2 (`T5EncoderModel`, *optional*): T5. It overflows in
            float16 and is cast to bfloat16 where the pipeline is loaded in, or moved to, float16.
        feature_extractor (`CLIPImageProcessor`, *optional*), image_encoder (`CLIPVisionModelWithProjection`,
            *optional*): CLIP image, for `style_image`.
        unet_sr256, unet_sr1024 ([`EDiffIUNet`] or [`ExpertRouterUNet`], *optional*): The super-resolution models.
        scheduler_sr256, scheduler_sr1024 (`SchedulerMixin`, *optional*): Their schedulers; by default a copy of
            `scheduler`.
        safety_checker (`PreTrainedModel`, *optional*): `StableDiffusionSafetyChecker`, `IFSafetyChecker` or another
            one that is called with `images` and `clip_input` and has a `CLIPConfig`. It sees pictures at the size that
            its own config says, whatever `feature_extractor` is for.
        default_num_inference_steps (`tuple`): Steps of base, SR256 and SR1024 (25, 10, 10: Table 7).
        default_guidance_scale (`tuple`): Guidance of base, SR256 and SR1024.
        default_region_strength (`float` or `tuple`): w' of paint-with-words, see `region_strength`.
        default_noise_level (`tuple`): Noise on the low-resolution images of SR256 and SR1024, see `noise_level`.
        sr_scale (`int`): How much larger than its input the image of a super-resolution stage is.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->image_encoder->unet->unet_sr256->unet_sr1024"
    _optional_components = [
        "tokenizer",
        "text_encoder",
        "tokenizer_2",
        "text_encoder_2",
        "feature_extractor",
        "image_encoder",
        "unet_sr256",
        "unet_sr1024",
        "scheduler_sr256",
        "scheduler_sr1024",
        "safety_checker",
    ]
    _exclude_from_cpu_offload = ["safety_checker"]
    _callback_tensor_inputs = ["latents", *EMBEDDINGS]
    # A larger batch passes the network in parts, so that a batch at 1024 x 1024 needs the memory of one image.
    pixels_per_call = 1024 * 1024
    region_normalizer = "max"  # of paint-with-words, or "std"; see `region_strength`
    # Told before each call of a U-Net which of how many images are its last rows, see `record_attention`.
    _batch_observers: tuple[Callable[[Any, range, int, Sequence[str]], None], ...] = ()
    # Of the running call:
    _painting: Painting | None = None
    _prompt_schedule: PromptSchedule | None = None
    _guidance_interval: tuple[float, float] | None = None
    _guidance_rescale: float = 0.0

    def __init__(
        self,
        # diffusers reads these types at run time: `from_pipe` takes over only networks of a type that is named here.
        unet: EDiffIUNet | ExpertRouterUNet,
        scheduler: SchedulerMixin,
        tokenizer: CLIPTokenizer | None = None,
        text_encoder: CLIPTextModelWithProjection | None = None,
        tokenizer_2: T5Tokenizer | None = None,
        text_encoder_2: T5EncoderModel | None = None,
        feature_extractor: BaseImageProcessor | None = None,
        image_encoder: CLIPVisionModelWithProjection | None = None,
        unet_sr256: EDiffIUNet | ExpertRouterUNet | None = None,
        unet_sr1024: EDiffIUNet | ExpertRouterUNet | None = None,
        scheduler_sr256: SchedulerMixin | None = None,
        scheduler_sr1024: SchedulerMixin | None = None,
        safety_checker: PreTrainedModel | None = None,
        default_num_inference_steps: tuple[int, ...] | list[int] = (25, 10, 10),
        default_guidance_scale: tuple[float, ...] | list[float] = (5.0, 1.0, 1.0),
        default_region_strength: float | tuple[float, ...] | list[float] = 0.4,
        default_noise_level: tuple[float, ...] | list[float] = (0.0, 0.0),
        sr_scale: int = 4,
    ):
        super().__init__()
        keep_out_of_float16(text_encoder_2)
        for encoder in (text_encoder, text_encoder_2, image_encoder):
            if isinstance(encoder, torch.nn.Module):
                align_weights(encoder)
        if scheduler is not None:
            # Schedulers carry state, so every stage has its own.
            if unet_sr256 is not None and scheduler_sr256 is None:
                scheduler_sr256 = type(scheduler).from_config(scheduler.config)
            if unet_sr1024 is not None and scheduler_sr1024 is None:
                scheduler_sr1024 = type(scheduler).from_config(scheduler.config)
        self.register_modules(
            unet=unet,
            scheduler=scheduler,
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            tokenizer_2=tokenizer_2,
            text_encoder_2=text_encoder_2,
            feature_extractor=feature_extractor,
            image_encoder=image_encoder,
            unet_sr256=unet_sr256,
            unet_sr1024=unet_sr1024,
            scheduler_sr256=scheduler_sr256,
            scheduler_sr1024=scheduler_sr1024,
            safety_checker=safety_checker,
        )
        self.register_to_config(
            default_num_inference_steps=tuple(default_num_inference_steps),
            default_guidance_scale=tuple(default_guidance_scale),
            default_region_strength=default_region_strength,
            default_noise_level=tuple(default_noise_level),
            sr_scale=sr_scale,
        )
        self.image_processor = VaeImageProcessor(do_resize=False, vae_scale_factor=1)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> "EDiffIPipeline":
        """Loads a pipeline, see `DiffusionPipeline.from_pretrained`.

        Raises:
            OSError: The name is a path, which no Hub id is, and there is no such folder.
        """
        name = os.fspath(pretrained_model_name_or_path)
        is_path = isinstance(pretrained_model_name_or_path, os.PathLike) or os.path.isabs(name) or name.count("/") > 1
        if (is_path or name.startswith((".", "~"))) and not os.path.isdir(name):
            raise OSError(f"there is no folder {name!r}; pass the folder of a saved pipeline or a Hub id, org/name.")
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> "EDiffIPipeline":
        """A pipeline of the components of another, which are shared and not copied; `kwargs` replace some.

        See `DiffusionPipeline.from_pipe`, which casts to float32 what both share; here `dtype` has to ask for it.
        """
        if not isinstance(pipeline, EDiffIPipeline) or {"dtype", "torch_dtype"} & kwargs.keys():
            return super().from_pipe(pipeline, **kwargs)
        _, names = cls._get_signature_keys(cls)
        new = cls(**{**pipeline.components, **{name: pipeline.config[name] for name in names}, **kwargs})
        if "_name_or_path" in pipeline.config:
            new.register_to_config(_name_or_path=pipeline.config["_name_or_path"])
        return new

    def to(self, *args: Any, **kwargs: Any) -> "EDiffIPipeline":
        """Moves and casts all components; a T5 that would be float16 becomes bfloat16."""
        super().to(*args, **kwargs)
        keep_out_of_float16(self.text_encoder_2)
        return self

    def set_attention_backend(self, backend: str) -> None:
        """Sets the attention backend of every U-Net that is loaded, such as `"native"` or `"xformers"`."""
        for unet in (self.unet, self.unet_sr256, self.unet_sr1024):
            if unet is not None:
                unet.set_attention_backend(backend)

    @property
    def stages(self) -> list[Stage]:
        """The loaded stages in their order; each takes the image of the one before."""
        if self.unet is None or self.scheduler is None:
            raise ValueError("unet and scheduler are needed to draw an image; load them into the pipeline.")
        size = self.unet.config.sample_size
        stages = [Stage(f"base {size}x{size}", self.unet, self.scheduler, size)]
        for label, unet, scheduler in (
            ("SR256", self.unet_sr256, self.scheduler_sr256),
            ("SR1024", self.unet_sr1024, self.scheduler_sr1024),
        ):
            if unet is None:
                break
            size *= self.config.sr_scale
            stages.append(Stage(label, unet, scheduler, size))
        return stages

    @property
    def guidance_scale(self) -> GuidanceScale:
        """The guidance of the stage that is running, a number or weights for encoders; a callback may change
        `_guidance_scale`. An expert with a scale of its own (`ExpertRouterUNet.guidance_scales`) is called with that
        one instead, but for weights, which hold for every expert."""
        return self._guidance_scale

    @property
    def guidance_rescale(self) -> float:
        return self._guidance_rescale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return isinstance(self._guidance_scale, dict) or self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """Network evaluations of the last call, over all stages."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    def _prepare_noise(
        self,
        stage: Stage,
        batch_size: int,
        generator: torch.Generator | list[torch.Generator] | None,
        latents: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Standard normal noise for a stage, (batch, 3, size, size) in float32."""
        shape = (batch_size, stage.unet.config.out_channels, stage.size, stage.size)
        device = self._execution_device
        if latents is None:
            return randn_tensor(shape, generator, device, torch.float32)
        return latents.to(device, torch.float32)

    def _prepare_start(self, stages: list[Stage], batch_size: int) -> None:
        """Called once the timesteps are set and before anything expensive runs: pipelines that start from an image
        check it here, against the number of prompts."""

    def _prepare_low_res(self, stage: Stage, image: torch.Tensor, generator: Any) -> torch.Tensor:
        """What a super-resolution stage sees of the stage before: (batch, 3, size, size), from its sample."""
        low_res = upsample_low_res(image.clamp(-1, 1), stage.size)
        if not stage.noise_level:
            return low_res
        return augment_low_res(low_res, randn_tensor(low_res.shape, generator, low_res.device), stage.noise_level)

    def _begin_index(self, stage: Stage) -> int:
        """The timestep that a stage begins with, counted from the first: pipelines that start from an image skip
        some."""
        return 0

    def _first_sample(self, stage: Stage, noise: torch.Tensor) -> torch.Tensor:
        """The sample at the noise level of the first step, from standard normal noise (batch, 3, size, size)."""
        return noise * stage.scheduler.init_noise_sigma

    def _after_step(self, stage: Stage, sample: torch.Tensor, noise: torch.Tensor, index: int) -> torch.Tensor:
        """What goes on after the step of timestep `index`, here the sample itself; `noise` is that of the start."""
        return sample

    def _denoise_stage(
        self,
        stage: Stage,
        noise: torch.Tensor,
        low_res: torch.Tensor | None,
        embeds: Embeddings,
        generator: torch.Generator | list[torch.Generator] | None,
        on_step_end: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        switches: Mapping[int, Callable[[], None]] | None = None,
    ) -> torch.Tensor:
        """The denoising loop of every stage.

        Args:
            stage: The network and its scheduler, whose timesteps are set.
            noise: Standard normal, (batch, 3, size, size).
            low_res: Image of the stage before at the size of this one, (batch, 3, size, size) in [-1, 1]; `None` for
                the base.
            embeds: Conditions by their names in `__call__`; `on_step_end` may change them.
            generator: For schedulers that add noise.
            on_step_end: Called with timestep and sample after each step, returns the sample to go on with.
            switches: By the index of a timestep what is called before it, to put another prompt into `embeds`.

        Returns:
            The sample after the last step, or after the step that was interrupted.
        """
        scheduler, begin = stage.scheduler, self._begin_index(stage)
        timesteps = scheduler.timesteps[begin:]
        # Timesteps may repeat (Runge-Kutta stages), so the scheduler counts instead of looking them up.
        scheduler.set_begin_index(begin)
        # Read before the loop: choosing an expert must not wait for the device in every step.
        sigmas = [float(sigma) for sigma in getattr(scheduler, "routing_sigmas", scheduler.sigmas)][begin:]
        extra = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
        routed = hasattr(stage.unet, "select_expert")
        sample = self._first_sample(stage, noise)
        try:
            with self.progress_bar(total=len(timesteps)) as progress_bar:
                progress_bar.set_description(stage.label)
                for index, (t, sigma) in enumerate(zip(timesteps, sigmas, strict=False), begin):
                    if routed:
                        stage.unet.select_expert(sigma)
                    if switches and index in switches:
                        switches[index]()
                    model_output = self._predict(stage, sample, low_res, t, sigma, embeds)
                    sample = scheduler.step(model_output, t, sample, **extra, return_dict=False)[0]
                    sample = on_step_end(t, self._after_step(stage, sample, noise, index))
                    progress_bar.update()
                    if self.interrupt:
                        break
        finally:
            if routed:
                stage.unet.reset_expert()
        return sample

    def _predict(
        self,
        stage: Stage,
        sample: torch.Tensor,
        low_res: torch.Tensor | None,
        timestep: torch.Tensor,
        sigma: float,
        embeds: Embeddings,
    ) -> torch.Tensor:
        """The guided F (batch, 3, size, size) in float32, at a timestep of the step that begins at sigma."""
        unet, scale = stage.unet, self._guidance_scale
        own_scale = getattr(unet, "guidance_scale", None)  # of a router's selected expert
        if own_scale is not None and not isinstance(scale, dict):
            scale = own_scale
        guidance, sigma_data = Guidance.at(sigma, scale, self._guidance_interval), stage.scheduler.config.sigma_data
        model_input = stage.scheduler.scale_model_input(sample, timestep)
        # An image may have two rows; with more of them fewer images pass at a time.
        pixels = max(2, len(guidance.rows)) * model_input.shape[-1] * model_input.shape[-2]
        images = max(1, 2 * self.pixels_per_call // pixels)
        outputs = []
        for start in range(0, len(model_input), images):
            rows = slice(start, start + images)
            x = model_input[rows] if low_res is None else torch.cat([model_input[rows], low_res[rows]], dim=1)
            x = torch.cat([x] * len(guidance.rows)).to(unet.dtype)
            noise = {}
            if stage.noise_level is not None:
                noise["class_labels"] = torch.full((len(x),), stage.noise_level, device=x.device)
            if self._painting is not None:
                prompts = len(self._painting.regions)
                of_images = [image * prompts // len(sample) for image in range(len(sample))][rows]
                self._painting.select(of_images, *guidance.painted_rows())
            for observer in self._batch_observers:
                observer(unet, range(len(sample))[rows], len(sample), guidance.rows[-1] or ())
            conditions = {**guidance.conditions(embeds, rows, unet.dtype), **noise}
            output = unet(x, timestep, **conditions, return_dict=False)[0].float()
            outputs.append(guidance.combine(output, sample[rows], timestep, sigma_data, self._guidance_rescale))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    @contextmanager
    def _painted(self, stage: Stage, painting: Painting | None) -> Iterator[None]:
        self._painting = painting
        try:
            with painted(stage.unet, painting):
                yield
        finally:
            self._painting = None

    def _prompt_switches(
        self,
        stages: list[Stage],
        schedule: PromptSchedule | None,
        embeds: Embeddings,
        num_images_per_prompt: int,
        encoders: Sequence[str],
    ) -> list[dict[int, Callable[[], None]]]:
        """For each stage what changes the prompt in `embeds` and in the painting, by the index of the timestep that it
        is to be called before. All prompts are encoded here."""
        if schedule is None:
            return [{} for _ in stages]
        nothing: Embeddings = dict.fromkeys(EMBEDDINGS)
        encoded: list[Embeddings] = [{}]  # the first prompt is in `embeds` already
        for prompt in schedule.prompts[1:]:
            own = self._prepare_embeddings(prompt, None, None, nothing, num_images_per_prompt, False, encoders)
            encoded.append({name: own[name] for name in TEXT_EMBEDDINGS})

        def begin_prompt(number: int) -> None:
            embeds.update(encoded[number])
            if self._painting is not None:
                self._painting.begin_prompt(number)

        return schedule.switches(stages, self._begin_index, begin_prompt)

    def run_safety_checker(self, image: torch.Tensor) -> tuple[torch.Tensor, list[bool] | None]:
        """Lets the safety checker see images (batch, 3, height, width) in [-1, 1] and blacken what it objects to.

        Returns:
            The images, those without objection untouched, and for each whether there was one. A checker may have
            several reasons (that of DeepFloyd IF blackens watermarks as well); any of them counts.
        """
        if self.safety_checker is None:
            return image, None
        arrays = self.image_processor.postprocess(image, output_type="np")
        clip_input = clip_pixels(self.numpy_to_pil(arrays), self.safety_checker.config.vision_config.image_size)
        clip_input = clip_input.to(self._execution_device, self.safety_checker.dtype)
        arrays, *reasons = self.safety_checker(images=arrays, clip_input=clip_input)
        detected = [any(own) for own in zip(*reasons, strict=True)]
        checked = torch.from_numpy(np.stack(arrays)).movedim(-1, 1).to(image) * 2 - 1
        return torch.where(torch.tensor(detected, device=image.device)[:, None, None, None], checked, image), detected

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        style_image: Any = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | Sequence[int] | None = None,
        guidance_scale: GuidanceScale | Sequence[GuidanceScale] | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
        encoders: Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        pooled_prompt_embeds: torch.Tensor | None = None,
        prompt_embeds_2: torch.Tensor | None = None,
        prompt_attention_mask_2: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        negative_pooled_prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds_2: torch.Tensor | None = None,
        negative_prompt_attention_mask_2: torch.Tensor | None = None,
        image_embeds: torch.Tensor | None = None,
        style_scale: float = 1.0,
        prompt_schedule: Sequence[tuple[str | list[str], float]] | None = None,
        regions: Sequence[Any] | None = None,
        region_strength: float | Sequence[float] | None = None,
        noise_level: float | Sequence[float] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> EDiffIPipelineOutput | tuple:
        """Draws images.

        Args:
            prompt: What to draw; may be left out where embeddings or a style are given.
            negative_prompt: What guidance leads away from. `None` is the unconditional model (zeroed embeddings),
                `""` the encoded empty text.
            style_image: Style reference (section 5.3): a PIL image, an array (height, width, 3) or a tensor
                (3, height, width) in [0, 1], a path or an http(s) address, one for all prompts or a list with one for
                each. A list in this list is several references for one prompt, mixed equally; `encode_style` weighs
                them. A tensor of two dimensions is `image_embeds`.
            height, width: Size of the last stage to run, by default the largest that is loaded.
            num_inference_steps, guidance_scale: One number for every stage, or one per stage as a tuple (base, SR256,
                SR1024); by default the pipeline's `default_...`. Guidance of 1 or less is none, at half the cost.
                Experts with a guidance scale of their own keep it. For the base, alone or as the tuple's first entry,
                guidance may be a dictionary with a weight for each encoder, such as `{"t5": 5, "clip_text": 3}`:
                D_none + sum of w_k (D_k - D_none) with D_k conditioned on encoder k alone. Encoders without a weight
                guide nothing, and experts' own scales do not count. Each weight but 0 costs a row for each image in
                the network's batch, beside the one of D_none (a number: two rows in all).
            guidance_interval: Noise levels (low, high] in sigma within which every stage is guided (arXiv 2404.07724).
                Outside it costs half: one row, conditioned on all encoders that guide.
            guidance_rescale: phi of arXiv 2305.08891: how far, in every guided step, the standard deviation of the
                denoised image is brought back to that without guidance; 0.7 is usual, 0 changes nothing.
            encoders: Which conditions are used in every stage, of `t5`, `clip_text` (tokens and pooled) and
                `clip_image`; by default all. The others are as training saw them dropped, in the negative prompt,
                too, and are not encoded.
            num_images_per_prompt: Images for each prompt.
            generator: Makes the noise repeatable; a list gives each image its own.
            latents: Standard normal noise for the base stage (images, 3, base size, base size).
            prompt_embeds, pooled_prompt_embeds, prompt_embeds_2, prompt_attention_mask_2: Instead of `prompt`, as
                `encode_prompt` returns them; T5's may have fewer tokens. An embedding left out counts as zeros.
            negative_prompt_embeds, negative_pooled_prompt_embeds, negative_prompt_embeds_2,
                negative_prompt_attention_mask_2: The same instead of `negative_prompt`.
            image_embeds: CLIP image embedding (batch or 1, width) instead of `style_image`.
            style_scale: Factor on the CLIP image embedding; 0 is no style.
            prompt_schedule: Instead of `prompt`, prompts that follow each other while the base stage draws (Figure 4),
                each with the share of the steps after which it begins: `[("a cat", 0.0), ("a dog", 0.3)]`. A share
                means the step nearest to it, a share of 1 that the base never sees the prompt. An entry may be a list
                of prompts, one for each row of the batch. The super-resolution stages see the last prompt. What a
                callback puts into the prompt's embeddings holds until the next one begins.
            regions: Where phrases of the prompt are to be seen (paint-with-words, section 4.4): a list of
                [`PaintRegion`], for several prompts either for all of them or a list for each. While a scheduled
                prompt without the phrase holds, the region is not painted.
            region_strength: w' of the paper, how strongly attention is led; 0.1 to 0.5 is usual, the pipeline's
                `default_region_strength` by default. One number is for the base stage alone, a tuple (base, SR256,
                SR1024) for the others, too. `pipe.region_normalizer` says what it multiplies: the `max` of the
                attention scores, as in the paper, or their `std`.
            noise_level: Noise conditioning augmentation (arXiv 2205.11487): standard deviation of the Gaussian noise
                that is added to the low-resolution image, and told to networks that have learned with it. With more of
                it a super-resolution stage repairs more, and keeps less, of what the stage before drew. One number for
                both stages or a tuple (SR256, SR1024), the pipeline's `default_noise_level` by default; at most the
                network's `max_noise_level`, and 0 for a network without.
            output_type: `pil`, `np`, `pt` or `latent`, see [`EDiffIPipelineOutput`].
            return_dict: Whether to return an [`EDiffIPipelineOutput`] instead of a tuple.
            callback_on_step_end: Called as `callback(pipe, step, timestep, tensors)` after each step; steps are
                counted over all stages. What it returns replaces the tensors. Setting `pipe._interrupt` ends the call
                with the unfinished sample of the running stage.
            callback_on_step_end_tensor_inputs: Names of the tensors handed to it, from `_callback_tensor_inputs`.

        Raises:
            ValueError: An argument is wrong; see `pipeline_inputs`.
        """
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        given: Embeddings = {
            "prompt_embeds": prompt_embeds,
            "pooled_prompt_embeds": pooled_prompt_embeds,
            "prompt_embeds_2": prompt_embeds_2,
            "prompt_attention_mask_2": prompt_attention_mask_2,
            "negative_prompt_embeds": negative_prompt_embeds,
            "negative_pooled_prompt_embeds": negative_pooled_prompt_embeds,
            "negative_prompt_embeds_2": negative_prompt_embeds_2,
            "negative_prompt_attention_mask_2": negative_prompt_attention_mask_2,
            "image_embeds": image_embeds,
        }
        check_style(style_image, style_scale, image_embeds)
        schedule = check_prompt_schedule(prompt_schedule, prompt, given)
        prompt = schedule.prompts[0] if schedule else prompt
        if isinstance(style_image, torch.Tensor) and style_image.ndim == 2:
            given["image_embeds"], style_image = style_image, None
        style_image = None if style_image is None else read_references(style_image)
        stages = stages_up_to(self.stages, height, width)
        steps = per_stage("num_inference_steps", num_inference_steps, self.config.default_num_inference_steps, stages)
        scales = guidance_per_stage(guidance_scale, self.config.default_guidance_scale, stages)
        stages = with_noise_levels(stages, noise_level, self.config.default_noise_level)
        check_guidance(guidance_interval, guidance_rescale)
        check_choice("output_type", [output_type], OUTPUT_TYPES)
        check_choice(
            "callback_on_step_end_tensor_inputs", callback_on_step_end_tensor_inputs, self._callback_tensor_inputs
        )
        check_inputs(
            self, stages, prompt, negative_prompt, style_image, given, num_images_per_prompt, generator, latents
        )
        encoders = encoders_in_use(self, encoders, scales[0], prompt, style_image, given)
        paintings = paintings_per_stage(self, stages, prompt, regions, region_strength, schedule, encoders)
        for stage, num_steps in zip(stages, steps, strict=True):
            stage.scheduler.set_timesteps(num_steps, device=self._execution_device)
        self._prepare_start(stages, batch_size_of(prompt, style_image, given))

        num_images_per_prompt = int(num_images_per_prompt)
        self._interrupt = False
        self._prompt_schedule = schedule
        self._guidance_interval, self._guidance_rescale = guidance_interval, guidance_rescale
        experts_scales = [scale for stage in stages for scale in getattr(stage.unet, "guidance_scales", ())]
        guided = any(isinstance(one, dict) or one > 1 for one in (*scales, *experts_scales) if one is not None)
        embeds = self._prepare_embeddings(
            prompt, negative_prompt, style_image, given, num_images_per_prompt, guided, encoders
        )
        if embeds["image_embeds"] is not None:
            embeds["image_embeds"] = embeds["image_embeds"] * float(style_scale) if style_scale else None
        switches = self._prompt_switches(stages, schedule, embeds, num_images_per_prompt, encoders)
        self._num_timesteps = sum(len(stage.scheduler.timesteps) - self._begin_index(stage) for stage in stages)
        counter = itertools.count()

        def on_step_end(timestep: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
            tensors = {**embeds, "latents": sample}
            wanted = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
            changed = callback_on_step_end and callback_on_step_end(self, next(counter), timestep, wanted)
            changed = dict(changed or {})
            sample = changed.pop("latents", sample)
            embeds.update(changed)
            return sample

        images = batch_size_of(prompt, style_image, given) * num_images_per_prompt
        sample = torch.empty(0)  # of the stage before
        for index, (stage, painting, scale) in enumerate(zip(stages, paintings, scales, strict=True)):
            if self.interrupt:
                break
            if index == 0 or scale != scales[index - 1]:  # else what a callback made of it goes on
                self._guidance_scale = scale
            low_res = self._prepare_low_res(stage, sample, generator) if index else None
            noise = self._prepare_noise(stage, images, generator, None if index else latents)
            if index == 0 and painting is not None:
                noise = painting.mix_noise(noise)
            with self._painted(stage, painting):
                sample = self._denoise_stage(stage, noise, low_res, embeds, generator, on_step_end, switches[index])

        nsfw_content_detected = None
        if output_type != "latent":
            sample, nsfw_content_detected = self.run_safety_checker(sample.clamp(-1, 1))
        result = self.image_processor.postprocess(sample, output_type=output_type)
        self.maybe_free_model_hooks()
        return EDiffIPipelineOutput(result, nsfw_content_detected) if return_dict else (result, nsfw_content_detected)
