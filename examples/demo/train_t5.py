# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Train the demo model's small T5 text encoder by span corruption on the captions of scenes.

    python examples/demo/train_t5.py --objects noto_objects --output runs/encoders --minutes 4

The first run also trains the tokenizer. Cut it anywhere and start the same command again: it goes on with the same
weights, optimiser state and captions. At the end `OUTPUT` holds `tokenizer_2` and `text_encoder_2` as the pipeline
loads them, and `OUTPUT/t5_training/log.jsonl` the losses, at the end that on held-out captions.
"""

import argparse
import math
import re
import string
from collections import Counter
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scenes_and_networks import SmallRun, add_run_arguments, scenes_of_run
from transformers import T5Config, T5EncoderModel, T5ForConditionalGeneration, T5Tokenizer

from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.demo import SceneGenerator

MAX_TOKENS = 113  # as in the paper
NUM_SENTINELS = 100


def lower_case_charsmap() -> bytes:
    """Returns A-Z -> a-z as SentencePiece's precompiled map: the one normaliser that T5Tokenizer keeps when loaded.

    The format is the byte length of a double-array trie (units of 32 bits: label in the low 8 bits, bit 8 = a value
    follows, offset to the children from bit 10 on), the trie, then the replacements, each ended by a zero byte.
    """
    trie = np.zeros(512, dtype="<u4")
    trie[0] = 256 << 10  # the root's children stand at 256 ^ label
    for i, letter in enumerate(string.ascii_uppercase.encode()):
        child, value = 256 ^ letter, 1 + i
        trie[child] = letter | 1 << 8 | (child ^ value) << 10
        trie[value] = 2 * i | 1 << 31  # where this letter's replacement begins
    replacements = b"".join(bytes([letter, 0]) for letter in string.ascii_lowercase.encode())
    return np.array(trie.nbytes, dtype="<u4").tobytes() + trie.tobytes() + replacements


def train_tokenizer(captions: list[str], vocab_size: int = 1000) -> T5Tokenizer:
    """Unigrams: a piece for every frequent word of the captions, with the mark of its start, and for ASCII characters.

    The scores are log frequencies. `tokenizers.UnigramTrainer` is of no use for so small a language: it looks for
    pieces that several words share, and so spells out "of" and "dark".
    """
    counts = Counter(word for caption in captions for word in re.findall(r"\w+", caption.lower()))
    return T5Tokenizer(
        vocab=unigrams(counts.most_common(vocab_size - NUM_SENTINELS - 100)),
        extra_ids=NUM_SENTINELS,
        model_max_length=MAX_TOKENS,
        _spm_precompiled_charsmap=lower_case_charsmap(),
    )


def unigrams(words: list[tuple[str, int]]) -> list[tuple[str, float]]:
    """Every piece with its score: marks, these words with their counts, characters, and sentinels."""
    total = sum(count for _, count in words)
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocab += [(f"▁{word}", math.log(count / total)) for word, count in words]
    # A word spelt out costs more than any piece; what no list of words holds can still be read.
    spelt = math.log(1 / total) - 5.0
    vocab += [(piece, spelt) for piece in ("▁", *map(chr, range(33, 127)))]
    return vocab + [(f"<extra_id_{i}>", 0.0) for i in reversed(range(NUM_SENTINELS))]


def build_model(tokenizer: T5Tokenizer) -> T5ForConditionalGeneration:
    """Returns the untrained network; the encoder that is kept has 0.6M parameters."""
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=128,
        d_kv=32,
        d_ff=256,
        num_layers=3,
        num_decoder_layers=1,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    return T5ForConditionalGeneration(config)


def corrupt_spans(
    ids: list[int], sentinels: list[int], random: np.random.Generator, noise_density: float = 0.35
) -> tuple[list[int], list[int]]:
    """Replaces spans of one to three tokens by sentinels, as T5's pre-training does, more of them: captions are short.

    Returns the corrupted tokens and the target (each sentinel followed by what it hides), both without the end mark.
    """
    corrupted: list[int] = []
    target: list[int] = []
    unused = iter(sentinels)
    hidden = hidden_tokens(len(ids), random, noise_density)
    for is_hidden, span in groupby(zip(hidden, ids, strict=True), itemgetter(0)):
        tokens = [token for _, token in span]
        if is_hidden:
            sentinel = next(unused)
            corrupted.append(sentinel)
            target += [sentinel, *tokens]
        else:
            corrupted += tokens
    return corrupted, target


def hidden_tokens(count: int, random: np.random.Generator, noise_density: float) -> list[bool]:
    """Which of the tokens to hide, in spans of one to three that may meet."""
    hidden = np.zeros(count, dtype=bool)
    while hidden.sum() < max(1, round(noise_density * count)):
        start = random.integers(count)
        hidden[start : start + random.integers(1, 4)] = True
    return hidden.tolist()


def padded(rows: list[list[int]], value: int, multiple: int = 8) -> torch.Tensor:
    """Returns (rows, longest row rounded up) filled with `value`."""
    length = -(-max(map(len, rows)) // multiple) * multiple
    return torch.tensor([row + [value] * (length - len(row)) for row in rows])


def caption_batch(
    scenes: SceneGenerator, indices: range, tokenizer: T5Tokenizer, seed: int
) -> dict[str, torch.Tensor]:
    """Returns `input_ids`, `attention_mask` and `labels` (-100: nothing to predict), each (batch, length)."""
    random = np.random.default_rng([seed, indices.start])
    captions = [scenes.scene(index).caption for index in indices]
    end = tokenizer.eos_token_id
    sentinels = tokenizer.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(NUM_SENTINELS)])
    encoded = tokenizer(captions, add_special_tokens=False, truncation=True, max_length=MAX_TOKENS - 1)["input_ids"]
    pairs = [corrupt_spans(ids, sentinels, random) for ids in encoded]
    input_ids = padded([corrupted + [end] for corrupted, _ in pairs], tokenizer.pad_token_id)
    labels = padded([target + [end] for _, target in pairs], -100)
    return {"input_ids": input_ids, "attention_mask": (input_ids != tokenizer.pad_token_id).long(), "labels": labels}


def span_corruption_loss(model: T5ForConditionalGeneration, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean cross entropy per target token in nats, computed in float32."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(**batch).logits
    return F.cross_entropy(logits.float().flatten(0, 1), batch["labels"].flatten())


def save_encoder(model: T5ForConditionalGeneration, tokenizer: T5Tokenizer, output: Path) -> None:
    """Saves the encoder alone: the decoder only served the training."""
    weights = model.state_dict()
    encoder = T5EncoderModel(model.encoder.config)
    encoder.load_state_dict({key: weights[key] for key in encoder.state_dict()})
    encoder.save_pretrained(output / "text_encoder_2")
    tokenizer.save_pretrained(output / "tokenizer_2")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = ScriptParser(description=__doc__.split("\n")[0])
    add_run_arguments(parser, minutes=4.0, batch_size=128, learning_rate=3e-3, checkpoint_every=200)
    parser.add_argument("--num-captions", type=int, default=20000, help="captions that the tokenizer is trained on")
    parser.add_argument("--num-held-out", type=int, default=512, help="captions for the held-out loss")
    return parser.parse_args(arguments)


def load_or_train_tokenizer(scenes: SceneGenerator, args: argparse.Namespace) -> T5Tokenizer:
    """The tokenizer of an earlier run; where there is none, it is trained and saved."""
    folder = args.output / "tokenizer_2"
    if folder.is_dir():
        return T5Tokenizer.from_pretrained(folder)
    tokenizer = train_tokenizer([scenes.scene(index).caption for index in range(args.num_captions)])
    tokenizer.save_pretrained(folder)
    return tokenizer


def run_settings(scenes: SceneGenerator, args: argparse.Namespace) -> dict[str, Any]:
    """What must stay the same when a run goes on."""
    names = ("batch_size", "learning_rate", "max_objects", "seed")
    return {**{name: getattr(args, name) for name in names}, "phrases": list(scenes.phrases)}


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Trains, saves, and returns the last log entry."""
    args = parse_arguments(arguments)
    scenes, held_out = scenes_of_run(args)
    tokenizer = load_or_train_tokenizer(scenes, args)
    model = build_model(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0, betas=(0.9, 0.98))
    run = SmallRun(args.output / "t5_training", model, optimizer, run_settings(scenes, args), args)

    def loss_of_step(step: int) -> torch.Tensor:
        indices = range(step * args.batch_size, (step + 1) * args.batch_size)
        return span_corruption_loss(model, caption_batch(scenes, indices, tokenizer, args.seed))

    run.train(loss_of_step, max_norm=1.0, name="T5")
    save_encoder(model, tokenizer, args.output)
    with torch.no_grad():
        batch = caption_batch(held_out, range(args.num_held_out), tokenizer, args.seed)
        held_out_loss = span_corruption_loss(model, batch).item()
    print(f"step {run.step}: loss {run.loss:.3f}; on held-out captions {held_out_loss:.3f} nats a token")
    return run.log(held_out_loss=held_out_loss)


if __name__ == "__main__":
    with errors_in_one_line():
        main()
