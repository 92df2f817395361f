# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Where the experts of a router live: one at a time on the device, groups of layers, devices of their own.

To accelerate, `cpu:0` is another device than `cpu`, and to torch it is the same memory. So model offload to `cpu:0`
runs as it does with an accelerator, numbers included, and the experts write down where they were sent.
"""

import copy

import pytest
import torch
from accelerate import cpu_offload
from diffusers import DDPMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from helpers import tiny_components, tiny_pipeline, tiny_unet
from helpers_diffusers import SD_BETAS, build, draw, inputs, lora, three_experts, unet_for

from diffusers_ediffi import EDiffIPipeline, ExpertRouterUNet
from diffusers_ediffi.experts.offload import call_where_it_lives, execution_device

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # diffusers 0.42 on numpy 2.4
]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICE = torch.device("cpu:0")


class LocatedUNet(UNet2DConditionModel):
    """A U-Net that knows where it was sent."""

    on_device = False

    def to(self, *args, **kwargs):
        self.on_device = DEVICE in args
        return super().to(*args, **kwargs)


def located_experts(pipeline) -> ExpertRouterUNet:
    unets = []
    for _ in range(3):
        unet = unet_for(pipeline)
        unets.append(LocatedUNet(**{k: v for k, v in unet.config.items() if not k.startswith("_")}).eval())
        unets[-1].load_state_dict(unet.state_dict())
    return ExpertRouterUNet.from_unets(unets, [1.0, 5.0], scheduler=DDPMScheduler(**SD_BETAS))


def residents(router) -> list[tuple[int, set[int]]]:
    """From now on, of each call: which expert ran, and which were on the device."""
    calls = []
    for i, expert in enumerate(router.experts):
        expert.register_forward_hook(
            lambda *_, i=i: calls.append((i, {j for j, e in enumerate(router.experts) if e.on_device}))
        )
    return calls


@pytest.mark.parametrize("prefetch", [False, True])
@pytest.mark.parametrize("pipeline", [StableDiffusionPipeline, StableDiffusionXLPipeline])
def test_model_offload_moves_one_expert_at_a_time(pipeline, prefetch):
    router = located_experts(pipeline)
    pipe = build(pipeline, router)
    expected = draw(pipe)
    router.enable_expert_prefetch(prefetch)
    pipe.enable_model_cpu_offload(device="cpu")
    assert execution_device(router) == DEVICE
    calls = residents(router)
    for _ in range(2):  # the second call finds everything back on the CPU
        calls.clear()
        assert torch.equal(draw(pipe), expected)
        assert {ran for ran, _ in calls} == {0, 1, 2}
        for ran, on_device in calls:
            assert on_device == ({ran, max(ran - 1, 0)} if prefetch else {ran})
        assert not any(expert.on_device for expert in router.experts)


def test_the_share_of_parameters_on_the_device_is_one_expert_s():
    """At most 1.1 times one expert without prefetch, 2.1 with it."""
    router = located_experts(StableDiffusionPipeline)
    pipe = build(StableDiffusionPipeline, router)
    sizes = [sum(p.numel() for p in expert.parameters()) for expert in router.experts]
    for prefetch, limit in ((False, 1.1), (True, 2.1)):
        router.enable_expert_prefetch(prefetch)
        pipe.enable_model_cpu_offload(device="cpu")
        calls = residents(router)
        draw(pipe)
        assert max(sum(sizes[i] for i in on_device) for _, on_device in calls) <= limit * max(sizes)


def test_the_first_parameter_is_one_on_the_device():
    """accelerate asks for its device, to know whether the router has to leave before the VAE comes."""
    router = located_experts(StableDiffusionPipeline)
    order = [id(parameter) for parameter in router.parameters()]
    build(StableDiffusionPipeline, router).enable_model_cpu_offload(device="cpu")
    router(**inputs(), timestep=900)
    assert next(router.parameters()) is next(router.experts[2].parameters())
    assert sorted(id(parameter) for parameter in router.parameters()) == sorted(order)
    router.to("cpu")
    assert not any(expert.on_device for expert in router.experts)
    assert [id(parameter) for parameter in router.parameters()] == order


def test_offloading_can_be_taken_back():
    router = located_experts(StableDiffusionPipeline)
    pipe = build(StableDiffusionPipeline, router)
    expected = draw(pipe)
    pipe.enable_model_cpu_offload(device="cpu")
    draw(pipe)
    pipe.remove_all_hooks()
    assert execution_device(router) is None
    assert torch.equal(draw(pipe), expected)


def test_sequential_offload_leaves_the_inputs_to_accelerate():
    """The weights are on "meta" between the calls, which is no place to send inputs to."""
    router = three_experts(StableDiffusionPipeline)
    expected = [router(**inputs(), timestep=t).sample for t in (900, 500, 10)]
    cpu_offload(router, torch.device("cpu"))
    assert {parameter.device.type for parameter in router.parameters()} == {"meta"}
    outputs = [router(**inputs(), timestep=t).sample for t in (900, 500, 10)]
    assert all(torch.equal(*pair) for pair in zip(outputs, expected, strict=True))


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")  # of peft, for a second LoRA
def test_a_lora_loads_under_model_offload():
    router = located_experts(StableDiffusionPipeline)
    pipe, single = (
        build(StableDiffusionPipeline, router),
        build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline)),
    )
    pipe.enable_model_cpu_offload(device="cpu")
    for loaded in (pipe, single):
        loaded.load_lora_weights(lora(StableDiffusionPipeline))
    assert execution_device(router) == DEVICE
    calls = residents(router)
    assert torch.equal(draw(pipe), draw(single))
    assert all(on_device == {ran} for ran, on_device in calls)


def grouped(router) -> list[bool]:
    """Of each expert, whether parts of it are offloaded on their own (and not the expert as one part)."""
    first = [expert.down_blocks[0].resnets[0].conv1 for expert in router.experts]
    blocks = [[expert.down_blocks[0], conv] for expert, conv in zip(router.experts, first, strict=True)]
    hooks = [[getattr(part, "_diffusers_hook", None) for part in parts] for parts in blocks]
    return [any(hook and hook.get_hook("group_offloading") for hook in found) for found in hooks]


@pytest.mark.parametrize("offload_type", ["block_level", "leaf_level"])
def test_group_offload_is_that_of_each_expert(offload_type):
    pipe = build(StableDiffusionPipeline, three_experts(StableDiffusionPipeline))
    expected = draw(pipe)
    settings = {"onload_device": torch.device("cpu"), "offload_type": offload_type, "num_blocks_per_group": 1}
    pipe.unet.enable_group_offload(**settings)
    assert torch.equal(draw(pipe), expected)
    assert grouped(pipe.unet) == [True, True, True]
    pipe.load_lora_weights(lora(StableDiffusionPipeline))
    single = build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline))
    single.load_lora_weights(lora(StableDiffusionPipeline))
    assert torch.equal(draw(pipe), draw(single))
    assert grouped(pipe.unet) == [True, True, True]


def test_group_offload_to_disk_keeps_the_experts_apart(tmp_path):
    pipe = build(
        StableDiffusionPipeline,
        ExpertRouterUNet.from_unets([unet_for(StableDiffusionPipeline, i) for i in range(3)], [200, 700], "timestep"),
    )
    expected = draw(pipe)
    pipe.unet.enable_group_offload(torch.device("cpu"), offload_type="leaf_level", offload_to_disk_path=str(tmp_path))
    assert torch.equal(draw(pipe), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expert.0", "expert.1", "expert.2"]


def test_group_offload_of_the_whole_pipeline():
    pipe = build(StableDiffusionPipeline, three_experts(StableDiffusionPipeline))
    expected = draw(pipe)
    pipe.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    assert torch.equal(draw(pipe), expected)


def test_layerwise_casting_stores_less_and_spares_what_the_experts_spare():
    pipe = build(StableDiffusionPipeline, three_experts(StableDiffusionPipeline))
    expected = draw(pipe)
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    dtypes = {expert.mid_block.attentions[0].proj_in.weight.dtype for expert in pipe.unet.experts}
    assert dtypes == {torch.float8_e4m3fn}
    assert {expert.conv_norm_out.weight.dtype for expert in pipe.unet.experts} == {torch.float32}
    assert pipe.unet.dtype == torch.float32
    torch.testing.assert_close(draw(pipe), expected, rtol=0.3, atol=0.3 * expected.abs().max().item())


def test_an_expert_on_the_device_of_its_inputs_is_called_as_it_is():
    unet = tiny_unet()
    router = ExpertRouterUNet.from_unets([unet], [])
    sample = torch.randn(1, 3, 8, 8)
    output = call_where_it_lives(unet, (sample, 0.0, None), {}, return_dict=False)[0]
    assert torch.equal(output, router(sample, 0.0).sample)


def ediffi_pipeline() -> EDiffIPipeline:
    """The whole cascade on routers of two experts each."""
    components = tiny_components()
    routers = {
        name: ExpertRouterUNet.from_unets([copy.deepcopy(components[name]) for _ in range(2)], [1.0])
        for name in ("unet", "unet_sr256")
    }
    return tiny_pipeline(**routers)


def test_model_offload_of_the_cascade():
    pipe, run = ediffi_pipeline(), {"num_inference_steps": 4, "output_type": "pt"}
    expected = pipe("a cat", generator=torch.Generator().manual_seed(0), **run).images
    pipe.enable_model_cpu_offload(device="cpu")
    hooked = {name for name, part in pipe.components.items() if hasattr(part, "_hf_hook")}
    assert hooked == {"text_encoder", "text_encoder_2", "image_encoder", "unet", "unet_sr256", "unet_sr1024"}
    assert hooked == set(pipe.model_cpu_offload_seq.split("->"))
    assert torch.equal(pipe("a cat", generator=torch.Generator().manual_seed(0), **run).images, expected)


def test_regional_compile():
    """The repeated blocks of all experts are captured whole; what a backend then makes of them is PyTorch's matter."""
    pipe = ediffi_pipeline()
    call = {"num_inference_steps": 2, "output_type": "latent"}
    expected = pipe("a cat", generator=torch.Generator().manual_seed(0), **call).images
    for unet in (pipe.unet, pipe.unet_sr256, pipe.unet_sr1024):
        unet.compile_repeated_blocks(fullgraph=True, backend="eager")
    blocks = [m for m in pipe.unet.modules() if type(m).__name__ in pipe.unet._repeated_blocks]
    assert blocks and all(block._compiled_call_impl is not None for block in blocks)
    images = pipe("a cat", generator=torch.Generator().manual_seed(0), **call).images
    torch.testing.assert_close(images, expected, atol=1e-5, rtol=1e-5)


# --- on a GPU ---


@needs_cuda
def test_each_expert_may_live_on_a_device_of_its_own():
    router = three_experts(StableDiffusionPipeline)
    expected = router(**inputs(), timestep=900).sample
    router.experts[2].to("cuda")
    output = router(**inputs(), timestep=900).sample
    assert output.device.type == "cpu"
    torch.testing.assert_close(output, expected, atol=1e-3, rtol=1e-3)


@needs_cuda
@pytest.mark.parametrize("prefetch", [False, True])
def test_memory_of_model_offload_on_cuda(prefetch):
    """The peak over what the call itself takes: at most 1.1 times one expert, 2.1 with prefetch."""
    pipe = build(StableDiffusionPipeline, three_experts(StableDiffusionPipeline)).to("cuda")
    expected = draw(pipe)
    pipe.unet.enable_expert_prefetch(prefetch)
    pipe.enable_model_cpu_offload()
    torch.testing.assert_close(draw(pipe), expected)
    on_cuda = []
    for expert in pipe.unet.experts:
        expert.register_forward_hook(
            lambda *_: on_cuda.append(sum(p.numel() for p in pipe.unet.parameters() if p.is_cuda))
        )
    draw(pipe)
    size = sum(p.numel() for p in pipe.unet.experts[0].parameters())
    assert max(on_cuda) <= (2.1 if prefetch else 1.1) * size
