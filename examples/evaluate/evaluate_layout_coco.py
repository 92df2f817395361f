# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
r"""Paint-with-words on COCO: does a Stable Diffusion model put things where a caption's objects were painted?

wget http://images.cocodataset.org/annotations/annotations_trainval2017.zip && unzip annotations_trainval2017.zip
python examples/evaluate/evaluate_layout_coco.py --model stable-diffusion-v1-5/stable-diffusion-v1-5 \
    --annotations annotations/instances_val2017.json --captions annotations/captions_val2017.json \
    --output coco_layout --strengths 0 0.2 0.4 --num-captions 1000

Needs no pictures of COCO. Of every picture the first caption is taken that names an object with a mask; the names,
whole words, become regions with all of their category's masks. A segmenter of transformers looks for the category in
what was drawn, at every strength w' from the same noise; 0 is the plain prompt. `OUTPUT/card.json` receives all
settings and for each strength the mean intersection over union of the regions with what was found (`miou`) and the
share of regions whose category was found at all (`found`), `OUTPUT/figures.jsonl` a line for each strength and
caption. A rerun skips what stands there: it may be stopped at any time, and captions and strengths may be added.
"""

import argparse
import contextlib
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers import DiffusionPipeline
from PIL import Image, ImageDraw
from tqdm import tqdm
from transformers import AutoImageProcessor, AutoModelForUniversalSegmentation

from diffusers_ediffi import PaintRegion, Provenance, paint_with_words, save_image
from diffusers_ediffi.cli.options import whole
from diffusers_ediffi.cli.scripts import ScriptParser, errors_in_one_line
from diffusers_ediffi.paint.painting import NORMALIZERS
from diffusers_ediffi.paint.regions import check_strength
from diffusers_ediffi.phrases import find_phrase
from diffusers_ediffi.provenance import model_name

# What captions call the categories; plurals in -s and -es are added.
SYNONYMS = {
    "person": "man men woman women people boy girl child children kid baby player skier surfer skateboarder".split(),
    "bicycle": ["bike"],
    "motorcycle": ["motorbike"],
    "airplane": ["plane", "jet", "aeroplane"],
    "bus": ["buses"],
    "traffic light": ["stoplight", "traffic signal"],
    "fire hydrant": ["hydrant"],
    "cat": ["kitten"],
    "dog": ["puppy", "puppies"],
    "sheep": ["lamb"],
    "cow": ["cattle", "bull"],
    "sports ball": ["ball"],
    "skis": ["ski"],
    "knife": ["knives"],
    "sandwich": ["sandwiches"],
    "donut": ["doughnut"],
    "couch": ["sofa"],
    "potted plant": ["plant"],
    "dining table": ["table"],
    "tv": ["television"],
    "laptop": ["laptop computer"],
    "cell phone": ["cellphone", "phone", "smartphone"],
    "refrigerator": ["fridge"],
    "teddy bear": ["teddy"],
}
# Settings that a rerun may change, since they do not change a figure.
MAY_CHANGE = {"strengths", "num_captions", "save_pictures", "device", "output"}


@dataclass(frozen=True)
class PaintedCaption:
    """A caption and for each category that it names a region."""

    id: int
    text: str
    regions: dict[str, PaintRegion]


def decode(segmentation: Any, height: int, width: int) -> np.ndarray:
    """A mask (height, width) of COCO as booleans: polygons, or the run lengths of crowds.

    Raises:
        ValueError: It is compressed, which COCO's own files are not.
    """
    if isinstance(segmentation, dict):
        return decode_runs(segmentation["counts"], *segmentation["size"])
    mask = Image.new("1", (width, height))
    for polygon in segmentation:
        if len(polygon) >= 6:
            ImageDraw.Draw(mask).polygon(polygon, fill=1)
    return np.array(mask)


def decode_runs(counts: Any, height: int, width: int) -> np.ndarray:
    """The mask of run lengths, which alternate between outside and inside, column by column."""
    if not isinstance(counts, list):
        raise ValueError(
            "a mask is a compressed run-length code, which COCO's own files do not have; decode it by "
            "pycocotools.mask.decode and store its run lengths or polygons."
        )
    runs = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    if len(runs) != height * width:
        raise ValueError(f"a run-length code has {len(runs)} pixels for a mask of {height} x {width}.")
    return runs.reshape(width, height).T


def square(mask: np.ndarray) -> np.ndarray:
    """The middle of a mask, as square as the pictures."""
    side = min(mask.shape)
    top, left = ((size - side) // 2 for size in mask.shape)
    return mask[top : top + side, left : left + side]


def spans_of(caption: str, category: str) -> list[tuple[int, int, str]]:
    """Where a caption names a category: start, end and the category, of each name in singular and plural."""
    spans = []
    for name in (category, *SYNONYMS.get(category, ())):
        for phrase in (name, name + "s", name + "es"):
            if phrase not in caption.lower():
                continue  # much faster than to ask for whole words
            try:
                spans += [(*span, category) for span in find_phrase(caption, phrase)]
            except ValueError:  # only as a part of a word
                continue
    return spans


def named(caption: str, categories: list[str]) -> dict[str, tuple[str, int]]:
    """For each category that a caption names the first name and which occurrence of it that is.

    Longer names win, so that a hot dog is not a dog.
    """
    spans = [span for category in categories for span in spans_of(caption, category)]
    taken: list[tuple[int, int, str]] = []
    for start, stop, category in sorted(spans, key=lambda span: (span[0] - span[1], span[0])):
        if all(stop <= first or last <= start for first, last, _ in taken):
            taken.append((start, stop, category))
    found: dict[str, tuple[str, int]] = {}
    for start, stop, category in sorted(taken):
        phrase = caption[start:stop]
        found.setdefault(category, (phrase, find_phrase(caption, phrase).index((start, stop))))
    return found


def read_annotations(args: argparse.Namespace) -> tuple[dict, dict]:
    """Both files of COCO, checked."""
    instances, captions = (json.loads(path.read_text(encoding="utf-8")) for path in (args.annotations, args.captions))
    is_complete = {"images", "categories", "annotations"} <= set(instances) and "annotations" in captions
    if not is_complete or any("caption" not in caption for caption in captions["annotations"]):
        raise ValueError(
            f"{args.annotations} and {args.captions} are not what they should be; give instances_val2017.json and "
            "captions_val2017.json of COCO, in this order."
        )
    return instances, captions


def by_image(entries: list[dict]) -> dict[int, list[dict]]:
    """Annotations or captions by the picture that they belong to."""
    found: dict[int, list[dict]] = {}
    for entry in entries:
        found.setdefault(entry["image_id"], []).append(entry)
    return found


def category_masks(image: dict, annotations: list[dict], names: dict[int, str], min_area: float) -> dict:
    """The mask of each category in a picture, without those that are too small or all of the picture."""
    masks: dict[str, np.ndarray] = {}
    for annotation in annotations:
        mask = square(decode(annotation["segmentation"], image["height"], image["width"]))
        name = names[annotation["category_id"]]
        masks[name] = masks[name] | mask if name in masks else mask
    return {name: mask for name, mask in masks.items() if mask.any() and min_area <= mask.mean() < 1}


def regions_of(text: str, masks: dict[str, np.ndarray], categories: list[str]) -> dict[str, PaintRegion]:
    """A region for each category that a caption names and that has a mask."""
    return {
        category: PaintRegion(phrase, masks[category], occurrence=occurrence)
        for category, (phrase, occurrence) in named(text, categories).items()
        if category in masks
    }


def painted_captions(args: argparse.Namespace) -> Iterator[PaintedCaption]:
    """The first caption of every picture with a region that is neither too small nor all of the picture."""
    instances, captions = read_annotations(args)
    names = {category["id"]: category["name"] for category in instances["categories"]}
    per_image = by_image(instances["annotations"])
    texts = by_image(sorted(captions["annotations"], key=lambda caption: caption["id"]))
    for image in sorted(instances["images"], key=lambda image: image["id"]):
        masks = category_masks(image, per_image.get(image["id"], []), names, args.min_area)
        for caption in texts.get(image["id"], ()):
            text = " ".join(caption["caption"].split())
            regions = regions_of(text, masks, list(names.values()))
            if regions:
                yield PaintedCaption(caption["id"], text, regions)
                break


class Segmenter:
    """Finds categories in pictures, by a panoptic or instance segmenter of transformers."""

    def __init__(self, args: argparse.Namespace):
        self.processor = AutoImageProcessor.from_pretrained(args.segmenter, backend="pil")
        self.model = AutoModelForUniversalSegmentation.from_pretrained(args.segmenter).eval().to(args.device)
        self.labels = {name: label for label, name in self.model.config.id2label.items()}
        self.threshold = args.threshold

    def check(self, categories: set[str]) -> None:
        """Refuses categories that it does not know."""
        unknown = sorted(categories - set(self.labels))
        if unknown:
            raise ValueError(f"the segmenter does not know {', '.join(unknown)}; take a segmenter trained on COCO.")

    @torch.no_grad()
    def __call__(self, picture: Image.Image, categories: list[str]) -> dict[str, np.ndarray]:
        """For each category where it is, as booleans (height, width)."""
        outputs = self.model(**self.processor(images=picture, return_tensors="pt").to(self.model.device))
        found = self.processor.post_process_panoptic_segmentation(
            outputs,
            threshold=self.threshold,
            label_ids_to_fuse=set(),
            target_sizes=[(picture.height, picture.width)],
        )[0]
        segments = found["segmentation"].cpu().numpy()
        return {
            category: np.isin(
                segments,
                [part["id"] for part in found["segments_info"] if part["label_id"] == self.labels[category]],
            )
            for category in categories
        }


def draw(pipe: Any, caption: PaintedCaption, strength: float, size: int, args: argparse.Namespace) -> Image.Image:
    """The picture depends on the seed, the caption and the strength alone; the noise not on the strength."""
    regions = list(caption.regions.values()) if strength else []
    with paint_with_words(pipe, caption.text, regions, strength, args.normalizer):
        return pipe(
            caption.text,
            height=size,
            width=size,
            num_inference_steps=args.steps,
            guidance_scale=args.guidance_scale,
            generator=torch.Generator().manual_seed(args.seed * 1_000_003 + caption.id),
        ).images[0]


def overlaps(found: dict[str, np.ndarray], caption: PaintedCaption) -> dict[str, float]:
    """Intersection over union of every region with where its category was found."""
    result = {}
    for category, region in caption.regions.items():
        target = region.coverage(*found[category].shape).numpy() > 0.5
        union = (target | found[category]).sum()
        result[category] = float((target & found[category]).sum() / union) if union else 0.0
    return result


def check_settings(card: Path, settings: dict[str, Any]) -> None:
    """Refuses a folder whose figures were made with other settings."""
    old = json.loads(card.read_text())["settings"]
    for name in sorted((set(old) | set(settings)) - MAY_CHANGE):
        if old.get(name) != settings.get(name):
            raise ValueError(
                f"{card.parent} was made with {name} = {old.get(name)!r}, but now it is {settings.get(name)!r}; "
                "choose another --output."
            )


def read_figures(args: argparse.Namespace, settings: dict[str, Any]) -> dict[tuple[str, int], dict]:
    """The figures of earlier runs, by strength and caption; a line that was cut off does not count.

    Raises:
        ValueError: They were made with other settings.
    """
    card, figures = args.output / "card.json", args.output / "figures.jsonl"
    if not card.is_file():
        return {}
    check_settings(card, settings)
    known = {}
    for line in figures.read_text().splitlines() if figures.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            known[f"{row['strength']:g}", row["caption_id"]] = row
    # Written again, so that what is appended does not continue a line that was cut off.
    figures.write_text("".join(json.dumps(row) + "\n" for row in known.values()))
    return known


def write_card(args: argparse.Namespace, settings: dict[str, Any], known: dict[tuple[str, int], dict]) -> dict:
    """The means of all captions that a strength has so far."""
    rows = {}
    for strength in sorted({strength for strength, _ in known}, key=float):
        figures = [row for (other, _), row in known.items() if other == strength]
        values = [iou for row in figures for iou in row["iou"].values()]
        found = [share for row in figures for share in row["found"].values()]
        rows[strength] = {"miou": statistics.fmean(values), "found": statistics.fmean(found)}
        rows[strength] |= {"captions": len(figures), "regions": len(values)}
    card = {"settings": settings, "strengths": rows}
    (args.output / "card.json").write_text(json.dumps(card, indent=2) + "\n")
    return card


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = ScriptParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="folder or Hub id of a Stable Diffusion or SDXL pipeline")
    parser.add_argument("--annotations", type=Path, required=True, help="instances_val2017.json of COCO")
    parser.add_argument("--captions", type=Path, required=True, help="captions_val2017.json of COCO")
    parser.add_argument("--output", type=Path, required=True, help="folder for card.json and figures.jsonl")
    parser.add_argument("--segmenter", default="facebook/mask2former-swin-large-coco-panoptic")
    parser.add_argument("--threshold", type=float, default=0.5, help="score from which a segment counts")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0, 0.2, 0.4])
    parser.add_argument("--normalizer", choices=NORMALIZERS, default="max", help="see paint_with_words")
    parser.add_argument("--num-captions", type=whole(1), help="only the first so many")
    parser.add_argument("--min-area", type=float, default=0.05, help="share of the picture below which nothing counts")
    parser.add_argument("--size", type=whole(1), help="of the pictures; by default that of the model")
    parser.add_argument("--steps", type=whole(1), default=30)
    parser.add_argument("--guidance-scale", type=float, default=7.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-pictures", action="store_true", help="keep what is drawn, as OUTPUT/STRENGTH/ID.png")
    parser.add_device("cuda" if torch.cuda.is_available() else "cpu")
    return parser


def load_pipeline(args: argparse.Namespace, dtype: torch.dtype) -> Any:
    """The model, without a safety checker: a picture that it blackens would count as a failure of the layout."""
    pipe = DiffusionPipeline.from_pretrained(args.model, dtype=dtype).to(args.device)
    pipe.set_progress_bar_config(disable=True)
    if hasattr(pipe, "safety_checker"):
        pipe.register_modules(safety_checker=None)
    return pipe


def all_settings(args: argparse.Namespace, pipe: Any, size: int, dtype: torch.dtype) -> dict[str, Any]:
    """The options, and what else the figures depend on."""
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    settings |= {"size": size, "dtype": str(dtype), "scheduler": type(pipe.scheduler).__name__}
    return settings | {module.__name__: module.__version__ for module in (torch, diffusers, transformers)}


def save_picture(picture: Image.Image, caption: PaintedCaption, strength: float, args: argparse.Namespace) -> None:
    """Writes OUTPUT/STRENGTH/ID.png."""
    path = args.output / f"{strength:g}" / f"{caption.id}.png"
    path.parent.mkdir(exist_ok=True)
    settings = {"prompt": caption.text, "model": model_name(args.model), "region_strength": strength}
    save_image(picture, path, Provenance(settings))


def judge(picture: Image.Image, segmenter: Segmenter, caption: PaintedCaption, strength: float) -> dict[str, Any]:
    """The figures of a picture."""
    found = segmenter(picture, list(caption.regions))
    return {
        "strength": strength,
        "caption_id": caption.id,
        "caption": caption.text,
        "phrases": {category: region.phrase for category, region in caption.regions.items()},
        "iou": overlaps(found, caption),
        "found": {name: bool(mask.any()) for name, mask in found.items()},
    }


def read_captions(args: argparse.Namespace) -> list[PaintedCaption]:
    """The captions that are drawn; there must be some."""
    captions = list(islice(painted_captions(args), args.num_captions))
    if not captions:
        raise ValueError("no caption names an object with a mask; give both files of the same pictures.")
    return captions


def measure(
    captions: list[PaintedCaption], pipe: Any, segmenter: Segmenter, size: int, known: dict, args: argparse.Namespace
) -> None:
    """Draws and judges what `known` lacks; adds it there and to figures.jsonl."""
    with (args.output / "figures.jsonl").open("a") as figures:
        pairs = [(caption, strength) for caption in captions for strength in args.strengths]
        for caption, strength in tqdm(pairs, desc="pictures"):
            if (f"{strength:g}", caption.id) in known:
                continue
            picture = draw(pipe, caption, strength, size, args)
            row = judge(picture, segmenter, caption, strength)
            known[f"{strength:g}", caption.id] = row
            figures.write(json.dumps(row) + "\n")
            figures.flush()
            if args.save_pictures:
                save_picture(picture, caption, strength, args)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Draws, segments, writes, prints and returns the figures."""
    args = make_parser().parse_args(arguments)
    for strength in args.strengths:
        check_strength("--strengths", strength)
    captions = read_captions(args)
    segmenter = Segmenter(args)
    segmenter.check({category for caption in captions for category in caption.regions})
    dtype = torch.float32 if args.device == "cpu" else torch.float16
    pipe = load_pipeline(args, dtype)
    size = args.size or pipe.unet.config.sample_size * pipe.vae_scale_factor
    settings = all_settings(args, pipe, size, dtype)
    args.output.mkdir(parents=True, exist_ok=True)
    known = read_figures(args, settings)
    write_card(args, settings, known)
    measure(captions, pipe, segmenter, size, known, args)
    card = write_card(args, settings, known)
    for strength, row in card["strengths"].items():
        print(f"{strength:>4}  " + "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
    return card


if __name__ == "__main__":
    with errors_in_one_line():
        main()
