# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The folder that a reader of the documentation works in: the repository, and what pages take for granted.

A repository of the Hub is a folder of its name, which diffusers and transformers take instead of the Hub's.
"""

import json
import os
import shutil
from contextlib import chdir
from pathlib import Path

import helpers_diffusers as sd
import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from helpers import WIDTH, tiny_pipeline, tiny_unet
from helpers_cascades import save_models
from helpers_coco import tiny_segmenter, write_annotations
from helpers_conversion import import_converter
from helpers_docs import ROOT
from helpers_evaluation import write_geneval
from helpers_pictures import write_folder
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from diffusers_ediffi import EDiffIPipeline, EDiffIUNet, ExpertRouterUNet, demo_checkpoint

SD = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SDXL = "stabilityai/stable-diffusion-xl"
# The widths of SDXL's text encoders. Its refiner reads the second alone, and an aesthetic score instead of two sizes.
WIDTHS = (768, 1280)
SDXL_BASE = {
    **sd.SDXL_BASE,
    "cross_attention_dim": sum(WIDTHS),
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 6 * 256 + WIDTHS[1],
}
REFINER = {**SDXL_BASE, "cross_attention_dim": WIDTHS[1], "projection_class_embeddings_input_dim": 5 * 256 + WIDTHS[1]}


def make_world(folder: Path) -> None:
    """Fills a folder that every page gets a copy of."""
    _repository(folder)
    pictures = folder / "noto-emoji" / "png" / "512"
    _emoji(pictures)
    _objects(folder / "noto_objects", pictures)
    _hub(folder)
    _cascades(folder)
    write_folder(folder / "my_pictures")
    _coco(folder / "annotations")
    _scene_set(folder / "scenes")
    write_geneval(folder / "evaluation_metadata.jsonl")
    shutil.copytree(folder / "org" / "name", folder / "runs" / "demo" / "pipeline")
    (folder / "runs" / "encoders").symlink_to(demo_checkpoint())


def _repository(folder: Path) -> None:
    """Copies of what commands read and write, since nothing may be written into the repository."""
    for name in ("benchmarks", "conversion", "docs", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "constraints.txt", "model_card.md"):
        shutil.copy(ROOT / name, folder)
    (folder / "src").symlink_to(ROOT / "src")
    for path in (folder / "examples" / "demo" / "schedules").glob("*.yaml"):
        schedule = yaml.safe_load(path.read_text(encoding="utf-8"))
        for node in schedule["nodes"]:
            node["steps"] = 1
        path.write_text(yaml.safe_dump(schedule), encoding="utf-8")


def _emoji(folder: Path) -> None:
    """A coloured square for each picture of Noto Emoji that the demo's scenes are made of."""
    folder.mkdir(parents=True)
    names = json.loads((ROOT / "examples" / "demo" / "demo_objects.json").read_text(encoding="utf-8")).values()
    for i, name in enumerate(names):
        Image.new("RGBA", (48, 48), (37 * i % 256, 91 * i % 256, 151 * i % 256, 255)).save(folder / name)


def _objects(folder: Path, pictures: Path) -> None:
    """The folder of objects, as make_object_folder.py makes it."""
    names = json.loads((ROOT / "examples" / "demo" / "demo_objects.json").read_text(encoding="utf-8"))
    shutil.copytree(pictures, folder)
    index = [{"file": name, "phrase": phrase} for phrase, name in names.items()]
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")


def _hub(folder: Path) -> None:
    """Tiny models with random weights under the names that the pages load."""
    sd.build(StableDiffusionPipeline, sd.tiny_unet()).save_pretrained(folder / SD)
    for seed, name in enumerate(("low-noise", "high-noise"), start=1):
        sd.tiny_unet(seed).save_pretrained(folder / "org" / name / "unet")
    (folder / "org" / "fine-details").mkdir()
    save_file(sd.lora(StableDiffusionPipeline), folder / "org" / "fine-details" / "pytorch_lora_weights.safetensors")
    _sdxl().save_pretrained(folder / f"{SDXL}-base-1.0")
    sd.tiny_unet(2, **REFINER).save_pretrained(folder / f"{SDXL}-refiner-1.0" / "unet")
    tiny_pipeline(default_num_inference_steps=(2, 1, 1)).save_pretrained(folder / "org" / "name")
    _safety_checker().save_pretrained(folder / "CompVis" / "stable-diffusion-safety-checker")
    tiny_segmenter(folder / "facebook" / "mask2former-swin-large-coco-panoptic")


def _cascades(folder: Path) -> None:
    """Tiny DeepFloyd IF and Karlo under their names, and what the converters make of them."""
    save_models(folder / "models", variant="fp16")
    names = {"if-1": "DeepFloyd/IF-I-XL-v1.0", "if-2": "DeepFloyd/IF-II-L-v1.0", "karlo": "kakaobrain/karlo-v1-alpha"}
    for name, of_hub in names.items():
        (folder / of_hub).parent.mkdir(exist_ok=True)
        (folder / "models" / name).rename(folder / of_hub)
    stages = [word for i, name in enumerate(list(names.values())[:2], start=1) for word in (f"--stage-{i}", name)]
    experts = [f"{SDXL}-refiner-1.0", f"{SDXL}-base-1.0"]
    two = ["--unets", *experts, "--pipeline", experts[1], "--boundaries", "200", "--unit", "timestep"]
    with chdir(folder), pytest.MonkeyPatch.context() as patch:
        for converter, options, output in (
            ("from_deepfloyd_if", [*stages, "--variant", "fp16"], "if"),
            ("from_karlo", ["--model", names["karlo"]], "karlo"),
            ("from_diffusers_unets", two, "sdxl-two-experts"),
        ):
            import_converter(converter, patch).main([*options, "--output", output])


def _sdxl() -> StableDiffusionXLPipeline:
    """Small, but with text encoders as wide as SDXL's, since the refiner reads some of their columns."""
    pipe = sd.build(StableDiffusionXLPipeline, sd.tiny_unet(**SDXL_BASE))
    classes = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    for (name, encoder), width in zip(classes.items(), WIDTHS, strict=True):
        config = {**getattr(pipe, name).config.to_dict(), "hidden_size": width, "projection_dim": width}
        pipe.register_modules(**{name: encoder(CLIPTextConfig(**config)).eval()})
    return pipe


def _safety_checker() -> StableDiffusionSafetyChecker:
    tower = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**tower, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    return StableDiffusionSafetyChecker(CLIPConfig(text_config=tower, vision_config=vision, projection_dim=WIDTH))


def _scene_set(folder: Path) -> None:
    """As examples/evaluate/write_scene_set.py writes it."""
    for name in ("real", "reference"):
        write_folder(folder / name, 4)
    (folder / "captions.txt").write_text("a red car\na rocket\na moon\na cat\n" * 4, encoding="utf-8")


def _coco(folder: Path) -> None:
    folder.mkdir()
    write_annotations(folder)
    for name in ("instances", "captions"):
        (folder / f"{name}.json").rename(folder / f"{name}_val2017.json")


WRITTEN_TO = ("benchmarks", "docs", "examples", "runs")  # by the commands of pages
# Networks that hours of training make: here tiny ones, or those of the packaged model.
TRAINED = ("runs/base-high/unet", "runs/painted/unet", "runs/root/nodes/root/unet", "runs/config-d/unet")
SPLIT = "runs/experts/pipeline"
PACKAGED = {"runs/single/unet": "unet/expert.2", "runs/level-2/unet": "unet"}


def make_page_folder(world: Path, folder: Path, text: str, shell: bool) -> None:
    """Fills the folder for a page of this text, with what its own commands make only if they do not run."""
    folder.mkdir()
    for path in world.iterdir():
        if path.name in WRITTEN_TO:
            shutil.copytree(path, folder / path.name, symlinks=True)
        elif not (shell and f"--output {path.name}" in text):
            (folder / path.name).symlink_to(path.resolve())
    if shell and "examples/demo/schedules" in text:  # its commands train all of these
        return
    for number, name in enumerate(TRAINED):
        unet = tiny_unet(number)
        if name == "runs/config-d/unet":
            unet = ExpertRouterUNet.from_unets([tiny_unet(5), tiny_unet(6)], [1.0])
        unet.save_pretrained(folder / name)
    if not shell and SPLIT in text:
        router = sd.three_experts(StableDiffusionPipeline)
        sd.build(StableDiffusionPipeline, router).save_pretrained(folder / SPLIT)
    if not shell:
        _lora_of_the_demo(folder / "runs" / "zorb")
    for name, part in PACKAGED.items():
        (folder / name).parent.mkdir()
        (folder / name).symlink_to(Path(demo_checkpoint()) / part)


def _lora_of_the_demo(folder: Path) -> None:
    """What train_ediffi_lora.py writes, of a single layer, before it has learnt anything."""
    layer = "time_embedding.linear_1"
    weight = EDiffIUNet.from_pretrained(demo_checkpoint(), subfolder="unet/expert.0").get_submodule(layer).weight
    factors = {"A": torch.zeros(1, weight.shape[1]), "B": torch.zeros(weight.shape[0], 1)}
    EDiffIPipeline.save_lora_weights(folder, {f"experts.0.{layer}.lora_{n}.weight": f for n, f in factors.items()})


def make_short_demo(folder: Path) -> Path:
    """The demo model with few steps and without its last stage, which takes the most time."""
    index = json.loads((Path(demo_checkpoint()) / "model_index.json").read_text(encoding="utf-8"))
    none = {name: [None, None] for name in ("unet_sr1024", "scheduler_sr1024")}
    index |= {**none, "default_num_inference_steps": [2, 1, 1]}
    folder.mkdir()
    for path in Path(demo_checkpoint()).iterdir():
        if path.is_dir():
            os.symlink(path, folder / path.name)
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder
