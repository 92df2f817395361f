# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""A router answers for whatever pipelines and loaders of diffusers ask of a U-Net."""

import copy
import re
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    ConsistencyModelPipeline,
    DDPMPipeline,
    DDPMScheduler,
    StableDiffusionPipeline,
    StableDiffusionSAGPipeline,
    StableDiffusionXLPipeline,
    TorchAoConfig,
    UNet1DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.models.attention_processor import AttnProcessor
from diffusers.training_utils import EMAModel
from helpers import tiny_unet as tiny_ediffi_unet
from helpers_diffusers import build, draw, inputs, lora, three_experts, tiny_unet, unet_for
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torchao.quantization import Int8WeightOnlyConfig

from diffusers_ediffi import ExpertRouterUNet

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # diffusers 0.42 on numpy 2.4
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),  # of peft, for a second LoRA
]


def read_on_a_unet() -> set[str]:
    """The names of `self.unet.<name>` and `unet.<name>` in diffusers' pipelines and loaders, examples included."""
    root = Path(diffusers.__file__).parent
    files = [*root.glob("pipelines/**/*.py"), *root.glob("loaders/*.py"), root / "training_utils.py"]
    return {name for file in files for name in re.findall(r"\bunet\.(\w+)\b", file.read_text(encoding="utf-8"))}


# What diffusers reads on a `unet` and a `UNet2DConditionModel` lacks as well.
OF_OTHER_NETWORKS = {
    "_orig_mod": "of a compiled module, which stands around a router as around any network",
    "base_add_embedding": "of UNetControlNetXSModel, which is made of a U-Net and a ControlNet",
    "model": "of ONNX networks",
    "sample_rate": "in an example only; it is an entry of the configuration of UNet1DModel",
}


def test_the_router_has_what_pipelines_and_loaders_read():
    network = unet_for(StableDiffusionXLPipeline)
    network.encoder_hid_proj = None
    router = ExpertRouterUNet.from_unets([network, copy.deepcopy(network)], [500], unit="timestep")
    names = read_on_a_unet() - set(network.config)  # entries of the configuration are deprecated as attributes
    assert {"config", "mid_block", "attn_processors", "fuse_qkv_projections", "load_attn_procs"} <= names
    missing = {name for name in names if not hasattr(router, name)}
    assert {name for name in missing if hasattr(network, name)} == set()
    assert missing == set(OF_OTHER_NETWORKS)


def test_a_method_is_there_where_the_experts_have_it():
    routers = [ExpertRouterUNet.from_unets([new(), new()], [1.0]) for new in (tiny_unet, tiny_ediffi_unet)]
    for name in ("set_attention_slice", "set_default_attn_processor", "enable_freeu", "load_attn_procs"):
        assert [hasattr(router, name) for router in routers] == [True, False]
    with pytest.raises(AttributeError, match="'ExpertRouterUNet' object has no attribute 'enable_freeu'"):
        routers[1].enable_freeu(1, 1, 1, 1)
    assert not hasattr(routers[0], "peft_config") and not hasattr(routers[0], "hf_device_map")
    assert copy.deepcopy(routers[0]).mid_block is not routers[0].mid_block


def test_fused_projections_reach_all_experts():
    single, routed = (build(StableDiffusionPipeline, unet) for unet in (unet_for(StableDiffusionPipeline), three()))
    for switch in ("fuse_qkv_projections", "unfuse_qkv_projections"):
        for pipe in (single, routed):
            getattr(pipe, switch)()
        kinds = {type(processor).__name__ for processor in routed.unet.attn_processors.values()}
        assert kinds == {type(processor).__name__ for processor in single.unet.attn_processors.values()}
        assert torch.equal(draw(routed), draw(single))


def no_change(pipe):
    assert len(pipe.unet.up_blocks) == len(pipe.unet.experts[0].up_blocks)


def processor_in_the_middle(pipe):
    pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.processor = AttnProcessor()


def hook_in_the_middle(pipe):
    pipe.unet.mid_block.register_forward_hook(lambda *args: None)


def another_module(pipe):
    pipe.unet.down_blocks[0].resnets[0] = copy.deepcopy(pipe.unet.down_blocks[0].resnets[0])


@pytest.mark.parametrize("change", [processor_in_the_middle, hook_in_the_middle, another_module])
def test_blocks_that_are_changed_in_one_expert_only_are_refused(change):
    pipe = build(StableDiffusionPipeline, three())
    no_change(pipe)
    draw(pipe)
    change(pipe)
    for _ in range(2):
        with pytest.raises(ValueError, match="expert 0 were changed and those of expert 1 were not.* works with one"):
            draw(pipe)


def test_a_lora_for_one_expert_is_no_change_of_its_blocks():
    pipe = build(StableDiffusionPipeline, three())
    no_change(pipe)
    with pipe.unet.loading_into([1]):
        pipe.load_lora_weights(lora(StableDiffusionPipeline))
    assert draw(pipe).isfinite().all()


def test_self_attention_guidance_needs_one_network():
    single, routed = (
        StableDiffusionSAGPipeline(**build(StableDiffusionPipeline, unet).components, requires_safety_checker=False)
        for unet in (unet_for(StableDiffusionPipeline), three())
    )
    draw(single, sag_scale=0.7)
    with pytest.raises(ValueError, match="self-attention guidance, FreeNoise"):
        draw(routed, sag_scale=0.7)


def three():
    return three_experts(StableDiffusionPipeline)


# --- networks without text ---


def pixels_unet(**changes):
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    size = {"sample_size": 8, "block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4}
    return UNet2DModel(**size, **blocks, **changes).eval()


def series_unet():
    torch.manual_seed(0)
    return UNet1DModel(
        block_out_channels=(8, 8, 16, 16),
        in_channels=4,
        out_channels=4,
        time_embedding_type="positional",
        use_timestep_embedding=True,
        out_block_type="OutConv1DBlock",
        mid_block_type="MidResTemporalBlock1D",
        down_block_types=("DownResnetBlock1D",) * 4,
        up_block_types=("UpResnetBlock1D",) * 3,
        act_fn="swish",
    ).eval()


@pytest.mark.parametrize(
    ("unet", "pipeline", "scheduler", "arguments"),
    [
        (pixels_unet, DDPMPipeline, DDPMScheduler, {"num_inference_steps": 3, "output_type": "np"}),
        (
            lambda: pixels_unet(num_class_embeds=5),
            ConsistencyModelPipeline,
            CMStochasticIterativeScheduler,
            {"class_labels": 1, "num_inference_steps": 1, "output_type": "np"},
        ),
    ],
)
def test_networks_without_text(unet, pipeline, scheduler, arguments):
    drawn = []
    for network in (unet(), ExpertRouterUNet.from_unets([unet(), unet()], [300], unit="timestep")):
        pipe = pipeline(network, scheduler())
        pipe.set_progress_bar_config(disable=True)
        drawn.append(pipe(generator=torch.Generator().manual_seed(0), **arguments).images)
    assert (drawn[0] == drawn[1]).all()


def test_a_network_of_one_dimension():
    router = ExpertRouterUNet.from_unets([series_unet(), series_unet()], [300], unit="timestep")
    sample = torch.randn(1, 4, 16)
    assert torch.equal(router(sample, 500).sample, series_unet()(sample, 500).sample)
    assert torch.equal(router(sample, 500, return_dict=False)[0], series_unet()(sample, 500).sample)


# --- configuration ---


@pytest.mark.filterwarnings("ignore:It is deprecated to pass a pretrained model name:FutureWarning")  # EMAModel does
@pytest.mark.parametrize("new", [tiny_unet, tiny_ediffi_unet, pixels_unet], ids=["sd", "ediffi", "pixels"])
@pytest.mark.parametrize("guidance_scales", [None, [3.0, None]])
def test_a_router_is_built_from_its_configuration(new, guidance_scales, tmp_path, caplog):
    router = ExpertRouterUNet.from_unets([new(), new()], [1.0], guidance_scales=guidance_scales)
    built = ExpertRouterUNet.from_config(router.config)
    assert built.config == router.config and not caplog.records
    shapes = [[tensor.shape for tensor in each.state_dict().values()] for each in (built, router)]
    assert shapes[0] == shapes[1]

    average = EMAModel(router.parameters(), model_cls=ExpertRouterUNet, model_config=router.config, decay=0.5)
    with torch.no_grad():
        for parameter in router.parameters():
            parameter.add_(1.0)
    average.step(router.parameters())
    average.save_pretrained(tmp_path)
    loaded = EMAModel.from_pretrained(tmp_path, ExpertRouterUNet)
    assert loaded.optimization_step == 1 and loaded.decay == 0.5
    assert all(torch.equal(*pair) for pair in zip(loaded.shadow_params, average.shadow_params, strict=True))


# --- quantised experts ---


def test_quantised_experts_behave_as_a_quantised_network(tmp_path):
    how = {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig()), "dtype": torch.float32}
    ExpertRouterUNet.from_unets([tiny_unet(0), tiny_unet(1)], [500], unit="timestep").save_pretrained(tmp_path / "a")
    router = ExpertRouterUNet.from_pretrained(tmp_path / "a", **how)
    expected = router(**inputs(), timestep=700).sample
    single = UNet2DConditionModel.from_pretrained(tmp_path / "a" / "expert.1", **how)
    assert torch.equal(expected, single(**inputs(), timestep=700).sample)
    for cast in (lambda unet: unet.to(torch.float16), lambda unet: unet.half(), lambda unet: unet.float()):
        for unet in (single, router):
            with pytest.raises(ValueError, match="quantized model"):
                cast(unet)
    router.save_pretrained(tmp_path / "b")
    loaded = ExpertRouterUNet.from_pretrained(tmp_path / "b", dtype=torch.float32)
    assert loaded.is_quantized and torch.equal(loaded(**inputs(), timestep=700).sample, expected)


# --- LoRA ---


def outputs_of(router) -> list[torch.Tensor]:
    return [expert(**inputs(), timestep=500).sample for expert in router.experts]


def with_a_lora_in_each():
    router = three()
    for index in (0, 2):
        weights = lora(StableDiffusionPipeline, index)
        router.load_lora_adapter(weights, prefix="unet", adapter_name="style", experts=[index])
    return router


@pytest.mark.parametrize("way", ["adapter", "pipeline"])
def test_the_lora_of_a_router_comes_back(way, tmp_path):
    router, loaded = with_a_lora_in_each(), three()
    plain = outputs_of(loaded)
    if way == "adapter":
        router.save_lora_adapter(tmp_path, "style")
        source = {"prefix": None, "use_safetensors": True}
        loaded.load_lora_adapter(tmp_path, adapter_name="style", **source)
    else:
        layers = get_peft_model_state_dict(router, adapter_name="style")
        StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=layers)
        pipe = build(StableDiffusionPipeline, loaded)
        pipe.load_lora_weights(tmp_path, adapter_name="style")
        again = outputs_of(loaded)
        pipe.load_lora_weights(tmp_path, adapter_name="style", hotswap=True)
        assert all(torch.equal(*pair) for pair in zip(outputs_of(loaded), again, strict=True))
    assert all(torch.equal(*pair) for pair in zip(outputs_of(loaded), outputs_of(router), strict=True))
    assert [torch.equal(*pair) for pair in zip(outputs_of(loaded), plain, strict=True)] == [False, True, False]


@pytest.mark.parametrize("way", ["adapter", "pipeline"])
def test_half_a_lora_in_a_file_is_refused_for_networks_of_diffusers(way, tmp_path):
    router = three()
    if way == "adapter":
        with_a_lora_in_each().save_lora_adapter(tmp_path, "style")
        file = tmp_path / "expert.2" / "pytorch_lora_weights.safetensors"
    else:
        save_file(lora(StableDiffusionPipeline), file := tmp_path / "pytorch_lora_weights.safetensors")
    weights = load_file(file)
    name = next(name for name in weights if "lora_B" in name)
    save_file({key: value for key, value in weights.items() if key != name}, file)
    with pytest.raises(OSError, match=f" lacks {name} of the LoRA"):
        router.load_lora_adapter(tmp_path, prefix=None if way == "adapter" else "unet", adapter_name="style")
    assert not hasattr(router, "peft_config")


def test_refuses_a_lora_of_another_number_of_experts():
    weights = get_peft_model_state_dict(with_a_lora_in_each(), adapter_name="style")
    router = ExpertRouterUNet.from_unets([tiny_unet(), tiny_unet()], [1.0])
    with pytest.raises(ValueError, match=r"has experts\.2\..*, which belongs to none of the 2 experts"):
        router.load_lora_adapter(weights, prefix=None)
    assert not hasattr(router, "peft_config")


def test_active_adapters_are_those_of_all_experts():
    pipe = build(StableDiffusionPipeline, three())
    for index, name in enumerate(("fine", "middle", "coarse")):
        with pipe.unet.loading_into([index]):
            pipe.unet.add_adapter(LoraConfig(target_modules=["to_q"]), name)
    assert pipe.unet.active_adapters() == ["fine", "middle", "coarse"]
    for names in (["coarse", "fine"], ["middle"]):
        pipe.set_adapters(names)
        assert set(pipe.unet.active_adapters()) == set(pipe.get_active_adapters()) == set(names)
