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
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scenes_and_networks import SmallRun, add_run_arguments, scenes_of_run
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.demo import SceneGenerator

IMAGE_SIZE = 64  # pixels, the base model's resolution
MAX_TOKENS = 77
MARKS = ("<|startoftext|>", "<|endoftext|>")
TEXT_TOWER = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "projection_dim": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": MAX_TOKENS,
    "hidden_act": "gelu",
}
IMAGE_TOWER = {
    "hidden_size": 160,
    "intermediate_size": 640,
    "projection_dim": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": IMAGE_SIZE,
    "patch_size": 8,
    "hidden_act": "gelu",
}


def train_tokenizer(captions: list[str], vocab_size: int = 2048) -> CLIPTokenizer:
    """Byte-level BPE on lower-cased captions: every word of the demo domain becomes one token, other text bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = alphabet + [character + "</w>" for character in alphabet]
    merges = train_merges(captions, vocab_size, alphabet, as_vocabulary([*vocab, *MARKS]))
    # As in OpenAI's tokenizer the two marks come last; id 2, which transformers treats as a legacy mark, is a byte.
    vocabulary = as_vocabulary([*vocab, *map("".join, merges), *MARKS])
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def as_vocabulary(tokens: list[str]) -> dict[str, int]:
    """Numbers the tokens in their order; what occurs twice counts once."""
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}


def train_merges(
    captions: list[str], vocab_size: int, alphabet: list[str], vocabulary: dict[str, int]
) -> list[tuple[str, ...]]:
    """The merges of byte-pair encoding, most frequent first, after the normalisation of `CLIPTokenizer`."""
    untrained = CLIPTokenizer(vocab=vocabulary).backend_tokenizer
    backend = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    backend.normalizer = untrained.normalizer
    backend.pre_tokenizer = untrained.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        min_frequency=2,
        show_progress=False,
    )
    backend.train_from_iterator(captions, trainer)
    return [tuple(merge) for merge in json.loads(backend.to_str())["model"]["merges"]]


def build_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Returns the untrained two towers, 0.7M and 1.4M parameters."""
    text_config = {
        **TEXT_TOWER,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model = CLIPModel(CLIPConfig(text_config=text_config, vision_config=IMAGE_TOWER, projection_dim=128))
    model.set_attn_implementation("eager")  # on a CPU twice as fast as fused attention, for sequences this short
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
    """Returns the share of captions whose image comes first (and within the first five) among all of the batch."""
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


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options, checked."""
    parser = ScriptParser(description=__doc__.split("\n")[0])
    add_run_arguments(parser, minutes=7.0, batch_size=128, learning_rate=1e-3, checkpoint_every=100)
    parser.add_argument("--init-from", type=Path, help="go on from the tokenizer and towers of this folder")
    # An image tower learns only what captions say, and the style image must bring the style.
    parser.add_argument("--style-said", type=float, default=0.75, help="share of captions that name their style")
    parser.add_argument("--num-captions", type=int, default=20000, help="captions that the tokenizer is trained on")
    parser.add_argument("--num-held-out", type=int, default=256, help="scenes for the retrieval accuracy")
    args = parser.parse_args(arguments)
    if args.init_from is not None and not (args.init_from / "text_encoder").is_dir():
        raise OSError(
            f"--init-from {args.init_from} holds no text_encoder; give the folder of a pipeline or encoders."
        )
    return args


def load_or_train_tokenizer(scenes: SceneGenerator, args: argparse.Namespace) -> CLIPTokenizer:
    """The tokenizer of `--init-from` or of an earlier run; where there is none, it is trained and saved."""
    if args.init_from is not None:
        return CLIPTokenizer.from_pretrained(args.init_from / "tokenizer")
    folder = args.output / "tokenizer"
    if not folder.is_dir():
        tokenizer = train_tokenizer([scenes.scene(index).caption for index in range(args.num_captions)])
        tokenizer.save_pretrained(folder)
        return tokenizer
    return CLIPTokenizer.from_pretrained(folder)


def make_optimizer(model: CLIPModel) -> torch.optim.AdamW:
    """AdamW with weight decay for matrices alone."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def run_settings(scenes: SceneGenerator, args: argparse.Namespace) -> dict[str, Any]:
    """What must stay the same when a run goes on."""
    names = ("max_objects", "seed", "style_said", "batch_size", "learning_rate")
    return {**{name: getattr(args, name) for name in names}, "phrases": list(scenes.phrases)}


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Trains, saves, and returns the last log entry."""
    args = parse_arguments(arguments)
    scenes, held_out = scenes_of_run(args, style_said=args.style_said)
    tokenizer = load_or_train_tokenizer(scenes, args)
    processor = build_image_processor()
    model = build_model(tokenizer)
    if args.init_from is not None:
        load_towers(model, args.init_from)
    run = SmallRun(args.output / "clip_training", model, make_optimizer(model), run_settings(scenes, args), args)

    def loss_of_step(step: int) -> torch.Tensor:
        indices = range(step * args.batch_size, (step + 1) * args.batch_size)
        return contrastive_loss(contrastive_logits(model, scene_batch(scenes, indices, tokenizer, processor)))

    run.train(loss_of_step, max_norm=1.0, name="CLIP")
    save_towers(model, tokenizer, processor, args.output)
    accuracy = retrieval_accuracy(model, scene_batch(held_out, range(args.num_held_out), tokenizer, processor))
    print_accuracy(run, accuracy, args.num_held_out)
    return run.log(**accuracy)


def print_accuracy(run: SmallRun, accuracy: dict[str, float], count: int) -> None:
    """Says how often an image among `count` is found by its caption."""
    print(
        f"step {run.step}: loss {run.loss:.3f}; among {count} held-out scenes the right image comes first for "
        f"{accuracy['retrieval_top1']:.1%} of the captions, within the first five for {accuracy['retrieval_top5']:.1%}"
    )


if __name__ == "__main__":
    with errors_in_one_line():
        main()
