# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What `ediffi generate`, `paint` and `edit` leave behind: pictures, one by one or in a grid, with their provenance,
what was recorded, and a line for each file or one of JSON on standard output."""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.utils import make_image_grid
from PIL import Image

from ..files import write_json
from ..paint.masks import MAX_PIXELS
from ..paint.regions import region_settings
from ..provenance import (
    COMPOSITE_WITH_TRAINED_ALGORITHMIC_MEDIA,
    TRAINED_ALGORITHMIC_MEDIA,
    Provenance,
    check_savable,
    model_name,
    save_image,
)
from .info import as_dict
from .messages import say, say_json


@dataclass(frozen=True)
class Results:
    """The files of one command.

    Args:
        args (`argparse.Namespace`): Its arguments.
        seeds (`list` of `int`): Those of the images.
        provenance ([`Provenance`], *optional*): How they are made, but for their seeds.
    """

    args: argparse.Namespace
    seeds: Sequence[int]
    provenance: Provenance | None

    @classmethod
    def of(cls, args: argparse.Namespace, seeds: Sequence[int], further: Mapping[str, Any]) -> "Results":
        """Those of a command whose further arguments of the pipeline are `further`.

        Raises:
            ValueError: They cannot be saved as they should.
        """
        source = COMPOSITE_WITH_TRAINED_ALGORITHMIC_MEDIA if "image" in further else TRAINED_ALGORITHMIC_MEDIA
        provenance = None if args.no_provenance else Provenance(_settings(args, further), digital_source_type=source)
        results = cls(args, seeds, provenance)
        check_savable(args.output, results._of_seed(seeds[0]))
        if args.grid and len(seeds) == 1:
            raise ValueError("--grid shows several images; give --num-images, or leave it out.")
        return results

    def check_size(self, size: int) -> None:
        """Refuses a grid that would be too large.

        Args:
            size (`int`): Height and width of each image.
        """
        rows, columns = grid_shape(len(self.seeds))
        pixels = size * size * rows * columns
        if self.args.grid and pixels > MAX_PIXELS:
            raise ValueError(
                f"--grid of {len(self.seeds)} images of {size} x {size} has {pixels} pixels, more than {MAX_PIXELS}; "
                "give a smaller --num-images or --size, or leave --grid out."
            )

    def save(self, output: Any) -> list[dict[str, Any]]:
        """Writes what the pipeline returned; each file with its size and the seeds of its images."""
        blackened = list(map(bool, output.nsfw_content_detected or [False] * len(self.seeds)))
        if self.args.grid:
            shape = grid_shape(len(self.seeds))
            provenance = self._of_seed(self.seeds[0], any(blackened), num_images=len(self.seeds), grid=list(shape))
            return [self._save_file(self.args.output, _grid(output.images), self.seeds, blackened, provenance)]
        return [
            self._save_file(path, image, [seed], [black], self._of_seed(seed, black))
            for path, image, seed, black in zip(self._paths(), output.images, self.seeds, blackened, strict=True)
        ]

    def report(self, files: list[dict[str, Any]], about: Mapping[str, Any]) -> None:
        """Names the files on standard output, with --json with what they are and `about` the run."""
        if self.args.json:
            rows, columns = grid_shape(len(self.seeds))
            grid = {"rows": rows, "columns": columns} if self.args.grid else None
            provenance = None if self.provenance is None else as_dict(self.provenance)
            say_json({"command": self.args.command, **about, "files": files, "grid": grid, "provenance": provenance})
            return
        for file in files:
            blackened = ", blackened by the safety checker" if any(file["blackened"]) else ""
            first, *more = file["seeds"]
            seeds = f"seeds {first} to {more[-1]}" if more else f"seed {first}"
            say(f"{file['file']} ({seeds}{blackened})")
        if self.args.attention is not None:
            say(str(self.args.attention))

    def _of_seed(self, seed: int, blackened: bool = False, **further: Any) -> Provenance | None:
        """How the image of a seed was made."""
        if self.provenance is None:
            return None
        settings = {**self.provenance.settings, "seed": seed, **further}
        settings |= {"nsfw_content_detected": True} if blackened else {}
        return Provenance(settings, self.provenance.software, self.provenance.digital_source_type)

    def _paths(self) -> list[Path]:
        output, count = self.args.output, len(self.seeds)
        if count == 1:
            return [output]
        return [output.with_name(f"{output.stem}-{i}{output.suffix}") for i in range(count)]

    def _save_file(
        self,
        path: Path,
        image: Image.Image,
        seeds: Sequence[int],
        blackened: list[bool],
        provenance: Provenance | None,
    ) -> dict[str, Any]:
        save_image(image, path, provenance)
        size = {"width": image.width, "height": image.height}
        return {"file": str(path), **size, "seeds": list(seeds), "blackened": blackened}


def grid_shape(count: int) -> tuple[int, int]:
    """Rows and columns of the grid of so many images: as square as it can be, and no narrower than it is high."""
    columns = math.ceil(math.sqrt(count))
    return math.ceil(count / columns), columns


def _grid(images: Sequence[Image.Image]) -> Image.Image:
    """All images in one, row by row; what is left over is white."""
    rows, columns = grid_shape(len(images))
    blank = Image.new("RGB", images[0].size, "white")
    return make_image_grid([*images, *[blank] * (rows * columns - len(images))], rows, columns)


def _settings(args: argparse.Namespace, further: Mapping[str, Any]) -> dict[str, Any]:
    """What the file says: enough to draw it again, and no path, since the picture may go anywhere."""
    interval = args.guidance_interval
    return {
        "prompt": args.prompt,
        "negative_prompt": args.negative_prompt,
        "seed": None,  # of each image
        "model": model_name(args.model),
        "size": args.size,
        "steps": args.steps,
        "guidance_scale": args.guidance_scale,
        "encoders": args.encoders,
        # JSON has no infinity.
        "guidance_interval": interval and [sigma if math.isfinite(sigma) else "inf" for sigma in interval],
        "guidance_rescale": args.guidance_rescale or None,
        "noise_level": args.noise_level,
        "style_image": None if args.style_image is None else True,
        "style_scale": None if args.style_image is None else args.style_scale,
        **_further_settings(further),
    }


def _further_settings(further: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of what not all commands draw with: of pictures that there are some, since their names may be
    private."""
    return {
        "prompt_schedule": further.get("prompt_schedule"),
        "regions": region_settings(further["regions"]) if "regions" in further else None,
        "region_strength": further.get("region_strength"),
        "image": True if "image" in further else None,
        "mask_image": True if "mask_image" in further else None,
        "strength": further.get("strength"),
    }


def save_attention(path: Path, recorder: Any) -> None:
    """Writes the shares of attention by noise level and those of the prompt's words, the means over the images."""
    words = [recorder.words(image) for image in range(recorder.num_images)] if recorder.prompts else []
    report = {
        "sigmas": recorder.sigmas,
        "shares": {name: share.mean(0).tolist() for name, share in recorder.shares().items()},
        "words": [_mean_of(word) for word in zip(*words, strict=True)],
    }
    write_json(path, report)


def _mean_of(word: Sequence[Any]) -> dict[str, Any]:
    """The masses of a word, the mean over its entries, one for each image."""
    masses = sum(entry.masses for entry in word) / len(word)
    return {"text": word[0].text, "encoder": word[0].encoder, "masses": masses.tolist()}
