# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What all metrics over two sets of features have in common: they are fed in batches and count in float64."""

import torch


class FeatureMetric:
    """Compares features of generated pictures with those of real ones.

        >>> metric.update(features_of_real, real=True)  # doctest: +SKIP
        >>> metric.update(features, real=False)  # doctest: +SKIP
        >>> metric.compute()  # doctest: +SKIP

    How the features are cut into batches, and their order, changes no more than the last bits of a result.
    """

    name = ""

    def __init__(self) -> None:
        self.width: int | None = None

    def update(self, features: torch.Tensor, real: bool) -> None:
        """Takes in a batch.

        Args:
            features (`torch.Tensor`): `(batch, width)`, finite.
            real (`bool`): Whether they are of real pictures.

        Raises:
            ValueError: They have another shape, another width than those before, or are not finite.
        """
        if features.ndim != 2 or not features.shape[1] or features.shape[1] != (self.width or features.shape[1]):
            wanted = self.width or "width"
            raise ValueError(f"Features must be (batch, {wanted}), got {tuple(features.shape)}.")
        if not torch.isfinite(features).all():
            raise ValueError(f"Features of {'real' if real else 'generated'} pictures are not finite.")
        self.width = features.shape[1]
        self._take(features.detach().cpu(), real)

    def check(self, num_generated: int, num_real: int, width: int) -> None:
        """Refuses numbers of pictures of which the result would mean nothing, before there are features.

        Raises:
            ValueError: There are too few.
        """
        raise NotImplementedError

    def compute(self) -> dict[str, float]:
        """The figures of all features so far, by name.

        Raises:
            ValueError: As of `check`.
        """
        raise NotImplementedError

    def _take(self, features: torch.Tensor, real: bool) -> None:
        raise NotImplementedError


class StoredFeatures(FeatureMetric):
    """A metric that needs all features at once: 30,000 of 1024 numbers take 123 MB in float32."""

    def __init__(self) -> None:
        super().__init__()
        self._stored: dict[bool, list[torch.Tensor]] = {False: [], True: []}

    def _take(self, features: torch.Tensor, real: bool) -> None:
        self._stored[real].append(features)

    def _both(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The features of generated and of real pictures, once there are enough."""
        counts = [sum(map(len, self._stored[real])) for real in (False, True)]
        self.check(counts[0], counts[1], self.width or 0)
        return torch.cat(self._stored[False]), torch.cat(self._stored[True])
