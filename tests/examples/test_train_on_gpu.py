# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""examples/demo/train_on_gpu.py, on a CPU and briefly: its parts agree with the library's, and its networks learn."""

import json
import math
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from helpers_examples import import_script
from PIL import Image, ImageDraw

from diffusers_ediffi import EDiffIUNet, demo_checkpoint
from diffusers_ediffi.training import ConditioningEncoder, DropoutRates
from diffusers_ediffi.training.conditioning import BatchConditioner
from diffusers_ediffi.training.data import scene_regions
from diffusers_ediffi.training.dropout import Kept
from diffusers_ediffi.training.optimizer import MuonAdamW

DEMO = Path(demo_checkpoint())


@pytest.fixture
def script(monkeypatch):
    return import_script("demo/train_on_gpu", monkeypatch)


@pytest.fixture
def objects(tmp_path, monkeypatch):
    """A folder with a square for each object of the demo."""
    phrases = import_script("demo/packaged_scenes", monkeypatch).PHRASES
    folder = tmp_path / "objects"
    folder.mkdir()
    for i in range(len(phrases)):
        picture = Image.new("RGBA", (48, 48))
        ImageDraw.Draw(picture).rectangle((4, 4, 44, 44), (10 * i, 250 - 10 * i, 128, 255))
        picture.save(folder / f"{i}.png")
    index = [{"file": f"{i}.png", "phrase": phrase} for i, phrase in enumerate(phrases)]
    (folder / "index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def items(script, objects):
    """60 items of the base, and their scenes."""
    dataset = script.TokenDataset(script.scenes_for("base-high", Namespace(objects=objects, seed=5)), DEMO, start=1)
    found = [dataset[i] for i in range(60)]
    scenes = [dataset.scenes.generator.scene(1 + i) for i in range(60)]
    return {name: torch.stack([item[name] for item in found]) for name in found[0]}, scenes


def test_captions_are_encoded_as_the_pipeline_encodes_them(script, items):
    batch, _ = items
    encoder = ConditioningEncoder(DEMO)
    captions = encoder.tokenizer_2.batch_decode(batch["t5_ids"], skip_special_tokens=True)
    expected = encoder(captions, batch["clip_image"])
    found = script.Conditions(DEMO, DEMO / "text_encoder_2", torch.device("cpu"))(batch)
    for name in ("encoder_hidden_states", "encoder_hidden_states_2", "encoder_attention_mask_2"):
        torch.testing.assert_close(found[name].float(), expected[name].float(), rtol=0, atol=1e-4)
    for name, value in expected["added_cond_kwargs"].items():
        torch.testing.assert_close(found["added_cond_kwargs"][name], value, rtol=0, atol=1e-4)


def test_the_paint_is_that_of_the_trainer(script, items):
    batch, scenes = items
    rows = batch["is_painted"].nonzero()[:, 0].tolist()
    assert 5 <= len(rows) <= 25
    chance = torch.Generator().manual_seed(0)
    kept = Kept(*(torch.rand(len(rows), generator=chance) > 0.3 for _ in range(4)))
    weight = torch.rand(len(rows), generator=chance)
    regions = [scene_regions(scenes[row], float(w)) for row, w in zip(rows, weight, strict=True)]
    conditioner = BatchConditioner(ConditioningEncoder(DEMO), DropoutRates())
    expected = conditioner.painting({"caption": [scenes[row].caption for row in rows], "regions": regions}, kept)
    chosen = {name: part[rows] for name, part in batch.items()}
    found = script.BatchPainting(script.paint_matrices(chosen, kept, weight))
    for painting in (expected, found):
        painting.begin_call(torch.zeros(len(rows), 3, 64, 64), torch.ones(1), 4)
    assert expected.matrix(64).sum() > 1
    torch.testing.assert_close(found.matrix(64), expected.matrix(64))


def test_some_captions_have_no_articles_or_no_ground(script, items, monkeypatch):
    pool = import_script("demo/scene_pool", monkeypatch)
    scene = next(scene for scene in items[1] if len(scene.objects) == 2)
    assert pool.shortened(scene, 0.5) == scene.caption
    bare = pool.shortened(scene, 0.05).lower().split()
    assert not {"a", "an"} & set(bare) and set(scene.phrases[0].split()) <= set(bare)
    assert pool.shortened(scene, 0.15).endswith(scene.phrases[1])


def test_batched_muon_is_muon(script):
    chance = torch.Generator().manual_seed(0)
    shapes = [(16, 8, 3, 3), (16, 8, 3, 3), (20, 7), (5, 9, 1, 1)]
    start = [torch.randn(shape, generator=chance) for shape in shapes]
    start = [w.contiguous(memory_format=torch.channels_last) if w.ndim == 4 else w for w in start]
    ours, theirs = ([torch.nn.Parameter(w.clone()) for w in start] for _ in range(2))
    reference = MuonAdamW(theirs, [torch.nn.Parameter(torch.zeros(2))], 1e-2, 0.0)
    muon = script.BatchedMuon(ours, torch.tensor(1e-2))
    for _ in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=chance).contiguous(
                memory_format=torch.channels_last if a.ndim == 4 else torch.contiguous_format
            )
            b.grad = a.grad.clone()
        reference.step()
        muon.step()
    for a, b, w in zip(ours, theirs, start, strict=True):
        # The iteration runs in bfloat16: one part in a hundred of what was learnt.
        assert (a - b).norm() < 0.03 * (b - w).norm()


def test_noise_levels_are_those_of_the_interval(script):
    recipe = script.RECIPES["base-middle"]
    unet = EDiffIUNet.from_preset("demo-base-low")
    sigma = script.Network(recipe, unet, None)._sigma(20_000)
    low, high = recipe.interval
    assert low <= sigma.min() and sigma.max() <= high
    middle = script.NoiseInterval((recipe.interval,), p_mean=recipe.p_mean, p_std=recipe.p_std).sample(
        (20_000,), generator=torch.Generator().manual_seed(0), device="cpu"
    )
    assert math.isclose(sigma.median().item(), middle.median().item(), rel_tol=0.05)


def test_the_t5_encoder_learns_from_the_gradient_of_its_states(script, items):
    conditions = script.Conditions(DEMO, DEMO / "text_encoder_2", torch.device("cpu"))
    t5 = script.T5Trainer(conditions, torch.device("cpu"))
    t5.rate.fill_(1e-3)
    start = [p.detach().clone() for p in t5.parameters]
    wanted = torch.randn(60, 113, 128, generator=torch.Generator().manual_seed(0))
    distances = []
    for _ in range(3):
        states = conditions(items[0])["encoder_hidden_states_2"]
        read = states.detach().abs().sum(-1, keepdim=True) > 0
        distances.append(((states - wanted) * read).square().sum().item())
        t5.step(states, ((states - wanted) * read).detach())
    assert distances[0] > distances[1] > distances[2]
    moved = [(p - q).norm() for p, q in zip(t5.average.values, start, strict=True)]
    assert all(0 < m < (p - q).norm() for m, p, q in zip(moved, t5.parameters, start, strict=True))


def test_networks_learn_and_the_second_run_takes_the_encoder_of_the_first(script, objects, tmp_path):
    common = ["--objects", str(objects), "--model", str(DEMO), "--device", "cpu", "--workers", "1"]
    common += ["--batch-factor", "0.004", "--least-items", "64", "--pool", "96", "--output", str(tmp_path / "run")]
    script.main(["base", "--seconds", "base-high=0.1", "base-low=0.1", *common])
    t5 = tmp_path / "run" / "encoders" / "text_encoder_2"
    script.main(["sr", "--seconds", "sr256-low=0.1", "--wait-for", str(t5), *common])
    assert ConditioningEncoder(t5.parent).text_encoder_2.config.d_model == 128
    for name in ("base-high", "base-low", "sr256-low"):
        unet = EDiffIUNet.from_pretrained(tmp_path / "run" / name / "unet")
        assert unet.config.trained_on == [list(script.RECIPES[name].interval)] or unet.config.trained_on[0][1] is None
        line = json.loads((tmp_path / "run" / f"{name}.jsonl").read_text().splitlines()[-1])
        assert line["images"] >= 2 and math.isfinite(line["loss"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["base", "--seconds", "sr256=3"], "sr256 is no network of base"),
        (["base", "--seconds", "base-high=0"], "expected NETWORK=SECONDS"),
        (["sr", "--seconds", "sr2=5"], "expected NETWORK=SECONDS"),
        (["base", "--seconds", "base-low=5", "--device", "nonsense"], "nonsense"),
    ],
)
def test_wrong_options_end_with_a_line(script, tmp_path, capsys, options, message):
    options = [*options, *(() if "--device" in options else ("--device", "cpu"))]
    with pytest.raises(SystemExit):
        script.main([*options, "--objects", "o", "--model", "m", "--output", str(tmp_path / "run")])
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()
