# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Hostile arguments of pipelines and of the command line, and hostile scenes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import PROMPT, picture, seeded, tiny_pipeline
from helpers_fuzz import Case, damaged, damaged_bytes, values
from hypothesis import strategies as st

from diffusers_ediffi import EDiffIImg2ImgPipeline, EDiffIInpaintPipeline, EDMDEISScheduler, PaintRegion
from diffusers_ediffi.cli.main import main

BASE = {"unet_sr256": None, "unet_sr1024": None, "scheduler_sr256": None, "scheduler_sr1024": None}
# Of a call that draws; `hostile` changes some.
CALL = {
    **{"prompt": PROMPT, "negative_prompt": "a dog", "height": 8, "width": 8, "num_inference_steps": 2},
    **{"guidance_scale": 3.0, "guidance_interval": [0.1, 5.0], "guidance_rescale": 0.5, "num_images_per_prompt": 1},
    **{"encoders": ["t5", "clip_text"], "style_scale": 1.0, "output_type": "np", "region_strength": 0.4},
    **{"noise_level": None, "callback_on_step_end_tensor_inputs": ["latents"]},
}
OTHER_FORMS = (
    {"prompt": [PROMPT, "a dog"], "negative_prompt": ["", "a cat"]},
    {"prompt": None, "prompt_schedule": [["a cat", 0.0], ["a dog", 0.5]]},
    {"guidance_scale": {"t5": 5.0, "clip_text": 3.0}},
    {"guidance_scale": [3.0, 1.0, 1.0], "num_inference_steps": [2, 1, 1], "region_strength": [0.4, 0.1, 0.1]},
)
NAMES = ("cannot read", "prompt", "encoder", "style", "image", "regions", "callback", "latents", "generator", "text")


def objects():
    """Arguments that JSON has no form for."""
    pixels = picture()
    return st.sampled_from(
        [
            *(torch.zeros(0), torch.zeros(1, 16), torch.full((1, 77, 16), float("nan")), torch.ones(2, 77, 16)),
            *(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.int64), torch.zeros(1, 77, 16) * 1j),
            *(np.zeros((3, 3)), np.float32(2), np.int64(2), np.zeros((4, 4, 3)), np.array("x"), object(), Path("x")),
            *(pixels, pixels.convert("F"), [pixels, pixels], [[pixels]], [[]], pixels.resize((1, 60))),
            *(
                [PaintRegion("cat", (0, 0, 0.5, 1))],
                [PaintRegion("dog", (0, 0, 0.5, 1))],
                [PaintRegion("red", pixels)] * 2,
            ),
            *(seeded(), [seeded()], [seeded(), None], [3]),
        ]
    )


@st.composite
def calls(draw, further=None):
    """The arguments of a call with some that are hostile."""
    valid = {**CALL, **draw(st.sampled_from([{}, *OTHER_FORMS])), **(further or {})}
    case = draw(damaged(valid, further=("strength", "sigma_start")))
    arguments, words = dict(case.value), [*case.words, *NAMES]
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(ANYTHING))
        arguments[name] = draw(objects() | values())
        words.append(name)
    return Case(arguments, tuple(words))


ANYTHING = (
    *("prompt", "negative_prompt", "style_image", "image_embeds", "latents", "generator", "regions", "prompt_embeds"),
    *(
        "pooled_prompt_embeds",
        "prompt_embeds_2",
        "prompt_attention_mask_2",
        "negative_prompt_embeds",
        "guidance_scale",
    ),
    *("prompt_schedule", "callback_on_step_end", "num_inference_steps", "encoders", "height"),
)


def drawing(pipe, extra=()):
    """A call of a pipeline that looks at its result."""
    known = (*CALL, *ANYTHING, *extra)

    def call(arguments, folder):
        given = {name: value for name, value in arguments.items() if name in known}
        images = pipe(**{"generator": seeded(), **given})[0]
        assert len(images) >= 1
        if isinstance(images, np.ndarray | torch.Tensor):
            assert images.ndim == 4 and bool(np.isfinite(np.asarray(images)).all())

    return call


def test_arguments_of_text_to_image(fuzz):
    fuzz("arguments of EDiffIPipeline", calls(), drawing(tiny_pipeline(**BASE)), share=0.03)


def test_arguments_of_the_cascade(fuzz):
    fuzz("arguments of a cascade", calls({"height": 32, "width": 32}), drawing(tiny_pipeline()), share=0.01)


@pytest.mark.parametrize("pipeline", [EDiffIImg2ImgPipeline, EDiffIInpaintPipeline], ids=lambda each: each.__name__)
def test_arguments_of_editing(fuzz, pipeline):
    further = {"image": picture(), "strength": 0.6, "sigma_start": None}
    further |= {"mask_image": picture()} if pipeline is EDiffIInpaintPipeline else {}
    pipe = pipeline.from_pipe(tiny_pipeline(**BASE, scheduler=EDMDEISScheduler()))
    pipe.set_progress_bar_config(disable=True)
    fuzz(f"arguments of {pipeline.__name__}", calls(further), drawing(pipe, tuple(further)), share=0.03)


SCENE = {
    "prompt": PROMPT,
    "strength": 0.5,
    "regions": [
        {"phrase": "red cat", "mask": [0.0, 0.0, 0.5, 1.0], "weight": 1.5},
        {"phrase": "blue house", "mask": "house.png", "occurrence": 0, "seed": 3},
    ],
}


def command_line(capsys):
    """Runs `ediffi`; an error becomes an `OSError` with the line that it printed."""

    def run(*arguments):
        code = main([*map(str, arguments)])
        error = capsys.readouterr().err
        assert code in (0, 2), error
        if code:
            assert error.startswith("ediffi: error: ") and error.count("\n") == 1, error
            raise OSError(error)

    return run


@pytest.fixture
def paint(model, capsys):
    run = command_line(capsys)

    def call(content, folder):
        picture().convert("L").save(Path(folder, "house.png"))
        scene = Path(folder, "scene.json")
        scene.write_bytes(content)
        output = Path(folder, "out.png")
        run("paint", scene, "--model", model, "--size", 8, "--steps", 1, "--seed", 0, "--output", output)
        assert output.is_file()

    return call


def as_json(value):
    return json.dumps(value).encode()


def test_scenes(fuzz, paint):
    written = damaged(SCENE).map(
        lambda case: Case(as_json(case.value), (*case.words, "scene.json", "region", "phrase", "cannot read"))
    )
    bytes_ = damaged_bytes([as_json(SCENE), b"[" * 5000, b"\xef\xbb\xbf" + as_json(SCENE), b'{"regions": [' * 500])
    files = bytes_.map(
        lambda content: Case(content, ("scene.json", "region", "prompt", "phrase", "mask", "strength", "cannot read"))
    )
    fuzz("scenes of ediffi paint", written | files, paint, share=0.04)


OPTIONS = {
    **{"--size": "8", "--seed": "3", "--steps": "1", "--num-images": "1", "--guidance-scale": "3"},
    **{"--guidance-rescale": "0.5", "--encoders": "t5", "--negative-prompt": "a dog", "--noise-level": "0.1"},
    **{"--style-scale": "1", "--prompt-schedule": "0:a cat", "--dtype": "float32", "--device": "cpu"},
    **{"--style-image": "x.png", "--output": "out.png", "--attention": "x.json"},
}


def test_command_lines(fuzz, model, capsys):
    run = command_line(capsys)

    def generate(options, folder):
        there = {name: Path(folder, text) if text in ("out.png", "x.json") else text for name, text in options.items()}
        flags = [text for name, text in there.items() for text in ([name] if text is None else [name, text])]
        run("generate", PROMPT, "--model", model, *flags)

    texts = st.sampled_from(
        ["nan", "inf", "-1", "1e400", "1,2,3,4", ",", "t5=", "t5=nan", "\x1b[2J", "\ud800", "0", "", "/"]
    )
    values = st.none() | texts | st.text(max_size=12) | st.integers().map(str) | st.floats().map(str)
    changed = st.dictionaries(st.sampled_from(list(OPTIONS)), values, max_size=2)
    some = st.sets(st.sampled_from(list(OPTIONS)), max_size=5)
    cases = st.builds(
        lambda names, bad: {
            "--size": "8",
            "--steps": "1",
            "--output": "out.png",
            **{n: OPTIONS[n] for n in names},
            **bad,
        },
        some,
        changed,
    )
    fuzz(
        "command lines",
        cases.map(lambda options: Case(options, ("argument", "device", "prompt", *OPTIONS))),
        generate,
        share=0.03,
    )
