# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`EDiffIPipeline`: from a sentence to an image, through the cascade base -> SR256 -> SR1024 (section 3)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import VaeImageProcessor
from diffusers.models import UNet2DConditionModel, UNet2DModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from PIL import Image
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
from ..models.encoder_table import EMBEDDINGS
from ..models.text_projection import UnCLIPTextProjection
from ..models.turns import turn
from ..models.unet import EDiffIUNet
from ..paint.processor import painted
from .call import Call, CallState, Conditions, prepare_conditions
from .conditioning import Conditioning
from .encoders import EncodersMixin
from .guidance import check_guidance, with_guidance
from .inputs import (
    OUTPUT_TYPES,
    Embeddings,
    Inputs,
    as_class_labels,
    check_callback,
    check_choice,
    check_inputs,
    check_prompt_schedule,
    encoders_in_use,
)
from .loading import LoadablePipeline, keep_out_of_float16, prepare_part
from .lora import LoraPipeline
from .paintings import paintings_per_stage
from .prediction import predict
from .safety import run_safety_checker
from .stages import (
    Generator,
    GuidanceScale,
    Stage,
    changed_by_calls,
    loaded_stages,
    stages_up_to,
    with_noise_levels,
    with_steps,
)
from .style import read_style
from .vocabulary import Vocabulary


@dataclass
class EDiffIPipelineOutput(BaseOutput):
    """What [`EDiffIPipeline`] returns.

    Args:
        images (`list[PIL.Image.Image]`, `np.ndarray` or `torch.Tensor`): The images of the last stage: a list, an
            array (batch, height, width, 3) or a tensor (batch, 3, height, width) in [0, 1], or for
            `output_type="latent"` the sample itself, in [-1, 1] and not clamped.
        nsfw_content_detected (`list[bool]`, *optional*): For each image whether the safety checker blackened it;
            `None` without a checker, and for `output_type="latent"`, which it does not see.
    """

    images: list[Image.Image] | np.ndarray | torch.Tensor
    nsfw_content_detected: list[bool] | None = None


class EDiffIPipeline(LoadablePipeline, LoraPipeline, EncodersMixin, CallState):
    """Text-to-image generation with eDiff-I: an ensemble of expert denoisers and two super-resolution stages.

    ```python
    from diffusers_ediffi import EDiffIPipeline, demo_checkpoint

    pipe = EDiffIPipeline.from_pretrained(demo_checkpoint())
    pipe("a rocket above a red apple on a dark blue background").images[0].save("rocket.png")
    ```

    Every component but `unet` and `scheduler` is optional: a stage that is not loaded ends the cascade before it, and
    an encoder that is not loaded leaves its condition empty, which is what training saw as "dropped".

    Args:
        unet ([`EDiffIUNet`], [`ExpertRouterUNet`] or a U-Net of diffusers): The base model.
        scheduler (`SchedulerMixin`): Its scheduler: [`EDMDEISScheduler`], `EDMEulerScheduler` or
            `EDMDPMSolverMultistepScheduler`; for networks in discrete time any with their betas.
        tokenizer (`CLIPTokenizer`, *optional*), text_encoder (`CLIPTextModelWithProjection`, *optional*): CLIP text.
        tokenizer_2 (`T5Tokenizer`, *optional*), text_encoder_2 (`T5EncoderModel`, *optional*): T5. It overflows in
            float16 and is cast to bfloat16 where the pipeline is loaded in, or moved to, float16.
        feature_extractor (`CLIPImageProcessor`, *optional*), image_encoder (`CLIPVisionModelWithProjection`,
            *optional*): CLIP image, for `style_image`.
        unet_sr256, unet_sr1024 (as `unet`, *optional*): The super-resolution models.
        scheduler_sr256, scheduler_sr1024 (`SchedulerMixin`, *optional*): Their schedulers; by default a copy of
            `scheduler`.
        safety_checker (`PreTrainedModel`, *optional*): `StableDiffusionSafetyChecker`, `IFSafetyChecker` or another
            model that is called with `images` and `clip_input` and has a `CLIPConfig`. It sees pictures at the size
            that this config says, whatever `feature_extractor` is for.
        default_num_inference_steps (`tuple`, defaults to `(25, 10, 10)`): Steps of base, SR256 and SR1024 (Table 7).
        default_guidance_scale (`tuple`, defaults to `(5.0, 1.0, 1.0)`): Guidance of base, SR256 and SR1024.
        default_region_strength (`float` or `tuple`, defaults to 0.4): w' of paint-with-words, see `region_strength`.
        default_noise_level (`tuple`, defaults to `(0.0, 0.0)`): Noise on the low-resolution images of SR256 and
            SR1024, see `noise_level`.
        sr_scale (`int`, defaults to 4): How much larger than its input the image of a super-resolution stage is.
        vocabulary (`dict`, *optional*): The words that the model knows, where these are few, see [`Vocabulary`].
        conditioning (`dict`, *optional*): What the U-Nets read, where they are not eDiff-I's, see [`Conditioning`].
        text_proj ([`UnCLIPTextProjection`], *optional*): What makes the inputs of unCLIP's decoder of embeddings.
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
        "text_proj",
    ]
    _exclude_from_cpu_offload = ["safety_checker", "text_proj"]
    _callback_tensor_inputs = ["latents", *EMBEDDINGS]
    # A larger batch passes the network in parts, so that a batch at 1024 x 1024 needs the memory of one image.
    pixels_per_call = 1024 * 1024
    region_normalizer = "max"  # of paint-with-words, or "std"; see `region_strength`

    def __init__(
        self,
        # diffusers reads these types at run time: `from_pipe` takes over only networks of a type that is named here.
        unet: EDiffIUNet | ExpertRouterUNet | UNet2DConditionModel | UNet2DModel,
        scheduler: SchedulerMixin,
        tokenizer: CLIPTokenizer | None = None,
        text_encoder: CLIPTextModelWithProjection | None = None,
        tokenizer_2: T5Tokenizer | None = None,
        text_encoder_2: T5EncoderModel | None = None,
        feature_extractor: BaseImageProcessor | None = None,
        image_encoder: CLIPVisionModelWithProjection | None = None,
        unet_sr256: EDiffIUNet | ExpertRouterUNet | UNet2DConditionModel | UNet2DModel | None = None,
        unet_sr1024: EDiffIUNet | ExpertRouterUNet | UNet2DConditionModel | UNet2DModel | None = None,
        scheduler_sr256: SchedulerMixin | None = None,
        scheduler_sr1024: SchedulerMixin | None = None,
        safety_checker: PreTrainedModel | None = None,
        default_num_inference_steps: tuple[int, ...] | list[int] = (25, 10, 10),
        default_guidance_scale: tuple[float, ...] | list[float] = (5.0, 1.0, 1.0),
        default_region_strength: float | tuple[float, ...] | list[float] = 0.4,
        default_noise_level: tuple[float, ...] | list[float] = (0.0, 0.0),
        sr_scale: int = 4,
        vocabulary: dict[str, Any] | None = None,
        conditioning: dict[str, Any] | None = None,
        text_proj: UnCLIPTextProjection | None = None,
    ):
        super().__init__()
        self._vocabulary = Vocabulary.from_config(vocabulary)
        self._conditioning = Conditioning.from_config(conditioning)
        keep_out_of_float16(text_encoder_2)
        encoders = (text_encoder, text_encoder_2, image_encoder, safety_checker)
        for part in (*encoders, unet, unet_sr256, unet_sr1024, text_proj):
            prepare_part(part)
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
            scheduler_sr256=_scheduler_for(unet_sr256, scheduler_sr256, scheduler),
            scheduler_sr1024=_scheduler_for(unet_sr1024, scheduler_sr1024, scheduler),
            safety_checker=safety_checker,
            text_proj=text_proj,
        )
        self.register_to_config(
            default_num_inference_steps=tuple(default_num_inference_steps),
            default_guidance_scale=tuple(default_guidance_scale),
            default_region_strength=default_region_strength,
            default_noise_level=tuple(default_noise_level),
            sr_scale=sr_scale,
            vocabulary=None if self._vocabulary is None else self._vocabulary.to_config(),
            conditioning=conditioning,
        )
        self.image_processor = VaeImageProcessor(do_resize=False, vae_scale_factor=1)

    @property
    def stages(self) -> list[Stage]:
        """The loaded stages in their order; each takes the image of the one before."""
        return loaded_stages(self)

    def run_safety_checker(self, image: torch.Tensor) -> tuple[torch.Tensor, list[bool] | None]:
        """Lets the safety checker see images (batch, 3, height, width) in [-1, 1] and blacken what it objects to; the
        images, and for each whether there was an objection."""
        return run_safety_checker(self, image)

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
        generator: Generator = None,
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
        class_labels: int | Sequence[int] | torch.Tensor | None = None,
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
            > What to draw
            prompt (`str` or `list` of `str`, *optional*): The text; may be left out with embeddings or a style.
            negative_prompt (`str` or `list` of `str`, *optional*): What guidance leads away from. `None` is the
                unconditional model (zeroed embeddings), `""` the encoded empty text.
            prompt_schedule (`list` of `tuple`, *optional*): Instead of `prompt`, prompts that follow each other while
                the base stage draws (Figure 4), each with the share of the steps after which it begins:
                `[("a cat", 0.0), ("a dog", 0.3)]`. A share means the step nearest to it, a share of 1 that the base
                never sees the prompt. An entry may be a list of prompts, one for each row of the batch. The
                super-resolution stages see the last prompt. What a callback puts into the prompt's embeddings holds
                until the next prompt begins.
            num_images_per_prompt (`int`, defaults to 1): Images for each prompt.

            > Size and steps
            height, width (`int`, *optional*): Size of the last stage to run, by default the largest that is loaded.
            num_inference_steps (`int` or `tuple`, *optional*): One number for every stage, or one per stage as a tuple
                (base, SR256, SR1024); by default the pipeline's `default_num_inference_steps`.
            noise_level (`float` or `tuple`, *optional*): Noise conditioning augmentation (arXiv 2205.11487): standard
                deviation of the Gaussian noise that is added to the low-resolution image, and told to networks that
                have learned with it. With more of it a super-resolution stage repairs more, and keeps less, of what
                the stage before drew. One number for both stages or a tuple (SR256, SR1024), the pipeline's
                `default_noise_level` by default; at most the network's `max_noise_level`, and 0 for a network without.
            generator (`torch.Generator` or `list`, *optional*): Makes the noise repeatable; a list has one an image.
            latents (`torch.Tensor`, *optional*): Standard normal noise for the base stage (images, 3, size, size).

            > Guidance
            guidance_scale (`float`, `dict` or `tuple`, *optional*): One number for every stage, or one per stage; by
                default the pipeline's `default_guidance_scale`. Guidance of 1 or less is none, at half the cost. The
                scale of an expert (`ExpertRouterUNet.guidance_scales`) comes before it. For the base, alone or as the
                tuple's first entry, it may be a dictionary with a weight for each encoder, such as
                `{"t5": 5, "clip_text": 3}`: D_none + sum of w_k (D_k - D_none) with D_k conditioned on encoder k
                alone. Encoders without a weight guide nothing, and the scales of experts do not count. Each weight but
                0 costs a row for each image in the network's batch, beside that of D_none (a number: two rows in all).
            guidance_interval (`tuple` of `float`, *optional*): Noise levels (low, high] in sigma within which every
                stage is guided (arXiv 2404.07724). Outside it costs half: one row, conditioned on all encoders that
                guide.
            guidance_rescale (`float`, defaults to 0.0): phi of arXiv 2305.08891: how far, in every guided step, the
                standard deviation of the denoised image is brought back to that without guidance; 0.7 is usual, 0
                changes nothing.
            encoders (`list` of `str`, *optional*): Which conditions are used in every stage, of `t5`, `clip_text`
                (tokens and pooled) and `clip_image`; by default all. The others are as training saw them dropped, in
                the negative prompt, too, and are not encoded.

            > Conditions given as tensors
            prompt_embeds, pooled_prompt_embeds, prompt_embeds_2, prompt_attention_mask_2 (`torch.Tensor`, *optional*):
                Instead of `prompt`, as `encode_prompt` returns them; T5's may have fewer tokens. An embedding left out
                counts as zeros.
            negative_prompt_embeds, negative_pooled_prompt_embeds (`torch.Tensor`, *optional*): The same instead of
                `negative_prompt`.
            negative_prompt_embeds_2, negative_prompt_attention_mask_2 (`torch.Tensor`, *optional*): And T5's.
            image_embeds (`torch.Tensor`, *optional*): Instead of `style_image`, its embedding (batch or 1, width).
            class_labels (`int`, `list` or `torch.Tensor`, *optional*): The class of each row, for networks that have
                learned with classes; guidance leaves it in all rows.

            > Style
            style_image (*optional*): Style reference (section 5.3): a PIL image, an array (height, width, 3) or a
                tensor (3, height, width) in [0, 1], a path or an http(s) address, one for all prompts or a list with
                one for each. A list in this list is several references for one prompt, mixed equally; `encode_style`
                weighs them. A tensor of two dimensions is `image_embeds`.
            style_scale (`float`, defaults to 1.0): Factor on the CLIP image embedding; 0 is no style.

            > Layout
            regions (`list` of [`PaintRegion`], *optional*): Where phrases of the prompt are to be seen
                (paint-with-words, section 4.4), for several prompts either for all of them or a list for each. While a
                scheduled prompt without the phrase holds, the region is not painted.
            region_strength (`float` or `tuple`, *optional*): w' of the paper, how strongly attention is led; 0.1 to
                0.5 is usual, the pipeline's `default_region_strength` by default. One number is for the base stage
                alone, a tuple (base, SR256, SR1024) for the others, too. `pipe.region_normalizer` says what it
                multiplies: the `max` of the attention scores, as in the paper, or their `std`.

            > Output and callbacks
            output_type (`str`, defaults to `"pil"`): `pil`, `np`, `pt` or `latent`, see [`EDiffIPipelineOutput`].
            return_dict (`bool`, defaults to `True`): Whether to return an [`EDiffIPipelineOutput`] instead of a tuple.
            callback_on_step_end (`Callable`, *optional*): Called as `callback(pipe, step, timestep, tensors)` after
                each step; steps are counted over all stages. What it returns replaces the tensors. Setting
                `pipe._interrupt` ends the call with the unfinished sample of the running stage.
            callback_on_step_end_tensor_inputs (`list` of `str`, defaults to `("latents",)`): Names of the tensors
                handed to it, from `_callback_tensor_inputs`.

        Threads may call the pipeline, and others with the same networks; they draw one after the other.

        Raises:
            ValueError: An argument is wrong; the message names it, its value and what to pass instead. Or a callback
                calls a pipeline with the same networks, or the networks return values that are not finite.
        """
        given: Embeddings = {
            "prompt_embeds": prompt_embeds,
            "pooled_prompt_embeds": pooled_prompt_embeds,
            "prompt_embeds_2": prompt_embeds_2,
            "prompt_attention_mask_2": prompt_attention_mask_2,
            "negative_prompt_embeds": negative_prompt_embeds,
            "negative_pooled_prompt_embeds": negative_pooled_prompt_embeds,
            "negative_prompt_embeds_2": negative_prompt_embeds_2,
            "negative_prompt_attention_mask_2": negative_prompt_attention_mask_2,
        }
        style, given["image_embeds"] = read_style(style_image, style_scale, image_embeds)
        schedule = check_prompt_schedule(prompt_schedule, prompt, given)
        prompt = schedule.prompts[0] if schedule else prompt
        labels = as_class_labels(class_labels)
        inputs = Inputs(prompt, negative_prompt, style, given, num_images_per_prompt, labels)
        stages = stages_up_to(self.stages, height, width)
        stages = with_steps(stages, num_inference_steps, self.config.default_num_inference_steps)
        stages = with_guidance(stages, guidance_scale, self.config.default_guidance_scale)
        stages = with_noise_levels(stages, noise_level, self.config.default_noise_level)
        check_guidance(guidance_interval, guidance_rescale)
        check_choice("output_type", [output_type], OUTPUT_TYPES)
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        names = callback_on_step_end_tensor_inputs
        check_callback(callback_on_step_end, names, self._callback_tensor_inputs)
        check_inputs(self, inputs, stages, generator, latents)
        used = encoders_in_use(self, encoders, stages, inputs)
        paintings = paintings_per_stage(self, stages, prompt, regions, region_strength, schedule, used)
        stages = [replace(stage, painting=painting) for stage, painting in zip(stages, paintings, strict=True)]
        call = Call(
            inputs=inputs,
            stages=stages,
            encoders=used,
            style_scale=style_scale,
            prompt_schedule=schedule,
            guidance_interval=guidance_interval,
            guidance_rescale=guidance_rescale,
            generator=generator,
            latents=latents,
            callback=callback_on_step_end,
            callback_tensors=names,
        )
        with turn(changed_by_calls(self, stages)):
            return self._output(self._run(call), output_type, return_dict)

    def _run(self, call: Call) -> torch.Tensor:
        """Draws stage after stage; returns the sample of the last, or of the stage that was interrupted."""
        for stage in call.stages:
            stage.scheduler.set_timesteps(stage.num_inference_steps, device=self._execution_device)
        self._prepare_start(call.stages, call.inputs.batch_size)
        self._interrupt = False
        self._guidance_rescale = call.guidance_rescale
        self._prompt_schedule = call.prompt_schedule
        conditions = prepare_conditions(self, call)
        self._num_timesteps = sum(len(stage.scheduler.timesteps) - self._begin_index(stage) for stage in call.stages)
        sample, scale = None, None
        for stage in call.stages:
            if stage.guidance_scale != scale:  # else what a callback made of it goes on
                self._guidance_scale = scale = stage.guidance_scale
            sample = self._run_stage(call, stage, sample, conditions)
            stage.check_finite(sample)
            if self.interrupt:
                break
        assert sample is not None  # there is a base stage
        return sample

    def _run_stage(
        self, call: Call, stage: Stage, before: torch.Tensor | None, conditions: Conditions
    ) -> torch.Tensor:
        """The sample of a stage, from the sample of the stage before."""
        low_res = None if before is None else stage.low_res(before, call.generator)
        if before is None and call.latents is not None:
            noise = call.latents.to(self._execution_device, torch.float32)
        else:
            noise = stage.noise(call.inputs.num_images, call.generator, self._execution_device)
        if before is None and stage.painting is not None:
            noise = stage.painting.mix_noise(noise)
        with painted(stage.unet, stage.painting, stage.parametrization.sigma_of):
            return self._denoise_stage(stage, noise, low_res, call, conditions)

    def _denoise_stage(
        self, stage: Stage, noise: torch.Tensor, low_res: torch.Tensor | None, call: Call, conditions: Conditions
    ) -> torch.Tensor:
        """The denoising loop of every stage.

        Args:
            stage: The stage, whose timesteps are set.
            noise: Standard normal, (batch, 3, size, size).
            low_res: Image of the stage before at the size of this one, (batch, 3, size, size) in [-1, 1]; `None` for
                the base.
            call: What was asked for.
            conditions: What the network is conditioned on.

        Returns:
            The sample after the last step, or after the step that was interrupted.
        """
        begin = self._begin_index(stage)
        # Timesteps may repeat (Runge-Kutta stages), so the scheduler counts instead of looking them up.
        if hasattr(stage.scheduler, "set_begin_index"):
            stage.scheduler.set_begin_index(begin)
        step = stage.stepper(call.generator, begin)
        sample = self._first_sample(stage, noise)
        total = len(stage.scheduler.timesteps) - begin
        with stage.expert_choice() as select_expert, self.progress_bar(total=total) as progress_bar:
            progress_bar.set_description(stage.label)
            for index, t, sigma in stage.steps_from(begin):
                select_expert(sigma)
                conditions.begin_step(stage, index)
                guidance = self._guidance_at(sigma, stage, call.guidance_interval)
                model_output = predict(self, stage, sample, low_res, t, guidance, conditions.embeds)
                sample = step(model_output, t, sample)[0]
                sample = conditions.end_step(self, t, self._after_step(stage, sample, noise, index))
                progress_bar.update()
                if self.interrupt:
                    break
        return sample

    def _prepare_start(self, stages: list[Stage], batch_size: int) -> None:
        """Called once the timesteps are set and before anything expensive runs: pipelines that start from an image
        check it here, against the number of prompts."""

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

    def _output(self, sample: torch.Tensor, output_type: str, return_dict: bool) -> EDiffIPipelineOutput | tuple:
        """Checks the last sample and brings it into the form that was asked for."""
        nsfw_content_detected = None
        if output_type != "latent":
            sample, nsfw_content_detected = self.run_safety_checker(sample.clamp(-1, 1))
        images = self.image_processor.postprocess(sample, output_type=output_type)
        self.maybe_free_model_hooks()
        return EDiffIPipelineOutput(images, nsfw_content_detected) if return_dict else (images, nsfw_content_detected)


def _scheduler_for(unet: Any, given: SchedulerMixin | None, base: SchedulerMixin | None) -> SchedulerMixin | None:
    """The scheduler of a super-resolution network, by default a copy of the base's: schedulers carry state."""
    if given is not None or unet is None or base is None:
        return given
    return type(base).from_config(base.config)
