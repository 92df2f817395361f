# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Judges pictures of the demo model's world: which objects are where, on which ground, in which style.

The scorer is trained on rendered scenes and their exact masks (`examples/demo/train_scorer.py`), apart from the
generator, so that its figures say something about the generator. They mean little alone: give them beside those of
real scenes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from PIL import Image
from torch import Tensor, nn

from .grounds import Ground
from .scenes import Scene

IMAGE_SIZE = 64  # pixels
MAP_SIZE = 16  # cells to a side of the heat maps
PRESENCE_THRESHOLD = 0.3  # real scenes pass; without the object asked for, next to none do
DIRECTIONS = {
    "above": (0, 1),
    "below": (0, -1),
    "left of": (1, 0),
    "right of": (-1, 0),
}  # first to second object: x, y


def ground_name(ground: Ground) -> str:
    """The scorer's name for a ground: "plain:dark blue", "landscape:beach"."""
    return f"{ground.kind}:{ground.name}"


def images_to_tensor(images: Tensor | Sequence[Image.Image]) -> Tensor:
    """Returns pictures as (batch, 3, height, width) in [-1, 1], float32.

    Args:
        images (`list` of `PIL.Image.Image` or `torch.Tensor`): Pictures of one size, or what already has this form.

    Raises:
        TypeError: There are neither pictures nor a tensor.
        ValueError: The pictures have several sizes, or the tensor another shape.
    """
    if isinstance(images, Tensor):
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"`images` must be (batch, 3, height, width) in [-1, 1], got {tuple(images.shape)}.")
        return images.float()
    if not images or not all(isinstance(image, Image.Image) for image in images):
        raise TypeError("`images` must be a tensor (batch, 3, height, width) in [-1, 1] or a list of PIL pictures.")
    if len({image.size for image in images}) > 1:
        raise ValueError(f"`images` must have one size, got {sorted({image.size for image in images})}.")
    pixels = np.stack([np.asarray(image.convert("RGB"), dtype=np.float32) for image in images])
    return torch.from_numpy(pixels / 127.5 - 1.0).permute(0, 3, 1, 2).contiguous()


def block_contrast(images: Tensor) -> Tensor:
    """Returns (batch, 6): logarithms of the contrast inside of 2 x 2 blocks and between blocks.

    Pixel art has edges between blocks alone, which a network learns late from so small pictures.

    Args:
        images (`torch.Tensor`): (batch, 3, 64, 64) in [-1, 1].
    """
    images = images.float()
    blocks = F.avg_pool2d(images, 2)
    inside = (images - F.interpolate(blocks, scale_factor=2.0, mode="nearest")).abs().mean(dim=1)
    between = (blocks[..., 1:] - blocks[..., :-1]).abs().mean(dim=1)
    # Averages over small regions: noise is everywhere alike, edges are not.
    maps = (F.avg_pool2d(inside, 8).flatten(1), F.avg_pool2d(between, 3).flatten(1))
    values = [value for regions in maps for value in (regions.amax(dim=1), regions.mean(dim=1), regions.amin(dim=1))]
    return torch.log(torch.stack(values, dim=1) + 0.01)


class _ResidualBlock(nn.Module):
    """Two convolutions with a residual connection (ResNet, arXiv 1512.03385)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, hidden: Tensor) -> Tensor:
        residual = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(hidden)))))
        return F.relu(hidden + residual)


def _downsample(channels: int, out_channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, out_channels, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU())


class SceneScorer(ModelMixin, ConfigMixin):
    """A small convolutional network for 64 x 64 pictures with four heads: objects, their places, ground, style.

    Args:
        phrases (`list` of `str`): The objects it knows.
        grounds (`list` of `str`): The grounds it knows, as `ground_name` writes them.
        styles (`list` of `str`): The styles it knows.
        channels (`tuple` of `int`): Widths at 32 x 32, 16 x 16 and 8 x 8; the features have the last two together.

    Example:
        >>> scorer = SceneScorer.from_pretrained(folder).eval()  # doctest: +SKIP
        >>> rates = scorer.score(images, scenes)  # doctest: +SKIP
    """

    @register_to_config
    def __init__(
        self,
        phrases: Sequence[str],
        grounds: Sequence[str],
        styles: Sequence[str],
        channels: tuple[int, int, int] = (48, 96, 160),
    ) -> None:
        super().__init__()
        fine, middle, coarse = channels
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(12, fine, 3, padding=1, bias=False), nn.BatchNorm2d(fine), nn.ReLU()
        )
        self.fine = _ResidualBlock(fine)
        self.middle = nn.Sequential(_downsample(fine, middle), *(_ResidualBlock(middle) for _ in range(3)))
        self.coarse = nn.Sequential(_downsample(middle, coarse), _ResidualBlock(coarse))
        self.map_hidden = nn.Conv2d(middle + coarse, middle, 1)
        self.map_head = nn.Conv2d(middle, len(phrases) + 1, 1)  # the last class is "no object"
        self.presence_head = nn.Linear(middle + coarse, len(phrases))
        self.ground_head = nn.Linear(middle + coarse, len(grounds))
        self.style_head = nn.Linear(fine + middle + coarse + 6, len(styles))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Returns logits and features.

        Args:
            images (`torch.Tensor`): (batch, 3, 64, 64) in [-1, 1].

        Returns:
            `map` (batch, objects + 1, 16, 16; the last is "no object"), `presence` (batch, objects), `ground` (batch,
            grounds), `style` (batch, styles), and `features` (batch, channels[1] + channels[2]).
        """
        fine = self.fine(self.stem(images))
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        both = torch.cat([middle, F.interpolate(coarse, scale_factor=2.0, mode="nearest")], dim=1)
        average = both.mean(dim=(2, 3))
        texture = torch.cat([fine.mean(dim=(2, 3)), average, block_contrast(images).to(average.dtype)], dim=1)
        return {
            "map": self.map_head(F.relu(self.map_hidden(both))),
            "presence": self.presence_head(both.amax(dim=(2, 3))),
            "ground": self.ground_head(average),
            "style": self.style_head(texture),
            "features": average,
        }

    @torch.no_grad()
    def predict(self, images: Tensor | Sequence[Image.Image], batch_size: int = 64) -> dict[str, Tensor]:
        """Runs the network over pictures of any size in [-1, 1] or PIL pictures, averaged down to 64 x 64.

        Returns:
            `forward`'s dictionary in float32, with probabilities for `map` and `presence`.
        """
        pixels = images_to_tensor(images)
        outputs = []
        for part in pixels.split(batch_size):
            small = F.interpolate(part, size=(IMAGE_SIZE, IMAGE_SIZE), mode="area")
            outputs.append(self(small.to(self.device, self.dtype)))
        merged = {key: torch.cat([output[key].float().cpu() for output in outputs]) for key in outputs[0]}
        return {**merged, "map": merged["map"].softmax(dim=1), "presence": merged["presence"].sigmoid()}

    def heat_maps(self, images: Tensor | Sequence[Image.Image]) -> Tensor:
        """Returns the probability that a cell shows an object, (batch, objects, 16, 16)."""
        return self.predict(images)["map"][:, :-1]

    def features(self, images: Tensor | Sequence[Image.Image]) -> Tensor:
        """Returns (batch, 256) features of whole pictures, averaged down to 64 x 64, for `frechet_distance`."""
        return self.predict(images)["features"]

    def patch_features(
        self, images: Tensor | Sequence[Image.Image], patches_per_image: int = 8, seed: int = 0
    ) -> Tensor:
        """Returns features of random 64 x 64 patches at the resolution of the pictures.

        Blurred pictures have other patches than sharp pictures, which an averaged-down picture no longer shows.

        Args:
            images (`list` of `PIL.Image.Image` or `torch.Tensor`): Pictures of 64 pixels a side or more.
            patches_per_image (`int`): The number of patches, at places that depend on `seed` and the picture's number
                alone.
            seed (`int`): Chooses the places.

        Returns:
            (batch * patches_per_image, 256).

        Raises:
            ValueError: The pictures are smaller than a patch.
        """
        pixels = images_to_tensor(images)
        height, width = pixels.shape[-2:]
        if min(height, width) < IMAGE_SIZE:
            raise ValueError(f"Patches are 64 x 64 pixels, but the pictures have only {height} x {width}.")
        patches = _random_patches(pixels, patches_per_image, np.random.default_rng(seed))
        return self.predict(patches)["features"]

    def judge(self, images: Tensor | Sequence[Image.Image], scenes: Sequence[Scene]) -> list[dict[str, bool]]:
        """Compares every picture with the scene that was asked for.

        Args:
            images (`list` of `PIL.Image.Image` or `torch.Tensor`): Pictures, as for `predict`.
            scenes (`list` of `Scene`): The scene of each.

        Returns:
            For each picture `objects` (each object of the scene is among the most present ones, as many as the scene
            has, and its probability is at least 0.3), `ground`, `style`, and for scenes of two objects whose relation
            is a direction or "next to" `relation` (both objects right and their centres lie as said).

        Raises:
            ValueError: There are not as many pictures as scenes, or objects, grounds or styles that it does not know.
        """
        if len(images) != len(scenes):
            raise ValueError(f"{len(images)} pictures do not fit {len(scenes)} scenes: give one scene for each.")
        targets = [self._targets(scene) for scene in scenes]
        prediction = self.predict(images)
        return [
            _verdict({head: values[i] for head, values in prediction.items()}, scene.relation, *target)
            for i, (scene, target) in enumerate(zip(scenes, targets, strict=True))
        ]

    def score(self, images: Tensor | Sequence[Image.Image], scenes: Sequence[Scene]) -> dict[str, float]:
        """Returns the shares of pictures that show what their scenes say.

        Returns:
            `one_object`, `two_objects`, `three_objects` (all objects of such prompts right), `ground`, `relation` (of
            two-object prompts), `relation_of_found` (of those whose two objects are right) and `style` (of the prompts
            that say it); NaN where no prompt asks for it.
        """
        verdicts = self.judge(images, scenes)
        pairs = list(zip(verdicts, scenes, strict=True))
        rates = {
            f"{number}_object{'s' * (count > 1)}": [v["objects"] for v, scene in pairs if len(scene.objects) == count]
            for count, number in ((1, "one"), (2, "two"), (3, "three"))
        }
        rates["ground"] = [verdict["ground"] for verdict in verdicts]
        rates["relation"] = [verdict["relation"] for verdict in verdicts if "relation" in verdict]
        rates["relation_of_found"] = [v["relation"] for v in verdicts if "relation" in v and v["objects"]]
        rates["style"] = [verdict["style"] for verdict, scene in pairs if scene.style_said]
        return {key: float(np.mean(values)) if values else float("nan") for key, values in rates.items()}

    def layout(
        self, images: Tensor | Sequence[Image.Image], masks: Sequence[dict[str, np.ndarray]]
    ) -> list[dict[str, tuple[float, float]]]:
        """Compares where objects are with where they were asked for.

        Args:
            images (`list` of `PIL.Image.Image` or `torch.Tensor`): Pictures, as for `predict`.
            masks (`list` of `dict`): For each picture the mask (height, width) in [0, 1] of each of its phrases, of
                any size.

        Returns:
            For each picture and phrase what `overlap` says.

        Raises:
            ValueError: There are not as many masks as pictures, or phrases that it does not know.
        """
        if len(images) != len(masks):
            raise ValueError(f"{len(images)} pictures do not fit {len(masks)} sets of masks: give one for each.")
        unknown = {phrase for by_phrase in masks for phrase in by_phrase} - set(self.config.phrases)
        if unknown:
            raise ValueError(f"The scorer does not know the object {min(unknown)!r}.")
        index = {phrase: i for i, phrase in enumerate(self.config.phrases)}
        return [
            {phrase: overlap(heat_maps[index[phrase]], torch.as_tensor(mask)) for phrase, mask in by_phrase.items()}
            for heat_maps, by_phrase in zip(self.heat_maps(images), masks, strict=True)
        ]

    def _targets(self, scene: Scene) -> tuple[list[int], int, int]:
        """The indices of the scene's objects, ground and style."""
        try:
            objects = [list(self.config.phrases).index(phrase) for phrase in scene.phrases]
            ground = list(self.config.grounds).index(ground_name(scene.ground))
            return objects, ground, list(self.config.styles).index(scene.style)
        except ValueError as error:
            raise ValueError(
                f"The scorer does not know everything in the scene {scene.caption!r} ({error}); it must be trained on "
                "the same objects, grounds and styles as the scenes."
            ) from None


def _random_patches(pixels: Tensor, patches_per_image: int, random: np.random.Generator) -> Tensor:
    """(batch * patches_per_image, 3, 64, 64), cut from pictures (batch, 3, height, width)."""
    height, width = pixels.shape[-2:]
    patches = []
    for picture in pixels:
        for _ in range(patches_per_image):
            top = random.integers(height - IMAGE_SIZE + 1)
            left = random.integers(width - IMAGE_SIZE + 1)
            patches.append(picture[:, top : top + IMAGE_SIZE, left : left + IMAGE_SIZE])
    return torch.stack(patches)


def _verdict(
    prediction: dict[str, Tensor], relation: str, objects: list[int], ground: int, style: int
) -> dict[str, bool]:
    """What `SceneScorer.judge` says of a picture; objects, ground and style are given by their indices."""
    presence = prediction["presence"]
    likeliest = set(presence.topk(len(objects)).indices.tolist())
    found = set(objects) <= likeliest and bool((presence[objects] >= PRESENCE_THRESHOLD).all())
    verdict = {
        "objects": found,
        "ground": int(prediction["ground"].argmax()) == ground,
        "style": int(prediction["style"].argmax()) == style,
    }
    if len(objects) == 2:
        first, second = (map_centre(prediction["map"][k]) for k in objects)
        verdict["relation"] = found and relation_holds(relation, first, second)
    return verdict


def overlap(heat_map: Tensor, mask: Tensor) -> tuple[float, float]:
    """Compares where an object is with where it was asked for.

    Args:
        heat_map (`torch.Tensor`): (rows, columns), the probability that a cell shows the object.
        mask (`torch.Tensor`): (height, width) in [0, 1].

    Returns:
        The intersection over union of the cells that show the object (a probability of at least 0.5) with those that
        the mask covers by half, and the share of the heat map inside the mask, NaN where no cell shows the object.
    """
    inside = F.interpolate(mask[None, None].float(), size=heat_map.shape, mode="area")[0, 0]
    drawn, wanted = heat_map >= 0.5, inside >= 0.5
    iou = (drawn & wanted).sum() / (drawn | wanted).sum().clamp(min=1)
    share = (heat_map * inside).sum() / heat_map.sum()
    return iou.item(), share.item() if drawn.any() else float("nan")


def map_centre(heat_map: Tensor) -> tuple[float, float]:
    """Returns the centre of mass (x, y) of a heat map (height, width), in cells; squared to silence faint cells."""
    weight = heat_map.double() ** 2
    weight = weight / weight.sum().clamp(min=1e-12)
    x = (weight.sum(dim=0) * torch.arange(heat_map.shape[1])).sum().item()
    y = (weight.sum(dim=1) * torch.arange(heat_map.shape[0])).sum().item()
    return x, y


def relation_holds(relation: str, first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Whether two centres (x, y), y downwards, lie as a scene's relation says; "next to" takes either side.

    Raises:
        ValueError: The relation does not lie between two objects.
    """
    across, down = second[0] - first[0], second[1] - first[1]
    if relation == "next to":
        return abs(across) > abs(down)
    if relation not in DIRECTIONS:
        raise ValueError(f"`relation` must be one of {[*DIRECTIONS, 'next to']}, got {relation!r}.")
    x, y = DIRECTIONS[relation]
    along, aside = (x * across, abs(down)) if x else (y * down, abs(across))
    return along > aside


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Frechet distance of two sets of features (count, width) taken as Gaussians: 0 for equal sets.

    |mean_a - mean_b|^2 + tr(A + B - 2 sqrt(A B)) of the means and the covariances A and B (Heusel et al. 2017).

    It depends on the number of samples: compare only distances of equal counts.

    Raises:
        ValueError: The sets have different widths, or fewer than two samples.
    """
    if features_a.ndim != 2 or features_b.ndim != 2 or features_a.shape[1] != features_b.shape[1]:
        raise ValueError(f"Features must be (count, width), got {(*features_a.shape,)} and {(*features_b.shape,)}.")
    if min(len(features_a), len(features_b)) < 2:
        raise ValueError("A Frechet distance needs two samples on each side at least.")
    a, b = features_a.double(), features_b.double()
    covariance_a, covariance_b = (torch.atleast_2d(torch.cov(x.T)) for x in (a, b))
    cross = _trace_of_root(covariance_a, covariance_b)
    mean = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    return max((mean + covariance_a.trace() + covariance_b.trace() - 2 * cross).item(), 0.0)


def _trace_of_root(a: Tensor, b: Tensor) -> Tensor:
    """tr sqrt(A B) = tr sqrt(sqrt(A) B sqrt(A)): the latter is symmetric, so that there are no complex roots."""
    values, vectors = torch.linalg.eigh(a)
    root_a = vectors * values.clamp(min=0).sqrt() @ vectors.T
    return torch.linalg.eigvalsh(root_a @ b @ root_a).clamp(min=0).sqrt().sum()
