# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Train the demo model's small T5 text encoder by span corruption on the captions of scenes.

    python examples/demo/train_t5.py --objects noto_objects --output runs/encoders --minutes 4

The first run also trains the tokenizer. Cut it anywhere and start the same command again: it goes on with the same
weights, optimiser state and captions. At the end `OUTPUT` holds `tokenizer_2` and `text_encoder_2` as the pipeline
loads them, and `OUTPUT/t5_training/log.jsonl` the losses, at the end that on held-out captions.
"""

import argparse
import json
import math
import re
import string
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import T5Config, T5EncoderModel, T5ForConditionalGeneration, T5Tokenizer

from diffusers_ediffi.demo import SceneGenerator, load_objects
from diffusers_ediffi.training.checkpoint import complete_checkpoints, load_checkpoint, save_checkpoint

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
    words = counts.most_common(vocab_size - NUM_SENTINELS - 100)
    total = sum(count for _, count in words)
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocab += [(f"▁{word}", math.log(count / total)) for word, count in words]
    # A word spelt out costs more than any piece; what no list of words holds can still be read.
    spelt = math.log(1 / total) - 5.0
    vocab += [(piece, spelt) for piece in ("▁", *map(chr, range(33, 127)))]
    vocab += [(f"<extra_id_{i}>", 0.0) for i in reversed(range(NUM_SENTINELS))]
    return T5Tokenizer(
        vocab=vocab,
        extra_ids=NUM_SENTINELS,
        model_max_length=MAX_TOKENS,
        _spm_precompiled_charsmap=lower_case_charsmap(),
    )


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

    Args:
        ids: The caption's tokens, without the end mark.
        sentinels: The ids of `<extra_id_0>`, `<extra_id_1>` and so on.
        random: Source of the spans.
        noise_density: Share of the tokens to hide.

    Returns:
        The corrupted tokens and the target (each sentinel followed by what it hides), both without the end mark.
    """
    hidden = np.zeros(len(ids), dtype=bool)
    while hidden.sum() < max(1, round(noise_density * len(ids))):
        start = random.integers(len(ids))
        hidden[start : start + random.integers(1, 4)] = True
    corrupted: list[int] = []
    target: list[int] = []
    used = 0
    for i, token in enumerate(ids):
        if not hidden[i]:
            corrupted.append(token)
            continue
        if i == 0 or not hidden[i - 1]:
            corrupted.append(sentinels[used])
            target.append(sentinels[used])
            used += 1
        target.append(token)
    return corrupted, target


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
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), batch["labels"].flatten())


def save_encoder(model: T5ForConditionalGeneration, tokenizer: T5Tokenizer, output: Path) -> None:
    """Saves the encoder alone: the decoder only served the training."""
    weights = model.state_dict()
    encoder = T5EncoderModel(model.encoder.config)
    encoder.load_state_dict({key: weights[key] for key in encoder.state_dict()})
    encoder.save_pretrained(output / "text_encoder_2")
    tokenizer.save_pretrained(output / "tokenizer_2")


def learning_rate(progress: float, peak: float) -> float:
    """Warm-up over the first 3% of the run, then a cosine down to 2% of the peak."""
    return peak * min(1.0, progress / 0.03 + 0.01) * (0.51 + 0.49 * math.cos(math.pi * min(1.0, progress)))


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--objects", type=Path, required=True, help="folder with the object images and index.json")
    parser.add_argument("--output", type=Path, required=True, help="folder for the encoder")
    parser.add_argument("--minutes", type=float, default=4.0, help="training time of the whole run")
    parser.add_argument("--max-minutes-this-run", type=float, default=math.inf, help="stop earlier")
    parser.add_argument("--steps", type=int, help="length of the whole run in steps, instead of --minutes")
    parser.add_argument("--max-steps-this-run", type=float, default=math.inf, help="stop earlier")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--max-objects", type=int, default=3, help="most objects in one scene")
    parser.add_argument("--num-captions", type=int, default=20000, help="captions that the tokenizer is trained on")
    parser.add_argument("--num-held-out", type=int, default=512, help="captions for the held-out loss")
    parser.add_argument("--checkpoint-every", type=int, default=200, metavar="STEPS")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Trains, saves, and returns the last log entry."""
    args = parse_arguments(arguments)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    objects = load_objects(args.objects)
    scenes = SceneGenerator(objects, max_objects=args.max_objects, seed=args.seed, split="train")
    held_out = SceneGenerator(objects, max_objects=args.max_objects, seed=args.seed, split="held_out")

    if (args.output / "tokenizer_2").is_dir():
        tokenizer = T5Tokenizer.from_pretrained(args.output / "tokenizer_2")
    else:
        tokenizer = train_tokenizer([scenes.scene(index).caption for index in range(args.num_captions)])
        tokenizer.save_pretrained(args.output / "tokenizer_2")
    model = build_model(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0, betas=(0.9, 0.98))
    step, seconds = 0, 0.0
    folder = args.output / "t5_training"
    settings = {name: getattr(args, name) for name in ("batch_size", "learning_rate", "max_objects", "seed")}
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
    bar = tqdm(initial=step, desc="T5", unit="step")
    folder.mkdir(exist_ok=True)
    with open(folder / "log.jsonl", "a") as log:
        while progress() < 1 and step - first_step < args.max_steps_this_run:
            if time.monotonic() - started > 60 * args.max_minutes_this_run:
                break
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(progress(), args.learning_rate)
            indices = range(step * args.batch_size, (step + 1) * args.batch_size)
            loss = span_corruption_loss(model, caption_batch(scenes, indices, tokenizer, args.seed))
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
        save_encoder(model, tokenizer, args.output)
        with torch.no_grad():
            batch = caption_batch(held_out, range(args.num_held_out), tokenizer, args.seed)
            held_out_loss = span_corruption_loss(model, batch).item()
        entry = {"step": step, "seconds": round(seconds, 1), "loss": round(average, 4), "held_out_loss": held_out_loss}
        log.write(json.dumps(entry) + "\n")
    bar.close()
    print(f"step {step}: loss {average:.3f}; on held-out captions {held_out_loss:.3f} nats a token")
    return entry


if __name__ == "__main__":
    main()
