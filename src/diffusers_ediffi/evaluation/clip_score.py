# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The CLIP score: how well pictures fit their captions."""

import torch


class CLIPScore:
    """100 max(cos, 0) of CLIP's embeddings of picture and caption, the mean over all pictures (Hessel et al. 2021,
    arXiv 2104.08718, with the factor 100 of torchmetrics in the place of their 2.5).

        >>> metric.update(clip(images), clip.text_features(captions))  # doctest: +SKIP
        >>> metric.compute()  # doctest: +SKIP
    """

    name = "clip_score"

    def __init__(self) -> None:
        self._scores: list[torch.Tensor] = []

    def update(self, image_features: torch.Tensor, text_features: torch.Tensor) -> None:
        """Takes in a batch.

        Args:
            image_features (`torch.Tensor`): `(batch, width)`, of any length.
            text_features (`torch.Tensor`): `(batch, width)`, of their captions.

        Raises:
            ValueError: They have different shapes, or are not finite.
        """
        if image_features.ndim != 2 or image_features.shape != text_features.shape:
            raise ValueError(
                f"clip_score: features of pictures {tuple(image_features.shape)} and of captions "
                f"{tuple(text_features.shape)} do not fit each other; give a caption for each picture."
            )
        pairs = torch.stack([image_features.detach().cpu(), text_features.detach().cpu()]).double()
        if not torch.isfinite(pairs).all():
            raise ValueError("clip_score: features are not finite.")
        images, texts = torch.nn.functional.normalize(pairs, dim=2)
        self._scores.append(100 * (images * texts).sum(dim=1).clamp(min=0))

    def check(self, num_pictures: int, num_captions: int) -> None:
        """Refuses captions that are not one for each picture.

        Raises:
            ValueError: There are more or fewer, or none.
        """
        if num_pictures != num_captions or not num_pictures:
            raise ValueError(f"clip_score: {num_captions} captions for {num_pictures} pictures; give one for each.")

    def compute(self) -> dict[str, float]:
        """`clip_score`, from 0 to 100, and its standard error.

        Raises:
            ValueError: There are no pictures.
        """
        count = sum(map(len, self._scores))
        self.check(count, count)
        scores = torch.cat(self._scores)
        error = scores.std(correction=1).item() / count**0.5 if count > 1 else 0.0
        return {"clip_score": scores.mean().item(), "clip_score_standard_error": error}
