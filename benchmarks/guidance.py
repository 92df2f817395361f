# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What guidance costs: the time of a step with 1, 2, 3 and 4 rows for each image in the network's batch.

    python benchmarks/guidance.py --calls 5

One row is no guidance, two are a guidance scale, three and four are weights for two and three encoders; `interval` is
a guidance scale in half of the steps, `rescale` a guidance scale with guidance_rescale. The base stage of a pipeline
(by default the demo model) is called with ready embeddings, so that nothing but its steps is measured; each kind takes
turns with calls of one row, and the ratio is the median over turns. On a CPU time is the processor time of this
process.
"""

import statistics
import time
from typing import Any

import torch

from diffusers_ediffi import EDiffIPipeline, demo_checkpoint
from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line

ONE_ROW: dict[str, Any] = {"guidance_scale": 1.0}


def kinds(pipe: EDiffIPipeline, steps: int) -> dict[str, dict[str, Any]]:
    """The arguments of the pipeline for each kind of guidance."""
    pipe.scheduler.set_timesteps(steps)
    middle = pipe.scheduler.sigmas[steps // 2].item()  # guided from here on
    return {
        "2 rows": {"guidance_scale": 5.0},
        "3 rows": {"guidance_scale": {"t5": 3.0, "clip_text": 2.0}},
        "4 rows": {"guidance_scale": {"t5": 3.0, "clip_text": 2.0, "clip_image": 1.0}},
        "interval": {"guidance_scale": 5.0, "guidance_interval": (0.0, middle)},
        "rescale": {"guidance_scale": 5.0, "guidance_rescale": 0.7},
    }


def clock(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def main() -> None:
    parser = ScriptParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="pipeline folder or Hub id; by default the packaged model")
    parser.add_argument("--calls", type=whole(1), default=5, help="calls of each kind (default: %(default)s)")
    parser.add_argument("--steps", type=whole(1), default=4, help="steps of a call (default: %(default)s)")
    parser.add_argument("--images", type=whole(1), default=1, help="images of a call (default: %(default)s)")
    parser.add_argument(
        "--threads", type=whole(1), default=1, help="threads of PyTorch on a CPU (default: %(default)s)"
    )
    parser.add_device()
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    pipe = EDiffIPipeline.from_pretrained(arguments.model or demo_checkpoint()).to(device)
    pipe.set_progress_bar_config(disable=True)
    names = ("prompt_embeds", "pooled_prompt_embeds", "prompt_embeds_2", "prompt_attention_mask_2")
    embeds = dict(zip(names, pipe.encode_prompt(["a red car"] * arguments.images)[:4], strict=True))
    embeds["image_embeds"] = torch.randn(1, pipe.unet.config.image_embed_dim, device=device)

    def seconds(options: dict[str, Any]) -> float:
        start = clock(device)
        size = pipe.stages[0].size
        pipe(**embeds, height=size, num_inference_steps=arguments.steps, output_type="latent", **options)
        return clock(device) - start

    seconds(ONE_ROW)
    before = seconds(ONE_ROW)
    plain = [before]
    options_of = kinds(pipe, arguments.steps)
    ratios: dict[str, list[float]] = {name: [] for name in options_of}
    for _ in range(arguments.calls):
        for name, options in options_of.items():
            guided, after = seconds(options), seconds(ONE_ROW)
            ratios[name].append(2 * guided / (before + after))
            plain.append(after)
            before = after
    per_step = 1e3 * statistics.median(plain) / arguments.steps
    print(f"1 row: {per_step:.1f} ms a step, {arguments.images} images, {device}; times as long with")
    for name, values in ratios.items():
        print(f"{name:10}{statistics.median(values):.2f}")


if __name__ == "__main__":
    with errors_in_one_line():
        main()
