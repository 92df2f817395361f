# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Train the demo model's small CLIP: a text and an image tower, contrastive on scenes and their captions.

    python examples/demo/train_clip.py --objects noto_objects --output runs/encoders --minutes 7

The first run also trains the tokenizer. Cut it anywhere and start the same command again: it goes on with the same
weights, optimiser state and scenes. At the end `OUTPUT` holds `tokenizer`, `text_encoder`, `feature_extractor` and
`image_encoder` as the pipeline loads them, and `OUTPUT/clip_training/log.jsonl` the losses and the retrieval
accuracy among 256 held-out scenes.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from diffusers_ediffi.demo import SceneGenerator, load_objects
from diffusers_ediffi.training.checkpoint import complete_checkpoints, load_checkpoint, save_checkpoint

IMAGE_SIZE = 64  # pixels, the base model's resolution
MAX_TOKENS = 77


def train_tokenizer(captions: list[str], vocab_size: int = 2048) -> CLIPTokenizer:
    """Byte-level BPE on lower-cased captions: every word of the demo domain becomes one token, other text bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = alphabet + [character + "</w>" for character in alphabet]
    untrained = CLIPTokenizer(vocab={token: i for i, token in enumerate([*vocab, "<|startoftext|>", "<|endoftext|>"])})
    backend = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    backend.normalizer = untrained.backend_tokenizer.normalizer
    backend.pre_tokenizer = untrained.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        min_frequency=2,
        show_progress=False,
    )
    backend.train_from_iterator(captions, trainer)
    merges = [tuple(merge) for merge in json.loads(backend.to_str())["model"]["merges"]]
    vocab += ["".join(merge) for merge in merges]
    # As in OpenAI's tokenizer the two marks come last; id 2, which transformers treats as a legacy mark, is a byte.
    vocab = list(dict.fromkeys([*vocab, "<|startoftext|>", "<|endoftext|>"]))
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(vocab)}, merges=merges, model_max_length=MAX_TOKENS)


def build_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Returns the untrained two towers, 0.7M and 1.4M parameters."""
    text_config = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 512,
        "projection_dim": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_TOKENS,
        "hidden_act": "gelu",
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision_config = {
        "hidden_size": 160,
        "intermediate_size": 640,
        "projection_dim": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": 8,
        "hidden_act": "gelu",
    }
    model = CLIPModel(CLIPConfig(text_config=text_config, vision_config=vision_config, projection_dim=128))
    model.set_attn_implementation("eager")  # on a CPU twice as fast as the fused one, for sequences this short
    return model


def load_towers(model: CLIPModel, folder: Path) -> None:
    """Starts from the two towers that an earlier run saved; its temperature is not among them."""
    weights = {}
    for tower, name in (
        (CLIPTextModelWithProjection, "text_encoder"),
        (CLIPVisionModelWithProjection, "image_encoder"),
    ):
        weights |= tower.from_pretrained(folder / name).state_dict()
    missing = model.load_state_dict(weights, strict=False).missing_keys
    if missing != ["logit_scale"]:
        raise ValueError(f"{folder} does not hold the towers of this model; it lacks {', '.join(missing)}.")


def build_image_processor() -> CLIPImageProcessorPil:
    """Returns the processor that resizes the shorter side to 64 pixels, crops the centre and normalises as CLIP."""
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size=side)


def scene_batch(
    scenes: SceneGenerator, indices: range, tokenizer: CLIPTokenizer, processor: CLIPImageProcessorPil
) -> dict[str, torch.Tensor]:
    """Returns `input_ids` and `attention_mask` (batch, longest caption), `pixel_values` (batch, 3, 64, 64)."""
    batch = [scenes.scene(index) for index in indices]
    pixels = np.stack([np.asarray(scenes.render(scene, IMAGE_SIZE), dtype=np.float32) for scene in batch])
    mean, std = (np.array(values, dtype=np.float32) for values in (processor.image_mean, processor.image_std))
    pixels = (pixels / 255.0 - mean) / std
    tokens = tokenizer([scene.caption for scene in batch], padding=True, truncation=True, return_tensors="pt")
    return {**tokens, "pixel_values": torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()}


def contrastive_logits(model: CLIPModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Returns scaled cosine similarities (captions, images) in float32."""
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**batch)
    scale = model.logit_scale.exp().clamp(max=100.0)
    text = F.normalize(output.text_embeds.float(), dim=-1)
    image = F.normalize(output.image_embeds.float(), dim=-1)
    return scale * text @ image.T


def contrastive_loss(logits: torch.Tensor) -> torch.Tensor:
    """CLIP's symmetric cross entropy: the pairs stand on the diagonal."""
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@torch.no_grad()
def retrieval_accuracy(model: CLIPModel, batch: dict[str, torch.Tensor]) -> dict[str, float]:
    """Returns the share of captions whose own image comes first (and within the first five) among all of the batch."""
    model.eval()
    logits = contrastive_logits(model, batch)
    model.train()
    rank = (logits > logits.diagonal()[:, None]).sum(dim=1)
    return {"retrieval_top1": (rank == 0).float().mean().item(), "retrieval_top5": (rank < 5).float().mean().item()}


def save_towers(model: CLIPModel, tokenizer: CLIPTokenizer, processor: CLIPImageProcessorPil, output: Path) -> None:
    """Saves the two towers separately, as the components of `EDiffIPipeline`."""
    weights = model.state_dict()
    text_encoder = CLIPTextModelWithProjection(model.config.text_config)
    text_encoder.load_state_dict({key: weights[key] for key in text_encoder.state_dict()})
    text_encoder.save_pretrained(output / "text_encoder")
    image_encoder = CLIPVisionModelWithProjection(model.config.vision_config)
    image_encoder.load_state_dict({key: weights[key] for key in image_encoder.state_dict()})
    image_encoder.save_pretrained(output / "image_encoder")
    tokenizer.save_pretrained(output / "tokenizer")
    processor.save_pretrained(output / "feature_extractor")


def learning_rate(progress: float, peak: float) -> float:
    """Warm-up over the first 3% of the run, then a cosine down to 2% of the peak."""
    return peak * min(1.0, progress / 0.03 + 0.01) * (0.51 + 0.49 * math.cos(math.pi * min(1.0, progress)))


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--objects", type=Path, required=True, help="folder with the object images and index.json")
    parser.add_argument("--output", type=Path, required=True, help="folder for the encoders")
    parser.add_argument("--init-from", type=Path, help="go on from the tokenizer and towers of this folder")
    parser.add_argument("--minutes", type=float, default=7.0, help="training time of the whole run")
    parser.add_argument("--max-minutes-this-run", type=float, default=math.inf, help="stop earlier")
    parser.add_argument("--steps", type=int, help="length of the whole run in steps, instead of --minutes")
    parser.add_argument("--max-steps-this-run", type=float, default=math.inf, help="stop earlier")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--max-objects", type=int, default=3, help="most objects in one scene")
    # An image tower learns only what captions say, and the style image must bring the style.
    parser.add_argument("--style-said", type=float, default=0.75, help="share of captions that name their style")
    parser.add_argument("--num-captions", type=int, default=20000, help="captions that the tokenizer is trained on")
    parser.add_argument("--num-held-out", type=int, default=256, help="scenes for the retrieval accuracy")
    parser.add_argument("--checkpoint-every", type=int, default=100, metavar="STEPS")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Trains, saves, and returns the last log entry."""
    args = parse_arguments(arguments)
    if args.init_from is not None and not (args.init_from / "text_encoder").is_dir():
        raise OSError(
            f"--init-from {args.init_from} holds no text_encoder; give the folder of a pipeline or encoders."
        )
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    objects = load_objects(args.objects)
    options = {"max_objects": args.max_objects, "seed": args.seed, "style_said": args.style_said}
    scenes = SceneGenerator(objects, split="train", **options)
    held_out = SceneGenerator(objects, split="held_out", **options)

    if args.init_from is not None:
        tokenizer = CLIPTokenizer.from_pretrained(args.init_from / "tokenizer")
    elif (args.output / "tokenizer").is_dir():
        tokenizer = CLIPTokenizer.from_pretrained(args.output / "tokenizer")
    else:
        tokenizer = train_tokenizer([scenes.scene(index).caption for index in range(args.num_captions)])
        tokenizer.save_pretrained(args.output / "tokenizer")
    processor = build_image_processor()
    model = build_model(tokenizer)
    if args.init_from is not None:
        load_towers(model, args.init_from)
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )
    step, seconds = 0, 0.0
    folder = args.output / "clip_training"
    settings = {**options, "batch_size": args.batch_size, "learning_rate": args.learning_rate}
    settings["phrases"] = list(scenes.phrases)
    for latest in complete_checkpoints(folder)[-1:]:
        state = load_checkpoint(latest, settings)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, seconds = state["step"], state["seconds"]

    def progress() -> float:
        return step / args.steps if args.steps else seconds / (60 * args.minutes)

    def save() -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "seconds": seconds}
        save_checkpoint(folder, step, state, settings, keep_last=1)

    started, first_step, seconds_before, average = time.monotonic(), step, seconds, math.nan
    bar = tqdm(initial=step, desc="CLIP", unit="step")
    folder.mkdir(exist_ok=True)
    with open(folder / "log.jsonl", "a") as log:
        while progress() < 1 and step - first_step < args.max_steps_this_run:
            if time.monotonic() - started > 60 * args.max_minutes_this_run:
                break
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(progress(), args.learning_rate)
            indices = range(step * args.batch_size, (step + 1) * args.batch_size)
            loss = contrastive_loss(contrastive_logits(model, scene_batch(scenes, indices, tokenizer, processor)))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            seconds = seconds_before + time.monotonic() - started
            average = loss.item() if math.isnan(average) else 0.95 * average + 0.05 * loss.item()
            bar.update()
            bar.set_postfix(loss=f"{average:.3f}", done=f"{min(1.0, progress()):.0%}", refresh=False)
            if step % 20 == 0:
                log.write(json.dumps({"step": step, "seconds": round(seconds, 1), "loss": round(average, 4)}) + "\n")
                log.flush()
            if step % args.checkpoint_every == 0:
                save()
        save()
        save_towers(model, tokenizer, processor, args.output)
        accuracy = retrieval_accuracy(model, scene_batch(held_out, range(args.num_held_out), tokenizer, processor))
        entry = {"step": step, "seconds": round(seconds, 1), "loss": round(average, 4), **accuracy}
        log.write(json.dumps(entry) + "\n")
    bar.close()
    print(
        f"step {step}: loss {average:.3f}; among {args.num_held_out} held-out scenes the right image comes first for "
        f"{accuracy['retrieval_top1']:.1%} of the captions, within the first five for {accuracy['retrieval_top5']:.1%}"
    )
    return entry


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
