# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Provenance: what a picture's file says about how the picture was made.

An XMP packet is the only place that PNG, JPEG and WebP share and that platforms read to label generated pictures. Its
properties are those of the IPTC Photo Metadata Standard 2025.1, so that other programs show them as well.
"""

import io
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from PIL import Image, PngImagePlugin

from . import __version__
from .files import written_whole
from .images import open_image

TRAINED_ALGORITHMIC_MEDIA = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
# "Edited using Generative AI": a picture of another origin, changed as a whole or with a part that was painted in.
COMPOSITE_WITH_TRAINED_ALGORITHMIC_MEDIA = (
    "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
)
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
MAX_JPEG_BYTES = 65502  # of a marker segment, less the name of XMP

XMP = "http://ns.adobe.com/xap/1.0/"
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="{rdf}">
  <rdf:Description rdf:about="" xmlns:xmp="{xmp}" xmlns:Iptc4xmpExt="{iptc}">
   <xmp:CreatorTool>{software}</xmp:CreatorTool>
   <Iptc4xmpExt:DigitalSourceType>{source_type}</Iptc4xmpExt:DigitalSourceType>
   <Iptc4xmpExt:AIPromptInformation>{settings}</Iptc4xmpExt:AIPromptInformation>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""
# What XML 1.0 forbids or advises against, with the control characters that a terminal would obey.
NO_TEXT = re.compile("[^\x20-\x7e\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010ffff]")


def _software() -> str:
    return f"diffusers_ediffi {__version__}"


@dataclass(frozen=True)
class Provenance:
    """How a picture was made.

    Args:
        settings (`dict`): What it was drawn with, such as prompt, seed and model: whatever JSON can hold; `None` is
            left out. Paths and names of people do not belong here, since the picture may go anywhere.
        software (`str`): Name and version of the program.
        digital_source_type (`str`): A term of IPTC's vocabulary
            [Digital Source Type](https://cv.iptc.org/newscodes/digitalsourcetype/).
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    software: str = field(default_factory=_software)
    digital_source_type: str = TRAINED_ALGORITHMIC_MEDIA


def save_image(image: Image.Image, path: str | os.PathLike, provenance: Provenance | None) -> None:
    """Saves a picture as PNG, JPEG or WebP, whichever the name ends in, with its provenance or with none.

    The file is written beside its target and renamed, so that there is never half a file.

    Args:
        image (`PIL.Image.Image`): The picture.
        path (`str` or `os.PathLike`): The file to write.
        provenance ([`Provenance`], *optional*): How it was made; `None` writes nothing of it.

    Raises:
        ValueError: The name ends otherwise, or the provenance cannot be written.
        OSError: The file cannot be written.
    """
    kind, options = _save_options(path, provenance)
    with written_whole(path) as unfinished:
        image.save(unfinished, format=kind, **options)


def image_bytes(image: Image.Image, suffix: str, provenance: Provenance | None) -> bytes:
    """What [`save_image`] would write to a file whose name ends in `suffix`, such as `.png`.

    Raises:
        ValueError: The suffix is another, or the provenance cannot be written.
    """
    kind, options = _save_options(f"image{suffix}", provenance)
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def check_savable(path: str | os.PathLike, provenance: Provenance | None) -> None:
    """Refuses what [`save_image`] would refuse, before a picture is drawn.

    Raises:
        ValueError: The name ends otherwise, or the provenance cannot be written.
    """
    _save_options(path, provenance)


def _format_of(path: Path) -> str:
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path.name!r} must end in one of {', '.join(FORMATS)}.")
    return kind


def _save_options(path: str | os.PathLike, provenance: Provenance | None) -> tuple[str, dict[str, Any]]:
    """The kind of a file, and the arguments by which Pillow writes the provenance into it."""
    kind = _format_of(Path(path))
    packet = "" if provenance is None else _packet(provenance)
    if kind == "PNG":
        texts = PngImagePlugin.PngInfo()
        if provenance is not None:
            texts.add_text("Software", provenance.software)
            texts.add_itxt("XML:com.adobe.xmp", packet)
        return kind, {"pnginfo": texts}
    xmp = packet.encode()  # empty without provenance, since older Pillows else write what a picture was opened with
    if kind == "JPEG" and len(xmp) > MAX_JPEG_BYTES:
        raise ValueError(
            f"a JPEG holds {MAX_JPEG_BYTES} bytes of provenance and there are {len(xmp)}; save a PNG or WebP, or pass "
            "provenance=None."
        )
    return kind, {"xmp": xmp}


def read_provenance(path: str | os.PathLike) -> Provenance:
    """The provenance in a picture's file; what the file does not say is empty.

    A file of another program is read, too: a prompt that it states is the setting `prompt`.

    Raises:
        ValueError: The file is not a picture, is damaged or too large, or says nothing of its provenance.
    """
    name = str(path)
    packet = open_image(path).info.get("xmp", b"")
    try:
        found = _properties(packet if isinstance(packet, str) else packet.decode("utf-8"))
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"the provenance of {name!r} is damaged: {error}") from None
    software = found.get(f"{{{XMP}}}CreatorTool", "")
    source_type = found.get(f"{{{IPTC}}}DigitalSourceType", "")
    prompt = found.get(f"{{{IPTC}}}AIPromptInformation", "")
    if not source_type and not prompt:
        raise ValueError(f"{name!r} says nothing of its provenance; it was saved without, or lost it on its way.")
    return Provenance(_settings(prompt), software, source_type)


def _settings(prompt: str) -> dict[str, Any]:
    """The settings that a file states; what another program wrote is its prompt."""
    try:
        settings = json.loads(prompt)
    except (ValueError, RecursionError):
        settings = None
    if isinstance(settings, dict):
        return settings
    return {"prompt": prompt} if prompt else {}


def as_json(value: Any) -> str:
    """JSON on one line that XML and terminals can take: other characters are written as escapes.

    Raises:
        ValueError: JSON has no form for the value.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{value!r} cannot be written as JSON: {error}") from None
    return NO_TEXT.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def model_name(model: str | None) -> str:
    """The name of a model without the path to it: the last folder, a Hub id as it is, or the packaged `demo`."""
    if model is None:
        return "demo"
    return Path(model).resolve().name if Path(model).is_dir() else model


def _packet(provenance: Provenance) -> str:
    for text in (provenance.software, provenance.digital_source_type):
        if NO_TEXT.search(text):
            raise ValueError(f"{text!r} holds characters that cannot be written into a file; leave them out.")
    return PACKET.format(
        xmp=XMP,
        rdf=RDF,
        iptc=IPTC,
        software=escape(provenance.software, quote=False),
        source_type=escape(provenance.digital_source_type, quote=False),
        settings=escape(as_json({name: value for name, value in provenance.settings.items() if value is not None})),
    )


def _properties(packet: str) -> dict[str, str]:
    """The simple properties of an XMP packet by their full names; programs write them as elements or attributes."""
    packet = packet.strip("\0\ufeff \r\n\t")
    if not packet:
        return {}
    if "<!" in packet:
        raise ValueError("it declares entities, which XMP never does")
    found: dict[str, str] = {}
    for element in ElementTree.fromstring(packet).iter():
        text = (element.text or "").strip() or element.get(f"{{{RDF}}}resource", "")
        for name, value in {**element.attrib, element.tag: text}.items():
            found.setdefault(name, value)  # those of the picture come before those of its ingredients
    return found
