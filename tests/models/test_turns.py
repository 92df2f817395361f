# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Threads that share pipelines, networks, schedulers and routers draw what each would draw alone.

CALLS_PER_THREAD=20 pytest tests/models/test_turns.py -k eight_threads   # the long form, some minutes
"""

import copy
import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch
from diffusers import EDMEulerScheduler, StableDiffusionPipeline
from helpers import PROMPT, draw, picture, tiny_pipeline, tiny_unet
from helpers_diffusers import build, unet_for
from helpers_lora import low_rank_router

from diffusers_ediffi import EDiffIImg2ImgPipeline, EDiffIPipeline, ExpertRouterUNet, PaintRegion, paint_with_words
from diffusers_ediffi.models.turns import turn
from diffusers_ediffi.models.weight_files import default_dtype_kept

THREADS = 8
CALLS_PER_THREAD = int(os.environ.get("CALLS_PER_THREAD", "2"))
BASE = {"unet_sr256": None, "unet_sr1024": None}
REGIONS = [PaintRegion("red cat", (0.0, 0.0, 0.5, 1.0))]


def drawn_alone_and_together(calls):
    """What calls draw one after the other, and at once in eight threads."""
    alone = [call() for call in calls]
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(
            pool.map(lambda call: call(), [calls[i % len(calls)] for i in range(CALLS_PER_THREAD * THREADS)])
        )
    return [(alone[i % len(calls)], image) for i, image in enumerate(together)]


def plain(pipe, seed):
    return lambda: draw(pipe, generator=torch.Generator().manual_seed(seed))


def painted(pipe, seed):
    return lambda: draw(pipe, generator=torch.Generator().manual_seed(seed), regions=REGIONS, region_strength=1.0)


def from_image(pipe, seed, strength):
    run = {"image": picture(), "strength": strength}
    return lambda: draw(pipe, generator=torch.Generator().manual_seed(seed), **run)


def one_pipeline():
    pipe = tiny_pipeline(**BASE)
    return [plain(pipe, 0), plain(pipe, 1), painted(pipe, 2)]


def twins_of_one_scheduler():
    pipe = tiny_pipeline(**BASE)
    return [plain(pipe, 0), painted(quiet(EDiffIPipeline.from_pipe(pipe)), 1)]


def twins_of_two_schedulers():
    pipe = tiny_pipeline(**BASE)
    return [plain(pipe, 0), painted(quiet(EDiffIPipeline.from_pipe(pipe, scheduler=EDMEulerScheduler())), 1)]


def one_scheduler_alone():
    pipe = tiny_pipeline(**BASE)
    return [plain(pipe, 0), plain(quiet(EDiffIPipeline.from_pipe(pipe, unet=tiny_unet(9))), 1)]


def starts_of_images():
    pipe = quiet(EDiffIImg2ImgPipeline.from_pipe(tiny_pipeline(**BASE)))
    return [from_image(pipe, 0, 0.4), from_image(pipe, 0, 1.0)]


def a_router_and_its_expert():
    unets = [tiny_unet(1), tiny_unet(2)]
    router = ExpertRouterUNet.from_unets(unets, [1.0])
    return [plain(tiny_pipeline(unet=unet, **BASE), i) for i, unet in enumerate((router, router, unets[0]))]


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


KINDS = (
    one_pipeline,
    twins_of_one_scheduler,
    twins_of_two_schedulers,
    one_scheduler_alone,
    starts_of_images,
    a_router_and_its_expert,
)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_eight_threads_draw_what_each_draws_alone(kind):
    assert all(torch.equal(alone, together) for alone, together in drawn_alone_and_together(kind()))


def two_experts(base):
    return ExpertRouterUNet.from_unets([base, tiny_unet(5)], [1.0])


@pytest.mark.parametrize("make", [low_rank_router, two_experts])
def test_loops_of_threads_select_experts_of_one_router(make):
    router = make(tiny_unet(3))
    sample, text = torch.ones(1, 3, 8, 8), torch.ones(1, 77, 16)

    def selected(sigma):
        router.select_expert(sigma)
        outputs = [router(sample, torch.tensor([0.1]), text).sample for _ in range(3)]
        router.reset_expert()
        return outputs

    def by_timestep():
        return [router(sample, torch.tensor([1.0]), text).sample for _ in range(3)]

    calls = [lambda: selected(0.01), lambda: selected(50.0), by_timestep]
    for alone, together in drawn_alone_and_together([torch.no_grad()(call) for call in calls]):
        assert torch.equal(torch.cat(alone), torch.cat(together))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12
def test_a_forked_process_does_not_wait_for_threads_that_it_lacks():
    thing, has_begun, may_end = tiny_unet(), Event(), Event()

    def hold():
        with turn([thing]), default_dtype_kept():
            has_begun.set()
            may_end.wait()

    def draw_too():
        with turn([thing]), default_dtype_kept():
            os._exit(7)

    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(hold)
        has_begun.wait()
        process = multiprocessing.get_context("fork").Process(target=draw_too)
        process.start()
        process.join(20)
        process.kill()
        may_end.set()
        held.result()
    assert process.exitcode == 7


def test_networks_that_were_used_are_copied_and_pickled():
    pipe = tiny_pipeline(unet=low_rank_router(tiny_unet()), **BASE)
    expected = draw(pipe)
    copies = [copy.deepcopy(pipe.unet), pickle.loads(pickle.dumps(pipe.unet))]
    for unet in copies:
        twin = quiet(EDiffIPipeline.from_pipe(pipe, unet=unet, scheduler=copy.deepcopy(pipe.scheduler)))
        assert torch.equal(draw(twin), expected)


def test_a_call_that_fails_ends_its_turn():
    pipe = tiny_pipeline(**BASE)

    def callback(running, step, timestep, tensors):
        raise KeyError("a callback's")

    with pytest.raises(KeyError):
        draw(pipe, callback_on_step_end=callback)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(draw, pipe).result(60).isfinite().all()


def test_saving_takes_turns_with_drawing(tmp_path):
    """A low-rank router turns its network into the base to save it."""
    pipe = tiny_pipeline(unet=low_rank_router(tiny_unet()), **BASE)
    expected = draw(pipe)

    def draw_and_save():
        with ThreadPoolExecutor(2) as pool:
            images = pool.submit(draw, pipe)
            for i in range(3):
                pool.submit(pipe.unet.save_pretrained, tmp_path / str(i)).result(60)
            return images.result(60)

    assert torch.equal(draw_and_save(), expected)
    for i in range(3):
        loaded = ExpertRouterUNet.from_pretrained(tmp_path / str(i))
        assert torch.equal(draw(tiny_pipeline(unet=loaded, **BASE)), expected)


@pytest.mark.parametrize("shared", ["pipeline", "unet", "scheduler"])
def test_a_callback_that_calls_what_the_call_uses_is_refused(shared):
    pipe = tiny_pipeline(**BASE)
    parts = {"unet": {"scheduler": EDMEulerScheduler()}, "scheduler": {"unet": tiny_unet(4)}}
    inner = pipe if shared == "pipeline" else EDiffIPipeline.from_pipe(pipe, **parts[shared])

    def callback(running, step, timestep, tensors):
        inner(PROMPT, num_inference_steps=1)
        return tensors

    expected = draw(pipe)
    with pytest.raises(ValueError, match="a callback calls a pipeline whose networks or schedulers the running call"):
        draw(pipe, callback_on_step_end=callback)
    assert torch.equal(draw(pipe), expected)


def test_a_callback_may_call_a_pipeline_of_other_parts():
    pipe, inner = tiny_pipeline(**BASE), tiny_pipeline(unet=tiny_unet(4), **BASE)
    images = []

    def callback(running, step, timestep, tensors):
        images.append(draw(inner))
        return tensors

    assert torch.equal(draw(pipe, callback_on_step_end=callback), draw(pipe))
    assert all(torch.equal(image, draw(inner)) for image in images)


def test_another_thread_does_not_draw_what_is_painted():
    """Pipelines of diffusers cannot be locked; what would be painted silently is refused."""
    pipe = quiet(build(StableDiffusionPipeline, unet_for(StableDiffusionPipeline)))
    twin = quiet(StableDiffusionPipeline.from_pipe(pipe))
    run = {"num_inference_steps": 2, "output_type": "np", "height": 16, "width": 16}

    def callback(running, step, timestep, tensors):
        with (
            ThreadPoolExecutor(1) as pool,
            pytest.raises(ValueError, match="another pipeline or thread calls this U-Net"),
        ):
            pool.submit(twin, PROMPT, **run).result()
        return tensors

    with paint_with_words(pipe, PROMPT, REGIONS):
        pipe(PROMPT, callback_on_step_end=callback, **run)
        with ThreadPoolExecutor(1) as pool:  # which may be another thread than the block's
            pool.submit(pipe, PROMPT, **run).result()
    twin(PROMPT, **run)
