# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What the configuration of an `EDiffIUNet` may say. It may come from a stranger, so that all of it is checked before
anything is built."""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from ..checks import is_finite, is_number
from .attention import ATTENTION_BLOCKS

STRUCTURES = ("adm", "efficient")
# What a network returns: F of equation 1, or what diffusers' schedulers call the output of a discrete-time model.
PRECONDITIONINGS = ("edm", "epsilon", "v_prediction", "sample")
MAX_LEVELS = 10
MAX_LAYERS = 64  # residual blocks of a level
# Whole numbers from 1, ten to a hundred times what networks have.
COUNTS = {
    "sample_size": 2**16,
    "in_channels": 2**10,
    "out_channels": 2**10,
    "patch_size": 2**8,
    "attention_head_dim": 2**14,
    "num_attention_heads": 2**8,
    "cross_attention_dim": 2**17,
    "encoder_hid_dim": 2**17,
    "encoder_hid_dim_2": 2**17,
    "pooled_projection_dim": 2**17,
    "image_embed_dim": 2**17,
    "time_embed_dim": 2**17,
    "norm_num_groups": 2**14,
    "num_class_embeds": 2**20,
}
OPTIONAL = ("num_attention_heads", "time_embed_dim", "num_class_embeds")
MAX_CHANNELS = 2**14
CHOICES = {"structure": STRUCTURES, "attention_block": ATTENTION_BLOCKS, "preconditioning": PRECONDITIONINGS}
NUMBERS = {"timestep_scale": (0.0, 1e6), "dropout": (0.0, 1.0), "sigma_data": (1e-6, 1e6)}


def check_network(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Refuses what is not a network, by name.

    Args:
        config (`dict`): The arguments of `EDiffIUNet`.

    Returns:
        The residual blocks of each level.

    Raises:
        ValueError: An entry is wrong or too large.
    """
    _check_choices(config)
    _check_numbers(config)
    for name in ("sigma_residual", "max_noise_level"):
        _check_super_resolution(name, config)
    _check_together(config)
    layers = _check_levels(config)
    _check_factors(config)
    check_trained_on(config["trained_on"])
    return layers


def check_trained_on(trained_on: Any) -> None:
    """Refuses what are not `[low, high]` pairs of noise levels, `None` for infinity.

    Raises:
        ValueError: They are not.
    """
    if trained_on is not None and not isinstance(trained_on, Sequence):
        raise ValueError(f"trained_on={trained_on!r} must be a list of [low, high] pairs of sigmas, or None.")
    for pair in trained_on or ():
        are_two = isinstance(pair, list | tuple) and len(pair) == 2
        low, high = (0.0, math.inf) if not are_two else (pair[0], math.inf if pair[1] is None else pair[1])
        are_levels = is_finite(low) and (is_finite(high) or (is_number(high, float) and high == math.inf))
        if not are_two or not are_levels or not 0 <= low < high:
            raise ValueError(f"trained_on={trained_on} must be [low, high] pairs of sigmas, None for infinity.")


def _check_choices(config: Mapping[str, Any]) -> None:
    for name, choices in CHOICES.items():
        if config[name] not in choices:
            raise ValueError(f"{name}={config[name]!r} is unknown; choose one of {', '.join(choices)}.")


def _check_numbers(config: Mapping[str, Any]) -> None:
    for name, most in COUNTS.items():
        if name not in OPTIONAL or config[name] is not None:
            check_count(name, config[name], most)
    for name, (low, high) in NUMBERS.items():
        if not is_finite(config[name]) or not low <= config[name] <= high:
            raise ValueError(f"{name}={config[name]!r} must be a number from {low:g} to {high:g}.")


def check_count(name: str, value: Any, most: int) -> None:
    """Refuses what is not a whole number from 1 to `most`.

    Raises:
        ValueError: It is not.
    """
    if not is_number(value, Integral) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number, at least 1.")
    if value > most:
        raise ValueError(f"{name}={value!r} must be at most {most}: no network is so large.")


def _check_levels(config: Mapping[str, Any]) -> tuple[int, ...]:
    """The channels of each level; returns its residual blocks."""
    channels, groups, layers = (config[k] for k in ("block_out_channels", "norm_num_groups", "layers_per_block"))
    heads = config["num_attention_heads"] or 1
    if not isinstance(channels, list | tuple):
        raise ValueError(f"block_out_channels={channels!r} must list the channels of each level, as in (128, 256).")
    if not channels:
        raise ValueError("block_out_channels is empty; give the channels of each level, such as (128, 256).")
    if len(channels) > MAX_LEVELS:
        raise ValueError(f"block_out_channels has {len(channels)} levels; give at most {MAX_LEVELS}.")
    for width in channels:
        check_count("block_out_channels", width, MAX_CHANNELS)
        if width % groups:
            raise ValueError(
                f"block_out_channels: {width} channels are not a multiple of norm_num_groups={groups}; change one."
            )
        if width % heads:
            raise ValueError(
                f"block_out_channels: {width} channels are not a multiple of num_attention_heads={heads}; change one."
            )
    layers = tuple(layers) if isinstance(layers, list | tuple) else (layers,) * len(channels)
    if len(layers) != len(channels):
        raise ValueError(f"layers_per_block={layers} needs one number for each of the {len(channels)} levels.")
    for count in layers:
        check_count("layers_per_block", count, MAX_LAYERS)
    return layers


def _check_factors(config: Mapping[str, Any]) -> None:
    """Refuses attention at resolutions that the network does not have."""
    levels = len(config["block_out_channels"])
    # The efficient structure strides before its first level, and not before its last.
    exponents = range(levels) if config["structure"] == "adm" else range(1, max(levels, 2))
    there = [config["patch_size"] * 2**exponent for exponent in exponents]
    for name in ("self_attention_factors", "cross_attention_factors"):
        factors = config[name]
        if not isinstance(factors, list | tuple) or not all(factor in there for factor in factors):
            given = tuple(factors) if isinstance(factors, list) else factors
            raise ValueError(f"{name}={given!r}: this network works at the factors {there} only.")


def _check_together(config: Mapping[str, Any]) -> None:
    """Refuses what is right alone and means nothing together."""
    if config["preconditioning"] != "edm" and config["sigma_residual"] is not None:
        raise ValueError(
            f"sigma_residual={config['sigma_residual']} is for preconditioning='edm', whose equation it changes, not "
            f"for {config['preconditioning']!r}: leave it out."
        )
    if config["num_class_embeds"] is not None and config["max_noise_level"] is not None:
        raise ValueError(
            f"num_class_embeds={config['num_class_embeds']} and max_noise_level={config['max_noise_level']}: "
            "class_labels of a network are classes or noise levels, not both: leave one out."
        )


def _check_super_resolution(name: str, config: Mapping[str, Any]) -> None:
    """What only super-resolution models have."""
    value, in_channels, out_channels = config[name], config["in_channels"], config["out_channels"]
    if value is None:
        return
    if not is_finite(value) or value <= 0:
        raise ValueError(f"{name}={value!r} must be a positive number, or None for a network without.")
    if in_channels != 2 * out_channels:
        raise ValueError(
            f"{name}={value} is for super-resolution models, which have in_channels={2 * out_channels}, not "
            f"{in_channels}."
        )
