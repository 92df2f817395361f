# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""What the scripts of this folder share that make weights: what is written of the runs of a stage, the model card, and
the upload to the Hugging Face Hub."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from huggingface_hub import CommitOperationAdd, HfApi

from diffusers_ediffi import EDiffIPipeline, EDiffIUNet, ExpertRouterUNet, demo_checkpoint
from diffusers_ediffi.cli.messages import one_line, say
from diffusers_ediffi.cli.options import HUB_ID
from diffusers_ediffi.experts.lora import LoraExpert
from diffusers_ediffi.files import written_whole
from diffusers_ediffi.files.card import CARD, LICENCE, CardText
from diffusers_ediffi.training import StageNetworks
from diffusers_ediffi.training.launch import launched_device
from diffusers_ediffi.training.lora import LORA_FILE

WEIGHTS = "pytorch_lora_weights.safetensors"
PIPELINE = "pipeline"  # below --output_dir


@dataclass
class Result:
    """What a script makes of the runs of its experts.

    Args:
        what (`str`): What the card calls it.
        write (`Callable`): Writes it, from the stage and the folder of each expert's run.
        load (`Callable`): A pipeline with it.
        usage (`str`): How it is loaded, in Python; `BASE` stands for the pipeline it was trained from, and `HERE` for
            the folder or repository of the result.
        folder (`Path`): Holds it and nothing else, or with `file` other things, too.
        file (`str`, *optional*): The file of the folder that is the result.
    """

    what: str
    write: Callable[[StageNetworks, Mapping[int, Path]], None]
    load: Callable[[], EDiffIPipeline]
    usage: str
    folder: Path
    file: str | None = None


def lora_result(args: argparse.Namespace) -> Result:
    """A LoRA, as `load_lora_weights` takes it."""

    def write(stage: StageNetworks, runs: Mapping[int, Path]) -> None:
        layers = stage.lora_layers({number: LoraExpert.load(run / LORA_FILE) for number, run in runs.items()})
        with written_whole(args.output_dir / WEIGHTS) as unfinished:
            EDiffIPipeline.save_lora_weights(
                unfinished.parent, weight_name=unfinished.name, **{f"{stage.name}_lora_layers": layers}
            )

    def load() -> EDiffIPipeline:
        pipe = EDiffIPipeline.from_pretrained(args.pretrained_model_name_or_path)
        pipe.load_lora_weights(args.output_dir)
        return pipe

    usage = "pipe = EDiffIPipeline.from_pretrained(BASE)\npipe.load_lora_weights(HERE)"
    return Result("A LoRA", write, load, usage, args.output_dir, WEIGHTS)


def pipeline_result(args: argparse.Namespace) -> Result:
    """A pipeline with all weights of what was trained, as `from_pretrained` takes it."""
    folder = args.output_dir / PIPELINE

    def write(stage: StageNetworks, runs: Mapping[int, Path]) -> None:
        pipe = EDiffIPipeline.from_pretrained(args.pretrained_model_name_or_path)
        trained = {number: EDiffIUNet.from_pretrained(run / "unet") for number, run in runs.items()}
        pipe.register_modules(**{stage.name: joined(stage, getattr(pipe, stage.name), trained)})
        pipe.save_pretrained(folder)

    def load() -> EDiffIPipeline:
        return EDiffIPipeline.from_pretrained(folder)

    return Result("A fine-tuned copy", write, load, "pipe = EDiffIPipeline.from_pretrained(HERE)", folder)


def joined(stage: StageNetworks, before: EDiffIUNet | ExpertRouterUNet, trained: Mapping[int, EDiffIUNet]) -> object:
    """The network of a stage with what was trained in the place of what was there."""
    if not stage.is_ensemble:
        return trained[0]
    experts = [trained.get(number, expert) for number, expert in enumerate(before.experts)]
    guided = [scale for scale in before.guidance_scales if scale is not None]
    return ExpertRouterUNet.from_unets(
        experts, before.boundaries, guidance_scales=before.guidance_scales if guided else None
    )


@dataclass(frozen=True)
class Card:
    """What a model card says.

    Args:
        title (`str`): The name of the model.
        base (`str`): The pipeline that it was trained from, as the option gave it.
        what (`str`): What it is, such as "A LoRA".
        prompt (`str`): What the snippet draws.
        imports (`str`): The first lines of the snippet.
        usage (`str`): Loads the model; see [`Result`].
        call (`str`): Further arguments of the call, such as `, height=64`.
        rows (`dict`): What the table says of the training.
        here (`str`): The folder of the weights, relative to the one that holds the folder of the run.
        picture (`str`, *optional*): Of the prompt, relative to the card.
        tags (`tuple` of `str`, *optional*): Further ones.
    """

    title: str
    base: str
    what: str
    prompt: str
    imports: str
    usage: str
    call: str
    rows: Mapping[str, Any]
    here: str
    picture: str | None = None
    tags: tuple[str, ...] = ()

    def text(self, here: str | None = None) -> str:
        """The card in Markdown, for its folder or for the repository `here`."""
        on_hub = self.base if HUB_ID.fullmatch(self.base) and not Path(self.base).is_dir() else None
        is_packaged = Path(self.base) == Path(demo_checkpoint())
        origin = on_hub or (
            "the model that diffusers_ediffi comes with" if is_packaged else f"`{Path(self.base).name}`"
        )
        loaded = "demo_checkpoint()" if is_packaged else repr(on_hub or Path(self.base).name)
        code = f"{self.imports}\n\n{self.usage}".replace("BASE", loaded).replace("HERE", repr(here or self.here))
        training = [f"| {name} | {value} |" for name, value in self.rows.items()]
        return CardText(
            title=self.title,
            summary=f"{self.what} of {origin}, trained on pictures with captions such as {self.prompt!r}.",
            picture=(self.prompt, self.picture) if self.picture else None,
            usage=[("With `diffusers_ediffi` installed:", f"{code}\npipe({self.prompt!r}{self.call}).images[0]")],
            sections={
                "Training": "\n".join(["| | |", "|---|---|", *training]),
                LICENCE: "The licence is that of the model it was trained from, and of the pictures.",
            },
            data={"base_model": on_hub, "pipeline_tag": "text-to-image", "tags": list(self.tags)},
        ).text()

    def write(self, folder: Path) -> None:
        """Writes README.md."""
        with written_whole(folder / CARD) as unfinished:
            unfinished.write_text(self.text(), encoding="utf-8")


def add_hub_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the upload, with the names that diffusers' training scripts give them."""
    group = parser.add_argument_group("Hugging Face Hub")
    group.add_argument("--push_to_hub", action="store_true", help="upload the result with its model card")
    group.add_argument("--hub_model_id", help="the repository, ORG/NAME (default: the name of --output_dir)")
    group.add_argument("--hub_token", help="of the account (default: that of `hf auth login`)")


def options_without_token(args: argparse.Namespace) -> dict[str, Any]:
    """All options but the token, which no tracker and no file may get to see."""
    return {name: value for name, value in vars(args).items() if name != "hub_token"}


def create_repository(args: argparse.Namespace, pipeline: Path) -> str | None:
    """Makes the repository that the options name, before anything is trained; returns its id, to the main process.

    Args:
        args (`argparse.Namespace`): The options.
        pipeline (`Path`): The folder of the pipeline that is trained further.

    Raises:
        ValueError: A repository is named that nothing is uploaded to, or it is not known whether the licence of the
            pipeline allows it.
        OSError: It cannot be made.
    """
    if not args.push_to_hub:
        if args.hub_model_id or args.hub_token:
            raise ValueError("--hub_model_id and --hub_token are for --push_to_hub: give it, or leave them out.")
        return None
    record = next(pipeline.rglob("conversion.json"), None)
    if record is not None:
        raise ValueError(
            f"--push_to_hub: {record} says that this pipeline was converted from other models, and their licences "
            "decide whether what is made of it may be passed on. Leave the option out; where they allow it, upload "
            "the result by `hf upload`."
        )
    launched_device()  # as the launcher says it, whoever asks first which process this is
    if not PartialState().is_main_process:
        return None
    name = args.hub_model_id or args.output_dir.resolve().name
    try:
        return HfApi(token=args.hub_token).create_repo(name, exist_ok=True).repo_id
    except Exception as error:  # what the Hub's client raises depends on the library that it asks with
        raise OSError(
            f"--push_to_hub: there can be no repository {name!r}: {one_line(error)} Log in by `hf auth login`, or "
            "leave the option out; nothing was trained."
        ) from None


def push(repo_id: str, folder: Path, files: Sequence[str] | None, card: Card, run: Path, token: str | None) -> None:
    """Uploads a finished result and its card in one commit.

    Args:
        repo_id (`str`): The repository.
        folder (`Path`): Of the result, whose files go to the top of the repository.
        files (sequence of `str`, *optional*): Those that are uploaded, by default all.
        card (`Card`): The card.
        run (`Path`): The folder that holds the picture of the card.
        token (`str`, *optional*): Of the account.

    Raises:
        OSError: It failed; the message says where the finished result is.
    """
    paths = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*") if files is None else map(folder.joinpath, files))
        if path.is_file()
    }
    if card.picture:
        paths[card.picture] = run / card.picture
    operations = [CommitOperationAdd(name, str(path)) for name, path in paths.items() if name != CARD]
    operations.append(CommitOperationAdd(CARD, card.text(repo_id).encode()))
    try:
        place = HfApi(token=token).create_commit(repo_id, operations, commit_message=f"{card.what}: {card.title}")
    except Exception as error:  # as in create_repository
        raise OSError(
            f"The result is complete in {run}, but it was not uploaded to {repo_id}: {one_line(error)} Start the same "
            "command with --resume_from_checkpoint latest to try it again."
        ) from None
    say(f"Uploaded: {place.commit_url}")
