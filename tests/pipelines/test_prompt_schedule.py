# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Prompts that follow each other: which step begins with which, and what else may be asked for at the same time."""

import copy

import pytest
import torch
from helpers import SIZES, draw, embeddings, picture, seeded, tiny_components, tiny_pipeline

from diffusers_ediffi import EDiffIImg2ImgPipeline, EDMDEISScheduler, ExpertRouterUNet, PaintRegion
from diffusers_ediffi.pipelines.prompt_schedule import PromptSchedule

CAT, DOG = "a red cat", "two blue dogs"
BASE, SR256, SR1024 = SIZES
HOUSE = (0.5, 0.0, 1.0, 1.0)


def scheduled(pipe, *entries, **arguments):
    return draw(pipe, None, prompt_schedule=list(entries), **arguments)


def prompts_of_calls(pipe, unet, **arguments):
    """Draws; returns the first token embeddings (batch, width) of the conditional rows of every call of a network."""
    seen = []

    def look(network, args, kwargs):
        seen.append(args[2] if len(args) > 2 else kwargs["encoder_hidden_states"])

    handle = unet.register_forward_pre_hook(look, with_kwargs=True)
    try:
        draw(pipe, None, **arguments)
    finally:
        handle.remove()
    return seen


def names_of_calls(pipe, unet, prompts, **arguments):
    """The number of the prompt that every call of a network saw."""
    tokens = [embeddings(pipe, prompt)["prompt_embeds"] for prompt in prompts]
    return [
        next(number for number, encoded in enumerate(tokens) if torch.equal(encoded, seen))
        for seen in prompts_of_calls(pipe, unet, **arguments)
    ]


# --- when ---


@pytest.mark.parametrize(
    ("share", "steps", "first"),
    [
        (0.0, 25, 0),
        (0.07, 100, 7),
        (0.07, 25, 2),
        (0.3, 10, 3),
        (0.93, 25, 23),
        (0.5, 5, 3),
        (0.01, 10, 0),
        (1.0, 9, 9),
    ],
)
def test_a_share_is_the_nearest_step(share, steps, first):
    assert PromptSchedule(["a"], [share]).begins(steps, order=1, begin=0) == [first]


def test_shares_count_over_the_steps_that_run():
    """Of 20 timesteps the last 10 run: a third of them is three."""
    assert PromptSchedule(["a", "b"], [0.0, 1 / 3]).begins(20, order=1, begin=10) == [10, 13]


def test_no_prompt_begins_inside_a_runge_kutta_step():
    """Kutta's method calls the network three times a step, and once to end at zero: 26 steps in 76 calls."""
    schedule = PromptSchedule(["a"] * 40, [i / 40 for i in range(40)])
    begins = schedule.begins(76, order=3, begin=0)
    assert all(begin % 3 == 0 for begin in begins) and begins[20] == 13 * 3 and max(begins) == 75


def test_each_step_sees_its_prompt(base_pipe):
    schedule = [("a cat", 0.0), (DOG, 0.3), ("an owl", 0.8)]
    run = {"prompt_schedule": schedule, "num_inference_steps": 10, "guidance_scale": 1.0}
    seen = names_of_calls(base_pipe, base_pipe.unet, [text for text, _ in schedule], **run)
    assert seen == [0] * 3 + [1] * 5 + [2] * 2


def test_all_calls_of_a_runge_kutta_step_see_one_prompt(base_pipe):
    base_pipe.scheduler = EDMDEISScheduler.from_preset("paper_base")
    run = {"prompt_schedule": [(CAT, 0.0), (DOG, 0.4)], "num_inference_steps": 3, "guidance_scale": 1.0}
    assert names_of_calls(base_pipe, base_pipe.unet, [CAT, DOG], **run) == [0] * 6 + [1] * 4  # 0.4 of 4 steps: 2


def test_a_later_start_counts_from_there(base_pipe, monkeypatch):
    monkeypatch.setattr(base_pipe, "_begin_index", lambda stage: 4)
    run = {"prompt_schedule": [(CAT, 0.0), (DOG, 0.5)], "num_inference_steps": 8, "guidance_scale": 1.0}
    assert names_of_calls(base_pipe, base_pipe.unet, [CAT, DOG], **run) == [0, 0, 1, 1]


@pytest.mark.parametrize("share", [0.4, 1.0])
def test_super_resolution_sees_the_last_prompt(pipe, share):
    run = {"prompt_schedule": [(CAT, 0.0), (DOG, share)], "guidance_scale": 1.0, "num_inference_steps": 2}
    base = names_of_calls(pipe, pipe.unet, [CAT, DOG], **run)
    assert base == ([0, 1] if share < 1 else [0, 0])
    for unet in (pipe.unet_sr256, pipe.unet_sr1024):
        assert set(names_of_calls(pipe, unet, [CAT, DOG], **run)) == {1}


def test_super_resolution_alone_sees_the_last_prompt(pipe):
    edit = EDiffIImg2ImgPipeline.from_pipe(pipe)
    run = {"prompt_schedule": [(CAT, 0.0), (DOG, 0.4)], "guidance_scale": 1.0, "num_inference_steps": 2}
    run |= {"image": picture(), "strength": (0, 0, 1)}
    assert set(names_of_calls(edit, pipe.unet_sr1024, [CAT, DOG], **run)) == {1}


def test_all_prompts_are_encoded_before_the_first_step(base_pipe):
    events = []
    parts = {name: copy.deepcopy(getattr(base_pipe, name)) for name in ("text_encoder", "text_encoder_2", "unet")}
    for name, part in parts.items():
        setattr(base_pipe, name, part)
        part.register_forward_pre_hook(lambda *_, name=name: events.append(name))
    scheduled(base_pipe, (CAT, 0.0), (DOG, 0.5), ("an owl", 0.9), num_inference_steps=3)
    assert events == ["text_encoder", "text_encoder_2"] * 3 + ["unet"] * 3


# --- what is drawn ---


def test_one_entry_is_a_plain_prompt(pipe):
    assert torch.equal(scheduled(pipe, (CAT, 0.0), guidance_scale=3.0), draw(pipe, CAT, guidance_scale=3.0))


def test_a_share_of_one_never_switches_the_base(base_pipe):
    assert torch.equal(scheduled(base_pipe, (CAT, 0), (DOG, 1)), draw(base_pipe, CAT))


def test_a_switch_to_the_same_prompt_changes_nothing(pipe):
    assert torch.equal(
        scheduled(pipe, (CAT, 0), (CAT, 0.5), negative_prompt="mist"), draw(pipe, CAT, negative_prompt="mist")
    )


def test_a_switch_leaves_the_first_steps_alone(base_pipe):
    def samples(**arguments):
        kept = []
        draw(
            base_pipe,
            num_inference_steps=4,
            guidance_scale=3.0,
            negative_prompt="mist",
            callback_on_step_end=lambda pipe, i, t, tensors: kept.append(tensors["latents"]) or {},
            **arguments,
        )
        return kept

    plain, switched = samples(prompt=CAT), samples(prompt=None, prompt_schedule=[(CAT, 0.0), (DOG, 0.5)])
    assert [torch.equal(a, b) for a, b in zip(plain, switched, strict=True)] == [True, True, False, False]


def test_batches(base_pipe):
    """An entry is a prompt for each row, or one for all of them; the images of a row follow each other."""
    generators = [seeded(seed) for seed in range(4)]
    images = scheduled(
        base_pipe,
        ([CAT, "an owl"], 0.0),
        (DOG, 0.5),
        num_images_per_prompt=2,
        generator=generators,
        guidance_scale=3.0,
        style_image=picture(),
    )
    for number, prompt in enumerate((CAT, CAT, "an owl", "an owl")):
        run = {"generator": seeded(number), "guidance_scale": 3.0, "style_image": picture()}
        alone = scheduled(base_pipe, (prompt, 0.0), (DOG, 0.5), **run)
        torch.testing.assert_close(images[number], alone[0], atol=1e-3, rtol=1e-3)


def test_with_experts():
    """A router of identical experts draws what one network draws."""
    unet = tiny_components()["unet"]
    routed = ExpertRouterUNet.from_unets([copy.deepcopy(unet) for _ in range(2)], [1.0])
    alone = {"unet_sr256": None, "unet_sr1024": None, "scheduler_sr256": None, "scheduler_sr1024": None}
    images = [
        scheduled(tiny_pipeline(unet=network, **alone), (CAT, 0.0), (DOG, 0.5), num_inference_steps=4)
        for network in (unet, routed)
    ]
    assert torch.equal(*images)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    parts = {
        name: copy.deepcopy(part).to(dtype)
        for name, part in tiny_components().items()
        if isinstance(part, torch.nn.Module)
    }
    pipe = tiny_pipeline(**parts)
    images = scheduled(pipe, (CAT, 0.0), (DOG, 0.5), height=SR256)
    assert images.isfinite().all() and not torch.equal(images, draw(pipe, CAT, height=SR256))


def test_a_callback_holds_until_the_next_prompt(base_pipe):
    changed = embeddings(base_pipe, "an owl")

    def owl(pipe, step, timestep, tensors):
        assert tensors["prompt_embeds"].shape[1] == 77
        return changed if step == 0 else {}

    run = {
        "prompt_schedule": [(CAT, 0.0), (DOG, 0.5)],
        "num_inference_steps": 4,
        "guidance_scale": 1.0,
        "callback_on_step_end": owl,
        "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"],
    }
    assert names_of_calls(base_pipe, base_pipe.unet, [CAT, DOG, "an owl"], **run) == [0, 2, 1, 1]


# --- with regions ---


def test_a_region_is_painted_while_its_prompt_holds(base_pipe):
    """Before the switch to the prompt with the house nothing is painted, after it the house is."""
    schedule = [("a red cat", 0.0), ("a blue house", 0.5)]

    def samples(**arguments):
        kept = []
        draw(
            base_pipe,
            None,
            prompt_schedule=schedule,
            num_inference_steps=4,
            guidance_scale=3.0,
            callback_on_step_end=lambda pipe, i, t, tensors: kept.append(tensors["latents"]) or {},
            **arguments,
        )
        return kept

    plain = samples()
    house = samples(regions=[PaintRegion("blue house", HOUSE)], region_strength=2.0)
    cat = samples(regions=[PaintRegion("red cat", HOUSE)], region_strength=2.0)
    for first, second in zip(plain[:2], house[:2], strict=True):
        torch.testing.assert_close(first, second, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(plain[2], house[2], atol=1e-2)
    assert not torch.allclose(plain[0], cat[0], atol=1e-2)


def test_regions_of_one_prompt_throughout_equal_the_plain_call(base_pipe):
    regions = [PaintRegion("red cat", HOUSE, seed=3), PaintRegion("cat", (0.0, 0.0, 0.5, 1.0))]
    run = {"regions": regions, "region_strength": 1.0, "guidance_scale": 3.0}
    assert torch.equal(scheduled(base_pipe, (CAT, 0.0), (CAT, 0.5), **run), draw(base_pipe, CAT, **run))


def test_super_resolution_paints_the_last_prompt(pipe):
    last, first = ([PaintRegion(phrase, HOUSE)] for phrase in ("blue house", "red cat"))
    schedule = [("a red cat", 0.0), ("a blue house", 1.0)]
    run = {"height": SR256, "region_strength": (0.0, 20.0)}
    plain = scheduled(pipe, *schedule, height=SR256)
    changes = [(scheduled(pipe, *schedule, regions=regions, **run) - plain).abs().max() for regions in (first, last)]
    assert changes[1] > 100 * changes[0], "the phrase of the last prompt is painted, that of the first is not"


def test_regions_for_each_row(base_pipe):
    schedule = ([CAT, DOG], 0.0), (["an owl", "two blue dogs on ice"], 0.5)
    regions = [[PaintRegion("owl", HOUSE)], [PaintRegion("blue dogs", HOUSE)]]
    run = {"region_strength": 1.0, "guidance_scale": 3.0}
    images = scheduled(base_pipe, *schedule, regions=regions, generator=[seeded(1), seeded(2)], **run)
    for row in range(2):
        of_row = [(texts[row], share) for texts, share in schedule]
        alone = scheduled(base_pipe, *of_row, regions=regions[row], generator=seeded(1 + row), **run)
        torch.testing.assert_close(images[row], alone[0], atol=1e-3, rtol=1e-3)


# --- bad input ---

BAD_SCHEDULES = {
    "a text": ("a cat", "must be a list"),
    "empty": ([], "must be a list"),
    "no shares": (["a cat", "a dog"], "must be a list"),
    "not from the start": ([(CAT, 0.1)], "start with 0"),
    "out of order": ([(CAT, 0.0), (DOG, 0.5), (CAT, 0.3)], "out of order"),
    "twice the same share": ([(CAT, 0.0), (DOG, 0.0)], "out of order"),
    "a share in per cent": ([(CAT, 0.0), (DOG, 30)], "from 0 to 1"),
    "a share that is NaN": ([(CAT, 0.0), (DOG, float("nan"))], "from 0 to 1"),
    "a share that is a text": ([(CAT, 0.0), (DOG, "0.3")], "from 0 to 1"),
    "an empty prompt": ([(CAT, 0.0), (" ", 0.3)], "none of them empty"),
    "a prompt that is a number": ([(CAT, 0.0), (3, 0.3)], "3 in prompt_schedule"),
    "lists of several lengths": ([([CAT, DOG], 0.0), ([DOG] * 3, 0.3)], "[2, 3] prompts"),
}


@pytest.mark.parametrize("case", BAD_SCHEDULES)
def test_bad_schedules_are_refused(pipe, case):
    schedule, message = BAD_SCHEDULES[case]
    with pytest.raises(ValueError) as error:
        draw(pipe, None, prompt_schedule=schedule)
    assert message in str(error.value)


def test_a_schedule_beside_what_it_replaces_is_refused(base_pipe):
    schedule = [(CAT, 0.0), (DOG, 0.5)]
    for arguments in ({"prompt": CAT}, {"prompt": None, **embeddings(base_pipe)}):
        with pytest.raises(ValueError, match="either prompt_schedule or prompt"):
            draw(base_pipe, prompt_schedule=schedule, **arguments)
    with pytest.raises(ValueError, match="'house' is in no prompt of prompt_schedule"):
        scheduled(base_pipe, *schedule, regions=[PaintRegion("house", HOUSE)])
