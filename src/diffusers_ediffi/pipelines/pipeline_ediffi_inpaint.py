# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`EDiffIInpaintPipeline`: repaints a part of an image, in every stage of the cascade."""

from collections.abc import Sequence
from typing import Any

import torch

from .image_start import ImageStart
from .pipeline_ediffi import EDiffIPipeline, EDiffIPipelineOutput
from .pipeline_ediffi_img2img import EDiffIImg2ImgPipeline, with_arguments_of
from .stages import Stage

STRENGTH = 1.0


class EDiffIInpaintPipeline(EDiffIImg2ImgPipeline):
    """Inpainting: what a mask leaves black keeps the pixels of an image, the rest is drawn to fit.

    ```python
    from diffusers_ediffi import EDiffIInpaintPipeline

    inpaint = EDiffIInpaintPipeline.from_pipe(pipe)  # shares all of its parts; or from_pretrained
    inpaint("a rocket next to a red apple", image=picture, mask_image=mask).images[0]
    ```

    It needs no network that was trained for it: after every step of every stage the sample becomes the image at that
    noise level, with the noise of the start, where the mask is black (as RePaint, arXiv 2201.09865, without its
    resampling). So the networks see at each step what they have to join on to.
    """

    @with_arguments_of(EDiffIPipeline.__call__)
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        image: Any = None,
        mask_image: Any = None,
        strength: float | Sequence[float] = STRENGTH,
        sigma_start: float | Sequence[float | None] | None = None,
        **kwargs: Any,
    ) -> EDiffIPipelineOutput | tuple:
        """Draws the white part of a mask anew.

        Args:
            prompt (`str` or `list` of `str`, *optional*): What to draw, the kept part included, see
                [`EDiffIPipeline`].
            image: As in [`EDiffIImg2ImgPipeline`].
            mask_image: White (1) is repainted, black (0) keeps exactly the pixels of `image` in the size of the
                output, grey blends: a PIL image, an array or tensor (height, width) in [0, 1] as floats or booleans or
                in [0, 255] as integers; one for all images, or a list with one for each. It may have any size, but
                must have the proportions of the image.
            strength (`float` or `tuple`, defaults to 1.0): As in [`EDiffIImg2ImgPipeline`], for the white part: 1
                draws it from pure noise, less follows what the image shows there.
            sigma_start (`float` or `tuple`, *optional*): As in [`EDiffIImg2ImgPipeline`].
            **kwargs: All other arguments of [`EDiffIPipeline`], by name.

        Raises:
            ValueError: An argument is wrong.
        """
        if mask_image is None:
            raise ValueError("mask_image is missing; pass a mask, white where to paint, or use EDiffIImg2ImgPipeline.")
        return self._call_from(ImageStart(image, strength, sigma_start, mask_image, unsaid=STRENGTH), prompt, kwargs)

    def _after_step(self, stage: Stage, sample: torch.Tensor, noise: torch.Tensor, index: int) -> torch.Tensor:
        return self._start.keep_unmasked(stage, sample, noise, index)
