# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Kills processes that save a model over another one: what is loaded afterwards is one of the two, never a mixture.

    python tests/experts/kill_save.py 50           # kills for each kind of model, some minutes
    python tests/experts/kill_save.py 50 router    # for one kind

A child saves two models over each other, again and again, until it is killed at a random moment. `test_files.py` runs
it with few.
"""

import copy
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parent.parent))
from helpers import tiny_pipeline, tiny_unet  # noqa: E402
from helpers_lora import low_rank_router  # noqa: E402

from diffusers_ediffi import EDiffIPipeline, EDiffIUNet, ExpertRouterUNet  # noqa: E402

VALUES = (1.0, 2.0)  # one for each model, in all of its weights


def filled(network, value):
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, value)
    return network


def network(value):
    return filled(tiny_unet(sigma_data=value), value)


def router(value):
    return ExpertRouterUNet.from_unets([filled(tiny_unet(), value) for _ in range(3)], [0.1, value])


def shared(value):
    made = low_rank_router(filled(tiny_unet(), value))
    return ExpertRouterUNet.from_lora_experts(
        made._shared.base(), [made._shared.expert(i) for i in range(3)], [0.1, value]
    )


def pipeline(value):
    stages = {"unet": router(value), "unet_sr256": None, "unet_sr1024": None}
    pipe = tiny_pipeline(**stages, default_guidance_scale=(value, 1.0, 1.0))
    pipe.text_encoder = filled(copy.deepcopy(pipe.text_encoder), value)  # pipelines share it
    return pipe


def weights_of(unet):
    return {float(parameter.flatten()[0]) for parameter in unet.parameters()}


def values_of_router(loaded):
    if loaded._shared is None:
        return {loaded.boundaries[1]}.union(*map(weights_of, loaded.experts))
    return {loaded.boundaries[1]} | weights_of(loaded._shared.base())


def values_of_pipeline(loaded):
    return {loaded.config.default_guidance_scale[0]} | weights_of(loaded.text_encoder) | values_of_router(loaded.unet)


KINDS = {
    "network": (network, EDiffIUNet, lambda loaded: {loaded.config.sigma_data} | weights_of(loaded)),
    "router": (router, ExpertRouterUNet, values_of_router),
    "shared": (shared, ExpertRouterUNet, values_of_router),
    "pipeline": (pipeline, EDiffIPipeline, values_of_pipeline),
}


def save_until_killed(models, folder):
    child = os.fork()
    if child:
        return child
    try:
        while True:
            for model in models:
                model.save_pretrained(folder)
    finally:
        os._exit(1)


def kill(name, folder, kills):
    """How often which of the two models was found."""
    make, cls, values_of = KINDS[name]
    models, found = [make(value) for value in VALUES], []
    models[0].save_pretrained(folder)
    started = time.monotonic()
    models[0].save_pretrained(folder)
    longest = 0.1 + 4 * (time.monotonic() - started)
    for _ in range(kills):
        child = save_until_killed(models, folder)
        time.sleep(random.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        values = values_of(cls.from_pretrained(folder))
        if len(values) != 1 or not values <= set(VALUES):
            sys.exit(f"a {name} was loaded that holds {sorted(values)}: a mixture.")
        found += values
    print(f"{name}: {kills} kills, {' and '.join(str(found.count(value)) for value in VALUES)} times either model")


if __name__ == "__main__":
    torch.set_num_threads(1)  # a forked process has no others
    for kind in sys.argv[2:] or KINDS:
        with tempfile.TemporaryDirectory() as folder:
            kill(kind, Path(folder) / "saved", int(sys.argv[1]))
