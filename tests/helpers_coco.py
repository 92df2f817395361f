# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Two pictures' worth of COCO's annotations, and a tiny model of the kind that finds its objects."""

import json
from pathlib import Path

import torch
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessorPil,
    SwinConfig,
)


def tiny_segmenter(folder: Path) -> Path:
    """A Mask2Former of COCO's kind with random weights, which takes everything for a cat."""
    torch.manual_seed(0)
    backbone = SwinConfig(
        image_size=64,
        patch_size=4,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    widths = ("feature_size", "mask_feature_size", "hidden_dim", "encoder_feedforward_dim", "dim_feedforward")
    model = Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(
            backbone_config=backbone,
            **{name: 32 for name in widths},
            encoder_layers=1,
            decoder_layers=2,
            num_attention_heads=2,
            num_queries=4,
            id2label={0: "cat", 1: "dog", 2: "hot dog"},
        )
    ).eval()
    torch.nn.init.zeros_(model.class_predictor.weight)
    model.class_predictor.bias.data = torch.tensor([9.0, 0.0, 0.0, 0.0])
    model.save_pretrained(folder)
    Mask2FormerImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def write_annotations(folder: Path) -> None:
    """Writes instances.json and captions.json: a cat, and a crowd of dogs."""
    names = ("cat", "dog", "hot dog")
    crowd = {"size": [20, 30], "counts": [300, 200, 100]}  # columns 15 to 24 of 30
    instances = {
        "images": [{"id": i, "height": 20, "width": 30} for i in (7, 3, 9)],
        "categories": [{"id": 10 * i, "name": name} for i, name in enumerate(names)],
        "annotations": [
            {"image_id": 3, "category_id": 0, "segmentation": [[5, 0, 14.5, 0, 14.5, 20, 5, 20]]},
            {"image_id": 3, "category_id": 10, "segmentation": [[20, 0, 25, 0, 25, 20, 20, 20]]},
            {"image_id": 7, "category_id": 10, "segmentation": crowd},
            {"image_id": 9, "category_id": 10, "segmentation": crowd},
        ],
    }
    texts = ((51, 3, "a hot day"), (52, 3, "a  hot dog and kittens"), (50, 7, "dogs"), (53, 9, "a hotdog"))
    captions = {"annotations": [{"id": id, "image_id": image, "caption": text} for id, image, text in texts]}
    for name, content in (("instances", instances), ("captions", captions)):
        (folder / f"{name}.json").write_text(json.dumps(content))
