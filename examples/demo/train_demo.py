# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Train the whole demo model, from its text encoders to its 1024 x 1024 stage, and put it together.

    python examples/demo/train_demo.py --objects noto_objects --output runs/demo

`examples/demo/make_object_folder.py` makes the folder of objects. Each stage is a script of examples/, run with the
settings of the packaged model. At the end `OUTPUT/pipeline` loads with `EDiffIPipeline.from_pretrained`,
and `OUTPUT/evaluation` holds its figures. `assemble` writes into `model_index.json`, too, which words the base knows
(docs/words.md); change what it draws (packaged_scenes.py) and they follow.

Cut it anywhere, with Ctrl-C or SIGTERM, and start the same command again: a stage that has ended leaves its command
in `OUTPUT/STAGE.done` and is skipped while the command stays the same; the stage that was cut goes on where it was
saved, with all of its minutes before it again. `assemble` and `evaluate` always run. To train a stage anew, such as
`base-high` from another `base`, remove its folder.

`examples/demo/train_on_gpu.py` does in minutes of one GPU what the stages from `base` to `sr1024` do, with more scenes
and a T5 encoder that learns with the base; the packaged model's networks are its work. `--stages assemble evaluate`
takes what it left in OUTPUT.

To give a stage another length (its learning rate falls to zero over its steps), or to run only some:

    python examples/demo/train_demo.py --objects noto_objects --output runs/demo --stages base assemble evaluate \
        --steps base=50000 --minutes base=700
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from packaged_scenes import DRAWN_STYLES, GROUND_KINDS, PHRASES
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
    PreTrainedModel,
    T5EncoderModel,
    T5Tokenizer,
)

from diffusers_ediffi import EDiffIPipeline, EDiffIUNet, EDMDEISScheduler, ExpertRouterUNet
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.demo import GROUNDS, caption_words

HERE = Path(__file__).resolve().parent
GROUNDS_AND_STYLES = ["--ground-kinds", *GROUND_KINDS, "--styles", *DRAWN_STYLES]
SCENES = ["--phrases", *PHRASES, *GROUNDS_AND_STYLES, "--object-weights", "0.6", "0.4"]
FAST_CPU = ["--mixed-precision", "bf16", "--channels-last"]
COSINE = ["--lr-schedule", "cosine", "--warmup-steps", "20"]
MUON = ["--optimizer", "muon", *COSINE, *FAST_CPU]
# The base's parent learns all noise levels, and its experts go on from it: E(4,15) where the picture is laid out and
# most objects are won or lost, another from there to the median of the paper's p(sigma), and below it an expert
# without text.
PARENT = [
    *("--p-mean", "-0.4", "--p-std", "1.4", "--learning-rate", "1e-3", "--batch-size", "32"),
    *("--ema-decay", "0.998", "--lr-schedule", "cosine", "--warmup-steps", "300", *FAST_CPU),
    *("--sample-every", "1000", "--checkpoint-every", "500"),
]
BASE_BOUNDARIES = (0.301, 1.898)
# Tuned on it: docs/samplers.md.
BASE_SCHEDULER = {
    "atan_center": 2.25,
    "atan_width": 3.0,
    "degree": 1,
    "variable_scale": 0.1,
    "boundaries": BASE_BOUNDARIES,
}
EXPERT = ["--batch-size", "64", "--sample-every", "0", "--checkpoint-every", "100", *MUON]
# More pairs of objects, more scenes that are not flat, more CLIP images than in the paper, since runs are short; half
# of these of another scene in the same style, so that style is what they are asked for; and the pooled text embedding
# mostly dropped, so that these experts read what is where from the tokens, which paint-with-words leads.
READING = [
    *("--object-weights", "0.4", "0.6", "--flat-share", "0.3"),
    *("--drop-clip-image", "0.5", "--style-references", "0.5", "--drop-pooled-text", "0.7"),
]
# Some scenes are painted with words, so that the expert that lays pictures out obeys regions.
HIGH = [
    *("--sigma-range", str(BASE_BOUNDARIES[1]), "inf", "--p-mean", "1.6", "--p-std", "0.9", *READING),
    *("--painted-share", "0.2"),
    *("--learning-rate", "1e-3", "--ema-decay", "0.995", "--seed", "1", *EXPERT),
]
MIDDLE = [
    *("--sigma-range", *map(str, BASE_BOUNDARIES), "--p-mean", "-0.3", "--p-std", "1.5", *READING),
    *("--learning-rate", "7e-4", "--ema-decay", "0.99", "--seed", "2", *EXPERT),
]
LOW = [
    *("--sigma-range", "0", str(BASE_BOUNDARIES[0]), "--batch-size", "16", "--learning-rate", "1e-3"),
    *("--ema-decay", "0.99", "--sample-every", "0", "--checkpoint-every", "100", *MUON),
]
# The paper's two experts of SR256, E(1,0) and E(1,1).
SR_BOUNDARY = 0.301
SR = [
    *(*GROUNDS_AND_STYLES, "--num-samples", "4", "--learning-rate", "1e-3"),
    *("--lr-schedule", "cosine", "--warmup-steps", "100", "--ema-decay", "0.99"),
    *("--sample-every", "250", "--checkpoint-every", "250", *FAST_CPU),
]
SR_WHOLE = ["--batch-size", "4", *SR]
SR_PATCHES = ["--crop", "128", "--crops-per-scene", "2", "--batch-size", "16", "--degradation", "0.1", *SR]
# Steps and minutes of each stage on one core of a CPU with bf16 instructions: those of the first edition of the
# packaged model, whose networks train_on_gpu.py took on from there.
STEPS = {
    "base": 7800,
    "base-high": 5730,
    "base-middle": 2450,
    "base-low": 740,
    "sr256": 1500,
    "sr256-low": 1660,
    "sr1024": 1950,
}
MINUTES = {
    "clip": 18,
    "t5": 7,
    "base": 97,
    "base-high": 300,
    "base-middle": 130,
    "base-low": 25,
    "sr256": 31,
    "sr256-low": 48,
    "sr1024": 55,
    "scorer": 75,
}
STAGES = (*MINUTES, "assemble", "evaluate")


def commands(objects: Path, output: Path, minutes: dict[str, float], steps: dict[str, float]) -> dict[str, list[str]]:
    """The command of each stage that is a script, limited to `minutes`; `steps` are its planned length."""
    encoders = output / "encoders"
    found: dict[str, list] = {
        "evaluate": [HERE.parent / "evaluate" / "evaluate_demo.py", "--model", output / "pipeline"]
        + ["--objects", objects, "--scorer", output / "scorer", "--output", output / "evaluation", *SCENES],
    }
    for stage, command in network_commands(output).items():
        found[stage] = [*command, "--objects", objects, "--encoders", encoders, "--output", output / stage]
        found[stage] += ["--total-steps", int(steps[stage]), "--max-minutes-this-run", minutes[stage]]
    for stage, folder in (("clip", encoders), ("t5", encoders), ("scorer", output / "scorer")):
        length = ["--steps", int(steps[stage])] if stage in steps else ["--minutes", minutes[stage]]
        found[stage] = [f"train_{stage}.py", "--objects", objects, "--output", folder, *length]
    return {stage: [str(part) for part in command] for stage, command in found.items()}


def network_commands(output: Path) -> dict[str, list[str]]:
    """The script of each network of the cascade, with the options of the packaged model."""
    base = ["train_base.py", *SCENES]
    sr = ["train_sr.py", "--stage"]
    parent = ["--init-from", str(output / "base")]
    low = ["--sigma-range", "0", str(SR_BOUNDARY)]
    high = ["--sigma-range", str(SR_BOUNDARY), "inf"]
    return {
        "base": [*base, *PARENT],
        "base-high": [*base, *HIGH, *parent],
        "base-middle": [*base, *MIDDLE, *parent],
        "base-low": [*base, "--preset", "demo-base-low", *LOW],
        "sr256": [*sr, "sr256", *high, "--degradation", "0.1", *SR_WHOLE],
        "sr256-low": [*sr, "sr256", "--preset", "demo-sr256-low", *low, *SR_PATCHES],
        "sr1024": [*sr, "sr1024", "--p-mean", "-1.8", "--p-std", "1.7", "--degradation", "0.1", *SR_WHOLE],
    }


def load_unet(folder: Path) -> EDiffIUNet:
    """The network of a stage, in half precision."""
    unet = EDiffIUNet.from_pretrained(folder / "unet", dtype=torch.float16)
    unet.register_to_config(_name_or_path=folder.name)  # not the folder of this machine
    return unet


def load_networks(output: Path) -> dict[str, EDiffIUNet | ExpertRouterUNet]:
    """The trained networks of all stages, as components of the pipeline."""

    def experts(*stages: str, boundaries: Sequence[float]) -> ExpertRouterUNet:
        return ExpertRouterUNet.from_unets([load_unet(output / stage) for stage in stages], boundaries=boundaries)

    return {
        "unet": experts("base-low", "base-middle", "base-high", boundaries=BASE_BOUNDARIES),
        "unet_sr256": experts("sr256-low", "sr256", boundaries=[SR_BOUNDARY]),
        "unet_sr1024": load_unet(output / "sr1024"),
    }


def load_encoders(folder: Path) -> dict[str, Any]:
    """Tokenizers and encoders, as components of the pipeline."""
    classes = {
        "tokenizer": CLIPTokenizer,
        "text_encoder": CLIPTextModelWithProjection,
        "tokenizer_2": T5Tokenizer,
        "text_encoder_2": T5EncoderModel,
        "feature_extractor": CLIPImageProcessorPil,
        "image_encoder": CLIPVisionModelWithProjection,
    }
    return {name: component.from_pretrained(folder / name) for name, component in classes.items()}


def assemble(output: Path) -> Path:
    """Puts the trained parts into one pipeline folder, the networks in half precision."""
    pipe = EDiffIPipeline(
        **load_networks(output),
        **load_encoders(output / "encoders"),
        scheduler=EDMDEISScheduler(**BASE_SCHEDULER),
        scheduler_sr256=EDMDEISScheduler(),
        scheduler_sr1024=EDMDEISScheduler(),
        # See "Measured" in model_card.md for both.
        default_guidance_scale=(2.0, 1.0, 1.0),
        default_num_inference_steps=(25, 2, 2),
        default_region_strength=0.2,  # docs/paint_with_words.md
        vocabulary=vocabulary(),
    )
    pipe.save_pretrained(output / "pipeline")
    for name in ("text_encoder", "text_encoder_2", "image_encoder"):
        store_in_half_precision(getattr(pipe, name), output / "pipeline" / name)
    return output / "pipeline"


def vocabulary() -> dict[str, Any]:
    """The words of the captions that the base is trained on, and the synonyms of `demo_synonyms.json` that mean some
    of them."""
    words = caption_words(PHRASES, DRAWN_STYLES, [ground for ground in GROUNDS if ground.kind in GROUND_KINDS])
    known = {word for group in words.values() for phrase in group for word in phrase.split()}
    synonyms = json.loads((HERE / "demo_synonyms.json").read_text(encoding="utf-8"))
    understood = {synonym: meaning for synonym, meaning in synonyms.items() if known.issuperset(meaning.split())}
    return {"words": words, "synonyms": understood}


def store_in_half_precision(encoder: PreTrainedModel, folder: Path) -> None:
    """Saves an encoder that is loaded in single precision all the same, as its configuration says."""
    encoder.half().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n")


def run_script(command: list[str], environment: Mapping[str, str]) -> tuple[int, int]:
    """Runs a script to its end, which on Ctrl-C and SIGTERM is when it has saved.

    Returns:
        Its exit code, 128 + n if signal n killed it; and the signal that this process received meanwhile, or 0.
    """
    received: list[int] = []
    processes: list[subprocess.Popen] = []

    def note(number: int, frame: Any) -> None:
        received.append(number)
        if number == signal.SIGTERM:  # the terminal sends Ctrl-C to the script itself
            for process in processes:
                process.send_signal(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        processes.append(subprocess.Popen(command, env=environment))
        if signal.SIGTERM in received:  # before there was a script to send it to
            processes[0].terminate()
        code = processes[0].wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return (code if code >= 0 else 128 - code), (received[-1] if received else 0)


def run_stage(stage: str, command: list[str], output: Path, environment: Mapping[str, str]) -> None:
    """Runs the script of a stage, unless its marker says that this very command has ended; exits if it did not."""
    marker, done = output / f"{stage}.done", json.dumps(command) + "\n"
    folder = Path(command[command.index("--output") + 1])
    if folder.is_dir() and marker.is_file() and marker.read_text() == done:
        print(f"Skipped: {marker} says that it is done.", flush=True)
        return
    # Networks must look again whether their encoders are still those that they were trained with.
    for name in (stage, *(STEPS if stage in ("clip", "t5") else ())):
        (output / f"{name}.done").unlink(missing_ok=True)
    script, *options = command
    code, stopped_by = run_script([sys.executable, str(HERE / script), *options], environment)
    if code == 0 and stage in MINUTES:
        marker.write_text(done)
    if stopped_by or code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        name = signal.Signals(stopped_by or code - 128).name
        print(f"Stopped by {name} in stage {stage}; the same command goes on from here.", file=sys.stderr)
        sys.exit(128 + stopped_by if stopped_by else code)
    if code:
        raise ValueError(f"stage {stage} ended with exit code {code}; see its message above.")


def per_stage(text: str) -> tuple[str, float]:
    """Parses "base=600"."""
    stage, _, number = text.partition("=")
    try:
        if stage in MINUTES and 0 < float(number) < float("inf"):
            return stage, float(number)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected STAGE=NUMBER with a stage of {', '.join(MINUTES)}, got {text!r}")


def main(arguments: list[str] | None = None) -> None:
    """Runs the stages one after the other."""
    parser = ScriptParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=Path, required=True, help="folder with the object images and index.json")
    parser.add_argument("--output", type=Path, required=True, help="folder for all runs and the pipeline")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="only these, in this order")
    parser.add_argument("--minutes", nargs="+", type=per_stage, default=[], help="such as base=600 sr256=60")
    parser.add_argument("--steps", nargs="+", type=per_stage, default=[], help="planned length, such as base=50000")
    args = parser.parse_args(arguments)
    if not (args.objects / "index.json").is_file():
        raise FileNotFoundError(
            f"{args.objects} does not hold index.json; examples/demo/make_object_folder.py makes the folder."
        )
    scripts = commands(args.objects, args.output, {**MINUTES, **dict(args.minutes)}, {**STEPS, **dict(args.steps)})
    # On CPUs in bf16, matrix products are faster than the backward pass of the fused attention.
    environment = os.environ if torch.cuda.is_available() else {**os.environ, "DIFFUSERS_ATTN_BACKEND": "_native_math"}
    for stage in args.stages:
        print(f"== {stage}", flush=True)
        if stage == "assemble":
            print(f"The pipeline is in {assemble(args.output)}.")
        else:
            run_stage(stage, scripts[stage], args.output, environment)


if __name__ == "__main__":
    with errors_in_one_line():
        main()
