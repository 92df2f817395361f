# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The words that captions of scenes are made of, for the `vocabulary` of a model that is trained on them."""

from collections.abc import Sequence

from .grounds import COLOURS, GROUNDS, Ground
from .scenes import JOINTS, OPENINGS, ground_words, with_article
from .styles import STYLE_WORDS, STYLES


def caption_words(
    phrases: Sequence[str], styles: Sequence[str] = STYLES, grounds: Sequence[Ground] = GROUNDS
) -> dict[str, list[str]]:
    """All that captions of these scenes can say, in groups of phrases.

    Args:
        phrases (`list` of `str`): What the objects are called.
        styles (`list` of `str`): Names out of `STYLES`.
        grounds (`list` of `Ground`): Grounds out of `GROUNDS`.

    Returns:
        Objects, colours, grounds, styles and relations; under `other` the words that are left.
    """
    names = {name for ground in grounds if ground.kind != "landscape" for name in ground.name.split(" and ")}
    groups = {
        "objects": list(phrases),
        "colours": [colour for colour in COLOURS if colour in names],
        "grounds": [phrase for ground in grounds if ground.kind == "landscape" for phrase in ground_words(ground)],
        "styles": [phrase for style in styles for phrase in STYLE_WORDS[style][1]],
        "relations": [joint.strip() for joints in JOINTS.values() for joint in dict.fromkeys(joints)],
    }
    parts = [*OPENINGS, *map(with_article, phrases)]
    parts += [phrase for ground in grounds for phrase in ground_words(ground)]
    parts += [phrase for style in styles for phrases_of_style in STYLE_WORDS[style] for phrase in phrases_of_style]
    grouped = {word for group in groups.values() for phrase in group for word in phrase.split()}
    return {**groups, "other": sorted({word for part in parts for word in part.split()} - grouped)}
