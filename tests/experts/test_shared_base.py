# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Low-rank experts of one network: that switching equals full experts, how little room they take, what is on disk."""

import copy
import json
import shutil

import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from helpers import tiny_pipeline
from helpers import tiny_unet as tiny_ediffi_unet
from helpers_lora import BOUNDARIES, KINDS, SIGMAS, inputs, low_rank_router, output, tiny_unet, trained
from safetensors.torch import load_file, save_file

from diffusers_ediffi import ExpertRouterUNet, factorize_expert
from diffusers_ediffi.experts.shared_base import LoraExperts
from diffusers_ediffi.models.unet import EDiffIUNet

# --- switching ---


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_switching_equals_merged_experts(make):
    base = make(0)
    low_rank = [factorize_expert(base, trained(base, seed), rank=2) for seed in (1, 2, 3)]
    plain = ExpertRouterUNet.from_unets([expert.merge(base) for expert in low_rank], BOUNDARIES)
    expected = {sigma: output(plain, sigma) for sigma in SIGMAS}
    router = ExpertRouterUNet.from_lora_experts(base, low_rank, BOUNDARIES)
    for sigma in (*SIGMAS, *reversed(SIGMAS), *SIGMAS):  # whichever was there before
        torch.testing.assert_close(output(router, sigma), expected[sigma], rtol=1e-5, atol=1e-5)
        assert router.select_expert(sigma) == SIGMAS.index(sigma)
        torch.testing.assert_close(output(router, 1.0), output(plain.experts[SIGMAS.index(sigma)], 1.0))
        router.reset_expert()


def test_experts_may_differ_in_what_they_change():
    """One expert is the base, one a bias, one a layer: what the others change is the base's again."""
    base = tiny_unet()
    bias, layer = copy.deepcopy(base), copy.deepcopy(base)
    torch.nn.init.ones_(bias.conv_out.bias)
    torch.nn.init.ones_(layer.conv_out.weight)
    full = [copy.deepcopy(base), bias, layer]
    low_rank = [factorize_expert(base, expert, rank=4) for expert in full]
    router = ExpertRouterUNet.from_lora_experts(base, low_rank, BOUNDARIES)
    for sigma in (*reversed(SIGMAS), *SIGMAS):
        expected = output(full[SIGMAS.index(sigma)], sigma)
        torch.testing.assert_close(output(router, sigma), expected, rtol=1e-5, atol=1e-5)


def test_an_expert_keeps_the_interval_it_was_trained_on():
    base = tiny_ediffi_unet(0)
    low, high = trained(base, 1), trained(base, 2)
    low.register_to_config(trained_on=[[0.0, 1.0]])
    high.register_to_config(trained_on=[[1.0, 80.0]])
    low_rank = [factorize_expert(base, expert, 2) for expert in (low, high)]
    with pytest.raises(ValueError, match="expert.0 is asked for"):
        ExpertRouterUNet.from_lora_experts(base, low_rank, [2.0])
    router = ExpertRouterUNet.from_lora_experts(base, low_rank, [1.0])  # the base is as before the refusal
    assert router.select_expert(80.0) == 1
    with pytest.raises(ValueError, match=r"expert.1 is asked for sigma 200 but was trained on \[1, 80\)"):
        router.select_expert(200.0)
    assert "trained_on" not in router.config


def test_a_refused_router_gives_the_base_back():
    base = tiny_unet()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    low_rank = factorize_expert(base, trained(base, 1), 2)
    with pytest.raises(ValueError, match="outside the scheduler's sigmas"):
        ExpertRouterUNet.from_lora_experts(base, [low_rank] * 2, [5e3], scheduler=DDPMScheduler())
    after = base.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert not hasattr(base, "peft_config") and {name for name, _ in base.named_buffers()} <= set(before)


def test_the_cascade_draws_the_same_image(tmp_path):
    base = tiny_ediffi_unet(4)
    low_rank = [factorize_expert(base, trained(base, seed), rank=2) for seed in (1, 2, 3)]
    plain = ExpertRouterUNet.from_unets([expert.merge(base) for expert in low_rank], BOUNDARIES)
    router = ExpertRouterUNet.from_lora_experts(base, low_rank, BOUNDARIES)
    stages = ("unet_sr256", "unet_sr1024", "scheduler_sr256", "scheduler_sr1024")

    def draw(pipe):
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        return pipe("a cat", num_inference_steps=6, generator=generator, output_type="pt").images

    pipe = tiny_pipeline(unet=router, **dict.fromkeys(stages))
    images = draw(pipe)
    torch.testing.assert_close(images, draw(tiny_pipeline(unet=plain, **dict.fromkeys(stages))), rtol=1e-5, atol=1e-5)
    pipe.save_pretrained(tmp_path, variant="x")
    loaded = DiffusionPipeline.from_pretrained(tmp_path, variant="x")
    torch.testing.assert_close(draw(loaded), images, rtol=1e-5, atol=1e-5)
    # accelerate needs a device to offload to; the CPU serves, and the hooks run
    pipe.enable_model_cpu_offload(device="cpu")
    torch.testing.assert_close(draw(pipe), images, rtol=1e-5, atol=1e-5)


def test_group_offload_leaves_the_outputs():
    router = low_rank_router(tiny_ediffi_unet(0))
    expected = {sigma: output(router, sigma) for sigma in SIGMAS}
    cpu = torch.device("cpu")
    with pytest.raises(ValueError, match="leave offload_to_disk_path out"):
        router.enable_group_offload(cpu, cpu, offload_to_disk_path="anywhere")
    router.enable_group_offload(cpu, cpu, offload_type="leaf_level")
    for sigma in (*reversed(SIGMAS), *SIGMAS):
        assert torch.equal(output(router, sigma), expected[sigma])


def test_detaching_gives_the_base_back():
    base = tiny_ediffi_unet(0)
    before = output(base, 1.0)
    low_rank = [factorize_expert(base, trained(base, seed), 2) for seed in (1, 2)]
    shared = LoraExperts(base, low_rank)
    shared.select(1)
    assert not torch.allclose(output(base, 1.0), before, atol=1e-3)
    shared.detach()
    assert isinstance(base, EDiffIUNet) and torch.equal(output(base, 1.0), before)
    assert all(parameter.requires_grad for parameter in base.parameters())


# --- room ---


def num_bytes(module: torch.nn.Module) -> int:
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def bytes_on_disk(folder) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_three_experts_take_little_more_room_than_one(tmp_path):
    base = tiny_unet(block_out_channels=(128,), norm_num_groups=32)
    size = num_bytes(base)
    router = low_rank_router(base, rank=2)
    assert size < num_bytes(router) <= 1.2 * size
    base.lora_experts.base().save_pretrained(tmp_path / "one")
    router.save_pretrained(tmp_path / "three")
    assert bytes_on_disk(tmp_path / "three") <= 1.2 * bytes_on_disk(tmp_path / "one")


# --- on disk ---


def folders_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    low_rank_router(tiny_unet()).save_pretrained(folder)
    return folder


@pytest.fixture
def saved(saved_once, tmp_path):
    """A saved router that a test may damage."""
    return shutil.copytree(saved_once, tmp_path / "saved")


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_save_and_load_give_the_same_router(make, tmp_path):
    base = make(0)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    router = low_rank_router(base)
    outputs = {sigma: output(router, sigma) for sigma in SIGMAS}
    router.save_pretrained(tmp_path)
    assert folders_in(tmp_path) == ["expert.0", "expert.1", "expert.2", "expert.base"]
    alone = type(base).from_pretrained(tmp_path / "expert.base").state_dict()
    assert alone.keys() == before.keys() and all(torch.equal(alone[name], before[name]) for name in before)
    for dtype in ("auto", None):  # mapped from the files first: switching leaves these alone
        loaded = ExpertRouterUNet.from_pretrained(tmp_path, dtype=dtype)
        assert loaded.config.shared_base and loaded.boundaries == BOUNDARIES
        for sigma in SIGMAS:
            torch.testing.assert_close(output(loaded, sigma), outputs[sigma], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(output(router, sigma), outputs[sigma])  # saving has left it as it was


def test_a_variant_and_its_dtype(tmp_path):
    router = low_rank_router(tiny_unet())
    router.save_pretrained(tmp_path)
    router.to(torch.bfloat16).save_pretrained(tmp_path, variant="bf16")
    loaded = ExpertRouterUNet.from_pretrained(tmp_path, variant="bf16", dtype="auto")
    stored = load_file(tmp_path / "expert.1" / "diffusion_pytorch_model.bf16.safetensors")
    assert {tensor.dtype for tensor in (*loaded.parameters(), *stored.values())} == {torch.bfloat16}
    cast = {name: tensor.bfloat16() for name, tensor in inputs(loaded).items()}
    for sigma in SIGMAS:
        torch.testing.assert_close(output(loaded, sigma, **cast), output(router, sigma, **cast))
    assert ExpertRouterUNet.from_pretrained(tmp_path, variant="bf16").dtype == torch.float32


def test_config_alone_builds_the_base(saved):
    built = ExpertRouterUNet.from_config(ExpertRouterUNet.load_config(saved))
    assert built.config.shared_base and len(built.experts) == 3
    assert len({id(expert) for expert in built.experts}) == 1 and built.select_expert(80.0) == 2


# --- refusals ---


def test_refuses_boundaries_before_it_touches_the_base():
    base = tiny_unet()
    low_rank = factorize_expert(base, trained(base, 1), 2)
    with pytest.raises(ValueError, match="N - 1"):
        ExpertRouterUNet.from_lora_experts(base, [low_rank] * 2, [])
    assert not hasattr(base, "peft_config")


def test_refuses_what_is_no_low_rank_expert_of_this_base():
    base = tiny_unet()
    with pytest.raises(TypeError, match="expert.0 is a UNet2DConditionModel, not a LoraExpert"):
        ExpertRouterUNet.from_lora_experts(base, [tiny_unet()], [])
    other = factorize_expert(tiny_ediffi_unet(0), trained(tiny_ediffi_unet(0), 1), 2)
    with pytest.raises(ValueError, match="expert.0 has .*, which the base has no place for"):
        ExpertRouterUNet.from_lora_experts(base, [other], [])
    low_rank_router(base)
    with pytest.raises(ValueError, match=r"the base has the adapters \['expert_0', .*fuse or unload them first"):
        low_rank_router(base)
    with pytest.raises(ValueError, match="2 experts hold a network of 3 low-rank experts"):
        ExpertRouterUNet.from_unets([base, base], [1.0])


def test_takes_no_further_lora():
    base = tiny_unet()
    factors = {
        name: tensor
        for name, tensor in factorize_expert(base, trained(base, 1), 1).weights.items()
        if ".lora_" in name
    }
    router = low_rank_router(base)
    for refused in (lambda: router.load_lora_adapter(factors, prefix=None), router.fuse_lora):
        with pytest.raises(ValueError, match="take no further LoRA: make full experts of them by LoraExpert.merge"):
            refused()
    before = output(router, 1.0)
    router.unload_lora()
    assert not hasattr(router, "peft_config") and torch.equal(output(router, 1.0), before)


def _edit_weights(folder, change):
    file = folder / "expert.1" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.update({"conv_in.bias": torch.ones(3)}), r"conv_in.bias of shape \(3,\), which does not fit"),
        (lambda w: w.update({"conv_in.lora_A.weight": torch.ones(2, 4)}), r"conv_in.lora_. .*does not fit|shape"),
        (lambda w: w.update({"other.weight": torch.ones(1)}), "other.weight, which the base has no place for"),
        (lambda w: w["conv_in.bias"].fill_(float("nan")), "conv_in.bias with values that are not finite"),
    ],
)
def test_refuses_a_damaged_expert(saved, change, message):
    _edit_weights(saved, change)
    with pytest.raises(ValueError, match=f"expert.1 has .*{message}"):
        ExpertRouterUNet.from_pretrained(saved)


def test_names_a_tensor_that_an_expert_lacks(saved):
    _edit_weights(saved, lambda w: w.pop("conv_in.lora_B.weight"))
    with pytest.raises(OSError, match="expert.1.* lacks conv_in.lora_B.weight"):
        ExpertRouterUNet.from_pretrained(saved)
    (saved / "experts.json").write_text('{"experts": []}')  # as they were saved before they listed tensors
    with pytest.raises(ValueError, match="expert.1 has .*conv_in.lora_A.weight without its other factor"):
        ExpertRouterUNet.from_pretrained(saved)


def test_refuses_missing_and_truncated_files(saved):
    file = saved / "expert.2" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(OSError, match="expert.2/diffusion_pytorch_model.safetensors is damaged or truncated"):
        ExpertRouterUNet.from_pretrained(saved)
    file.unlink()
    with pytest.raises(OSError, match="expert.2 has no weights"):
        ExpertRouterUNet.from_pretrained(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config["unets"][1].update(folder="../elsewhere"), "'../elsewhere'; only 'expert.1'"),
        (lambda config: config["unets"][0].update(library="os"), "'os'; experts come from"),
        (lambda config: config["unets"][1].update(class_name="AutoencoderKL"), "of one class"),
    ],
)
def test_refuses_a_stranger_s_config(saved, change, message):
    config = json.loads((saved / "config.json").read_text())
    change(config)
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        ExpertRouterUNet.from_pretrained(saved)
