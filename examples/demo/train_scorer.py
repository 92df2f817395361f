# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Train the scorer that judges the demo model's pictures: objects, their places, ground and style.

    python examples/demo/train_scorer.py --objects noto_objects --output runs/scorer --minutes 12

Cut it anywhere and start the same command again: it goes on with the same weights, optimiser state and scenes. At the
end `OUTPUT` holds the scorer in half precision as `SceneScorer.from_pretrained` loads it, and
`OUTPUT/training/log.jsonl` the losses and its rates on 512 held-out scenes, with their prompts and with shuffled
prompts.
"""

import argparse
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scenes_and_networks import SmallRun, add_run_arguments, scenes_of_run
from torch import Tensor

from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.demo import GROUNDS, STYLES, Scene, SceneGenerator
from diffusers_ediffi.demo.scorer import IMAGE_SIZE, MAP_SIZE, SceneScorer, ground_name, images_to_tensor

CROP_SIZES = (128, 256, 512, 1024)  # a crop of 64 pixels shows a half to a sixteenth of the side
CROP_SIZE_SHARES = (0.3, 0.4, 0.2, 0.1)


def object_map(masks: dict[str, np.ndarray], phrases: list[str]) -> np.ndarray:
    """Returns (objects + 1, 16, 16): the share of each cell that each object covers, and last what none does."""
    result = np.zeros((len(phrases) + 1, MAP_SIZE, MAP_SIZE), dtype=np.float32)
    for phrase, mask in masks.items():
        cell = mask.shape[0] // MAP_SIZE
        result[phrases.index(phrase)] = mask.reshape(MAP_SIZE, cell, MAP_SIZE, cell).mean(axis=(1, 3))
    result[-1] = np.clip(1 - result[:-1].sum(axis=0), 0, 1)
    return result


def whole_scenes(scenes: SceneGenerator, indices: range, scorer: SceneScorer) -> dict[str, Tensor]:
    """Returns `images` (batch, 3, 64, 64) in [-1, 1], `map` (batch, objects + 1, 16, 16), `ground`, `style`."""
    batch = [scenes.scene(index) for index in indices]
    phrases = list(scorer.config.phrases)
    maps = [object_map(scenes.masks(scene, IMAGE_SIZE), phrases) for scene in batch]
    return {
        "images": images_to_tensor([scenes.render(scene, IMAGE_SIZE) for scene in batch]),
        "map": torch.from_numpy(np.stack(maps)),
        "ground": torch.tensor([list(scorer.config.grounds).index(ground_name(scene.ground)) for scene in batch]),
        "style": torch.tensor([list(scorer.config.styles).index(scene.style) for scene in batch]),
    }


def zoomed_crops(scenes: SceneGenerator, index: int, count: int, scorer: SceneScorer) -> dict[str, Tensor]:
    """Returns `images`, `map` and `style` as `whole_scenes`, of random 64 x 64 crops of one large rendering."""
    random = np.random.default_rng([scenes.seed, index])
    scene = scenes.scene(index)
    size = int(random.choice(CROP_SIZES, p=CROP_SIZE_SHARES))
    image, masks = scenes.render(scene, size), scenes.masks(scene, size)
    images = []
    maps = []
    for left, top in random.integers(size - IMAGE_SIZE + 1, size=(count, 2)):
        window = (slice(top, top + IMAGE_SIZE), slice(left, left + IMAGE_SIZE))
        images.append(image.crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE)))
        maps.append(object_map({key: mask[window] for key, mask in masks.items()}, list(scorer.config.phrases)))
    style = list(scorer.config.styles).index(scene.style)
    return {
        "images": images_to_tensor(images),
        "map": torch.from_numpy(np.stack(maps)),
        "style": torch.full((count,), style),
    }


def roughen(images: Tensor, generator: torch.Generator) -> Tensor:
    """Light blur, noise and changes of brightness on a part of the batch each: generated pictures are not perfect."""
    images = images.clone()
    quarter, half = len(images) // 4, len(images) // 2
    sigma = 0.3 + 0.5 * torch.rand((), generator=generator)
    taps = torch.exp(-torch.tensor([1.0, 0.0, 1.0]) / (2 * sigma**2))
    taps = taps / taps.sum()
    kernel = (taps[:, None] * taps).expand(3, 1, 3, 3)
    images[:quarter] = F.conv2d(F.pad(images[:quarter], (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    deviation = 0.12 * torch.rand((half, 1, 1, 1), generator=generator)
    noisy = slice(quarter // 2, quarter // 2 + half)
    images[noisy] += deviation * torch.randn(images[noisy].shape, generator=generator)
    contrast = 1 + 0.1 * torch.randn((len(images), 1, 1, 1), generator=generator)
    brightness = 0.05 * torch.randn((len(images), 3, 1, 1), generator=generator)
    return (images * contrast + brightness).clamp(-1, 1)


def scorer_loss(scorer: SceneScorer, batch: dict[str, Tensor], crops: dict[str, Tensor], images: Tensor) -> Tensor:
    """Cross entropies of all heads; crops teach places and style only, for they rarely show what makes a ground.

    Args:
        scorer: The network.
        batch: Of `whole_scenes`.
        crops: Of `zoomed_crops`.
        images: The roughened pictures of both, in this order.
    """
    with torch.autocast("cpu", torch.bfloat16):
        output = scorer(images.contiguous(memory_format=torch.channels_last))
    output = {key: value.float() for key, value in output.items()}
    count = len(batch["images"])
    target = torch.cat([batch["map"], crops["map"]])
    places = -(target * output["map"].log_softmax(dim=1)).sum(dim=1).mean()
    present = (batch["map"][:, :-1].amax(dim=(2, 3)) > 0).float()
    presence = F.binary_cross_entropy_with_logits(output["presence"][:count], present, reduction="sum") / count
    ground = F.cross_entropy(output["ground"][:count], batch["ground"])
    style = F.cross_entropy(output["style"], torch.cat([batch["style"], crops["style"]]))
    return 2 * places + 0.5 * presence + 0.5 * ground + style


def held_out_rates(scorer: SceneScorer, scenes: SceneGenerator, count: int) -> dict[str, dict[str, float]]:
    """Returns the rates of real scenes with their prompts, and with the prompts of other scenes."""
    scorer.eval()
    batch: list[Scene] = [scenes.scene(index) for index in range(count)]
    images = [scenes.render(scene, IMAGE_SIZE) for scene in batch]
    rates = {
        "held_out": scorer.score(images, batch),
        "held_out_shuffled": scorer.score(images, batch[1:] + batch[:1]),
    }
    scorer.train()
    return rates


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = ScriptParser(description=__doc__.split("\n")[0])
    add_run_arguments(parser, minutes=12.0, batch_size=64, learning_rate=3e-3, checkpoint_every=200)
    parser.add_argument("--crops", type=int, default=8, help="zoomed crops beside the scenes of a batch")
    parser.add_argument("--num-held-out", type=int, default=512, help="scenes for the final rates")
    return parser.parse_args(arguments)


def run_settings(scenes: SceneGenerator, args: argparse.Namespace) -> dict[str, Any]:
    """What must stay the same when a run goes on."""
    names = ("batch_size", "crops", "learning_rate", "max_objects", "seed")
    return {**{name: getattr(args, name) for name in names}, "phrases": list(scenes.phrases)}


def loss_of_step(scorer: SceneScorer, scenes: SceneGenerator, step: int, args: argparse.Namespace) -> Tensor:
    """The loss on the scenes and crops of this step."""
    batch = whole_scenes(scenes, range(step * args.batch_size, (step + 1) * args.batch_size), scorer)
    crops = zoomed_crops(scenes, step, args.crops, scorer)
    generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
    images = torch.cat([roughen(batch["images"], generator), crops["images"]])
    return scorer_loss(scorer, batch, crops, images)


def main(arguments: list[str] | None = None) -> dict:
    """Trains, saves, and returns the last log entry."""
    args = parse_arguments(arguments)
    scenes, held_out = scenes_of_run(args)
    scorer = SceneScorer(list(scenes.phrases), [ground_name(ground) for ground in GROUNDS], list(STYLES))
    scorer = scorer.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(scorer.parameters(), weight_decay=0.02)
    run = SmallRun(args.output / "training", scorer, optimizer, run_settings(scenes, args), args)
    run.train(lambda step: loss_of_step(scorer, scenes, step, args), max_norm=5.0, name="scorer")
    scorer.half().save_pretrained(args.output)
    rates = held_out_rates(SceneScorer.from_pretrained(args.output), held_out, args.num_held_out)
    for name, values in rates.items():
        print(f"{name}: " + ", ".join(f"{key} {rate:.1%}" for key, rate in values.items()))
    return run.log(**rates)


if __name__ == "__main__":
    with errors_in_one_line():
        main()
