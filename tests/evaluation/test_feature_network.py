# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Feature networks: the pixels that they see, their features against those of the model called by hand, and what is no
feature network."""

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_evaluation import dinov2
from PIL import Image
from torch import nn
from transformers import (
    BertConfig,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
    Dinov2Model,
    ResNetConfig,
    ResNetModel,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from diffusers_ediffi import demo_checkpoint
from diffusers_ediffi.demo.scorer import SceneScorer
from diffusers_ediffi.evaluation import CLIPNetwork, FeatureNetwork
from diffusers_ediffi.evaluation.preprocessing import square_pixels
from diffusers_ediffi.evaluation.weights import weights_hash


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (30, 30, 3), dtype=np.uint8)) for _ in range(3)]


def by_hand(images, size, mean, std, resample=Image.Resampling.BICUBIC):
    """clean-fid's resizing and the usual normalisation, one channel at a time."""
    found = np.empty((len(images), 3, size, size), np.float32)
    for i, image in enumerate(images):
        for channel in range(3):
            plane = Image.fromarray(np.asarray(image)[:, :, channel].astype(np.float32))
            values = np.asarray(plane.resize((size, size), resample))
            found[i, channel] = (values / 255 - mean[channel]) / std[channel]
    return torch.from_numpy(found)


def save_processor(folder, size=16, **changes):
    squares = {"height": size, "width": size}
    ViTImageProcessorPil(size=squares, **changes).save_pretrained(folder)


# --- the pixels ---


def test_bicubic_neither_rounds_nor_cuts():
    step = Image.fromarray(np.repeat(np.uint8([[[0] * 3] * 4 + [[255] * 3] * 4]), 8, axis=0))
    pixels = square_pixels([step], 16, "bicubic")
    assert pixels.min() < 0 and pixels.max() > 255 and not torch.equal(pixels, pixels.round())


def test_the_middle_of_what_is_not_square():
    picture = Image.new("RGB", (9, 4), "red")
    picture.paste("blue", (2, 0, 6, 4))
    (pixels,) = square_pixels([picture], 4, "box")
    assert pixels[2].eq(255).all() and pixels[0].eq(0).all()
    (pixels,) = square_pixels([picture.transpose(Image.Transpose.ROTATE_90)], 4, "box")
    assert pixels[2, 1:].eq(255).all(), "of an odd rest one pixel more is above"


@pytest.mark.parametrize("name", ["bilinear", "lanczos", "box"])
def test_filters_are_pillows(name, images):
    expected = by_hand(images, 14, [0] * 3, [1 / 255] * 3, Image.Resampling[name.upper()])
    assert torch.allclose(square_pixels(images, 14, name), expected, atol=1e-3)
    assert not torch.allclose(square_pixels(images, 14, "bicubic"), expected, atol=1)


# --- the features ---


def test_dinov2(tmp_path, images):
    """The size is that of the image processor."""
    network = FeatureNetwork.from_pretrained(dinov2(tmp_path))
    model = Dinov2Model.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = model(by_hand(images, 14, [0.4, 0.5, 0.6], [0.2, 0.3, 0.4])).last_hidden_state[:, 0]
    assert torch.allclose(network(images), expected, atol=1e-5)
    about = network.describe()
    assert (about["width"], about["size"], about["resize"]) == (8, 14, "bicubic, Pillow, float32")
    assert about["sha256"] == weights_hash({"": model})


def test_resnet(tmp_path, images):
    torch.manual_seed(0)
    ResNetModel(ResNetConfig(embedding_size=4, hidden_sizes=[4, 6], depths=[1, 1])).save_pretrained(tmp_path)
    save_processor(tmp_path, rescale_factor=1 / 127.5, image_mean=[1.0] * 3, image_std=[1.0] * 3)
    network = FeatureNetwork.from_pretrained(tmp_path)
    model = ResNetModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        maps = model(by_hand(images, 16, [0.5] * 3, [0.5] * 3)).last_hidden_state
    assert torch.allclose(network(images), maps.mean(dim=(2, 3)), atol=1e-5)


def test_the_image_tower_of_siglip(tmp_path, images):
    torch.manual_seed(0)
    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config={**tower, "vocab_size": 9}, vision_config={**tower, "image_size": 16, "patch_size": 8}
    )
    SiglipModel(config).save_pretrained(tmp_path)
    save_processor(tmp_path, do_normalize=False)
    network = FeatureNetwork.from_pretrained(tmp_path)
    model = SiglipModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = model.vision_model(by_hand(images, 16, [0.0] * 3, [1.0] * 3)).pooler_output
    assert torch.allclose(network(images), expected, atol=1e-5)


def test_the_clip_of_a_pipeline(images):
    clip = CLIPNetwork("demo")
    model = CLIPVisionModelWithProjection.from_pretrained(demo_checkpoint(), subfolder="image_encoder").eval()
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    with torch.no_grad():
        expected = model(by_hand(images, 64, mean, std)).image_embeds
    assert torch.allclose(clip(images), expected, atol=1e-5)
    text = CLIPTextModelWithProjection.from_pretrained(demo_checkpoint(), subfolder="text_encoder").eval()
    with torch.no_grad():
        ids = clip.clip.tokenizer(["a red car"], return_tensors="pt").input_ids
        expected = torch.nn.functional.normalize(text(ids).text_embeds, dim=1)
    assert torch.allclose(clip.text_features(["a red car"]), expected, atol=1e-5)
    assert clip.describe()["sha256"] == weights_hash({"image_encoder": model, "text_encoder": text})


def test_the_scorer_of_the_demo(images):
    scorer = SceneScorer.from_pretrained(Path(demo_checkpoint()).with_name("scorer")).eval()
    with torch.no_grad():
        expected = scorer(by_hand(images, 64, [0.5] * 3, [0.5] * 3))["features"]
    assert torch.allclose(FeatureNetwork.from_pretrained("demo")(images), expected, atol=1e-4)


class InceptionLike(nn.Module):
    """What of FID's file matters: `layers` takes pixels about -1 to 1, of which it makes (batch, width)."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 5, 3, stride=50), nn.AdaptiveAvgPool2d(1))

    def forward(self, pixels):
        return self.layers(pixels)


def test_fids_inception_in_torchscript(tmp_path, images):
    """Normalised as clean-fid does: (x - 128) / 128 at 299 pixels."""
    torch.manual_seed(0)
    model = InceptionLike()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; the file of FID has no other form
        torch.jit.script(model).save(tmp_path / "inception.pt")
    network = FeatureNetwork.from_pretrained(tmp_path / "inception.pt")
    with torch.no_grad():
        expected = model((by_hand(images, 299, [0.0] * 3, [1 / 255] * 3) - 128) / 128).flatten(1)
    assert torch.allclose(network(images), expected, atol=1e-5) and network.width == 5


def test_any_module_is_a_network(images):
    network = FeatureNetwork(nn.Flatten(), "pixels", 2, (0, 0, 0), (1, 1, 1), resize="box")
    assert torch.allclose(network(images), square_pixels(images, 2, "box").flatten(1) / 255)
    assert network.describe() == {
        "name": "pixels",
        "sha256": hashlib.sha256().hexdigest(),
        "width": 12,
        "size": 2,
        "crop": "largest square in the middle",
        "resize": "box, Pillow, float32",
        "mean": [0, 0, 0],
        "std": [1, 1, 1],
    }


def test_the_hash_is_of_names_and_values():
    layer, same, other = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    same.load_state_dict(layer.state_dict())
    assert weights_hash({"a": layer}) == weights_hash({"a": same}) != weights_hash({"a": other})
    assert weights_hash({"a": layer}) != weights_hash({"b": layer})
    assert weights_hash({"a": layer, "b": other}) == weights_hash({"b": other, "a": layer})
    assert weights_hash({"a": layer}) != weights_hash({"a": same.half()})
    assert weights_hash({"a": layer.to("meta")}) is None


# --- what is refused ---


def test_a_text_model_is_refused_before_its_weights_are_read(tmp_path):
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="is a bert, which reads no pictures; a feature network must be an image model"
    ):
        FeatureNetwork.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has a bert where a CLIP has its text_encoder"):
        CLIPNetwork(tmp_path)


def test_the_tower_of_a_clip_is_no_clip():
    tower = f"{demo_checkpoint()}/text_encoder"
    with pytest.raises(ValueError, match="is a clip_text_model, which reads no pictures"):
        FeatureNetwork.from_pretrained(tower)
    with pytest.raises(ValueError, match="has a clip_text_model where a CLIP has its text_encoder"):
        CLIPNetwork(tower)


def test_weights_that_would_be_random_are_refused(tmp_path):
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8)
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    save_processor(tmp_path)
    with pytest.raises(ValueError, match=r"lack 2 weights, such as pooler\.dense\.bias, which would be random"):
        FeatureNetwork.from_pretrained(tmp_path)


def test_a_model_without_its_image_processor_is_refused(tmp_path):
    dinov2(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="no preprocessor_config.json that says the size"):
        FeatureNetwork.from_pretrained(tmp_path)


def test_what_is_no_model_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for load in (FeatureNetwork.from_pretrained, CLIPNetwork):
        with pytest.raises(ValueError, match="is no model of transformers"):
            load(tmp_path)
        with pytest.raises(ValueError, match="There is no resize filter 'nearest'; choose from bicubic"):
            load("demo", resize="nearest")
    (tmp_path / "weights.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not FID's Inception in TorchScript"):
        FeatureNetwork.from_pretrained(tmp_path / "weights.pt")


def test_a_pipeline_without_an_image_encoder_is_no_clip(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match="is no model of transformers with text_encoder"):
        CLIPNetwork(tmp_path)
