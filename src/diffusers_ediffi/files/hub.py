# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Uploads to the Hugging Face Hub: all that can fail is looked at first, then a folder goes there in one commit, with
its model card. On this machine nothing is changed."""

import fnmatch
import inspect
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, get_token
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from .card import CARD, CardText, choose_card, read_results
from .card_links import linked_files
from .licences import NOTICES, RECORD, Duties, check_shareable, licence_of_card
from .places import configs_without_places
from .whole import superseded

# What `push_to_hub` takes and `save_pretrained(push_to_hub=True)` passes on to it.
ARGUMENTS = (
    "commit_message",
    "private",
    "token",
    "create_pr",
    "subfolder",
    "license",
    "model_card",
    "results",
)
ROOM = 2**26  # what is left free on the disk
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
# A folder in the cache of the Hub's client, which need not hold all files of the repository.
IN_CACHE = re.compile(r".*/models--([\w.-]+?)--([\w.-]+)/snapshots/([0-9a-f]{40})(/[\w./-]*)?")


@dataclass(frozen=True)
class Model:
    """What is uploaded.

    Args:
        name (`str`): Its class.
        describe (`Callable`): Its card, for the id of the repository.
        parts (`list` of `str`): Patterns of the files and folders that its `save_pretrained` writes.
        origins (`dict`): Folders and ids on the Hub that it was loaded from, and for each where in the repository the
            part is that came from there; the top is an empty text.
        more (`Callable`, *optional*): Further files, by their places in the repository, of the folder it was saved to.
        num_bytes (`int`): Of its weights.
    """

    name: str
    describe: Callable[[str], CardText]
    parts: Sequence[str]
    origins: Mapping[str, str]
    more: Callable[[Path], Mapping[str, bytes]] = lambda folder: {}
    num_bytes: int = 0


class Content:
    """What goes into a repository beside what `save_pretrained` writes: it is complete before anything is asked of the
    Hub.

    Args:
        model ([`Model`]): What is uploaded.
        find (`Callable`): The folder of an origin of the model, `None` where there is none any more.
        license, model_card, results: See [`Push`].
        folder (`Path`, *optional*): Where it is uploaded from, whose card is kept.
        share (`bool`): Whether licences have to allow to pass the weights on.

    Raises:
        ValueError: A licence forbids the upload, or a file is not what it should be.
        OSError: A file is missing.
    """

    def __init__(
        self,
        model: Model,
        find: Callable[[str], Path | None],
        license: str | None = None,
        model_card: str | os.PathLike | None = None,
        results: str | os.PathLike | Sequence[str | os.PathLike] = (),
        folder: Path | None = None,
        share: bool = True,
    ):
        self.model, self.share = model, share
        self.results = read_results(results)
        self.given = None if model_card is None else Path(model_card)
        parts = {CARD, *(part.split("/")[0] for part in model.parts)}
        self.linked = linked_files(self.given, parts, folder) if self.given else []
        folders = {find(name): place for name, place in model.origins.items()}
        duties = Duties.of({found: place for found, place in folders.items() if found is not None})
        self.duties = duties if license is None else replace(duties, licence=license)
        here = None if folder is None else folder / CARD
        self.cards = [here.read_text(encoding="utf-8")] if here and here.is_file() else []
        if share:
            check_shareable(duties.sources, None)

    def files(self, repo_id: str, cards: Sequence[str] = ()) -> dict[str, bytes | Path]:
        """The files by their places; `cards` are those that the repository has.

        Raises:
            ValueError: The licence of the card is not the one that the sources ask for.
        """
        describe = partial(self.model.describe, repo_id)
        card = choose_card(describe, self.given, [*cards, *self.cards], self.results, self.duties)
        if self.share:
            check_shareable(self.duties.sources, licence_of_card(card))
        files: dict[str, bytes | Path] = {**self.duties.files}
        files |= {path.as_posix(): self.given.parent / path for path in self.linked} if self.given else {}
        files |= {result.name: result.text.encode() for result in self.results}
        return files | {CARD: card.encode()}


class Push:
    """An upload that is known to be allowed; `upload` does it.

    Args:
        model ([`Model`]): What is uploaded.
        repo_id (`str`): The repository, `org/name`, or `name` for the account's own. It is made where there is none.
        commit_message (`str`, *optional*): "Upload" and the class by default.
        private (`bool`, *optional*): Whether a new repository is private.
        token (`str`, *optional*): Of the account, by default that of `hf auth login`.
        create_pr (`bool`): Whether to open a pull request instead of committing.
        subfolder (`str`, *optional*): Where in the repository it goes; then there is no card.
        license, model_card, results: See [`PushToHub.push_to_hub`].
        folder (`Path`, *optional*): Where it will be uploaded from, whose card is kept.

    Raises:
        ValueError: The name is none, or a licence forbids the upload.
        OSError: A file is missing; there is no token; the repository cannot be made, read or written to.
    """

    def __init__(
        self,
        model: Model,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        subfolder: str | None = None,
        license: str | None = None,
        model_card: str | os.PathLike | None = None,
        results: str | os.PathLike | Sequence[str | os.PathLike] = (),
        folder: Path | None = None,
    ):
        self.model, self.create_pr, self.subfolder = model, create_pr, (subfolder or "").strip("/")
        self.commit_message = commit_message or f"Upload {model.name}"
        self.api = HfApi(token=token)
        _check_names(repo_id, token)
        content = Content(model, lambda name: self._origin(name, license), license, model_card, results, folder)
        content.files(repo_id)  # what fails, fails before the repository is made
        self.repo_id = self._create(repo_id, private)
        self.files = content.files(self.repo_id, self._cards())
        card = self.files[CARD]
        assert isinstance(card, bytes)
        self._validate(card.decode())
        if self.subfolder:
            self.files = {**content.duties.files}

    def _origin(self, name: str, license: str | None) -> Path | None:
        """A folder that was loaded from; of a repository its card, notices and records alone; `None` where there is
        none any more, or `license` says all that can be said of it."""
        cached = IN_CACHE.fullmatch(name.replace("\\", "/"))  # as Windows writes it
        is_folder, repo_id = Path(name).is_dir(), f"{cached[1]}/{cached[2]}" if cached else name
        if not cached and (is_folder or not HUB_ID.fullmatch(name)):
            return Path(name) if is_folder else None
        wanted = [CARD, *NOTICES, RECORD, f"*/{RECORD}"]
        revision = cached[3] if cached else None
        try:
            with hub_errors(f"{repo_id}, which this was loaded from, does not tell its licence (pass license=)"):
                found = self.api.snapshot_download(repo_id, revision=revision, allow_patterns=wanted)
        except OSError:
            if license is None:
                raise
            return None
        return Path(name) if is_folder else Path(found)

    def _create(self, repo_id: str, private: bool | None) -> str:
        """Makes the repository and finds out whether it can be written to; returns its whole id."""
        with hub_errors(f"there can be no repository {repo_id!r}, and nothing was uploaded"):
            found = self.api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if not self.create_pr and "write" in inspect.signature(HfApi.auth_check).parameters:
            with hub_errors(f"{found!r} cannot be written to by this account (create_pr=True would open a request)"):
                self.api.auth_check(found, write=True)
        return found

    def _cards(self) -> list[str]:
        """The card in the repository, if there is one."""
        with tempfile.TemporaryDirectory() as folder, hub_errors(f"the card of {self.repo_id!r} cannot be read"):
            try:
                path = self.api.hf_hub_download(self.repo_id, CARD, local_dir=folder)
                return [Path(path).read_text(encoding="utf-8")]
            except LocalEntryNotFoundError:  # what the client says where it does not know
                raise
            except (EntryNotFoundError, RepositoryNotFoundError):
                return []

    def _validate(self, card: str) -> None:
        """Asks the Hub whether it takes the metadata of the card."""
        try:
            with hub_errors("the model card cannot be checked"):
                ModelCard(card).validate()
        except ValueError as error:
            raise ValueError(f"the Hub does not take the metadata of the model card: {one_line(error)}") from None

    def check_room(self) -> None:
        """Refuses to write a copy where there is no room for it.

        Raises:
            OSError: There is none.
        """
        place, needed = tempfile.gettempdir(), self.model.num_bytes + ROOM
        free = shutil.disk_usage(place).free
        if free < needed:
            raise OSError(
                f"{place} has {free / 1e9:.1f} GB free, and the copy that is uploaded needs {needed / 1e9:.1f} GB: "
                "set TMPDIR to a folder with room."
            )

    def upload_saved(self, folder: str | os.PathLike) -> Any:
        """Uploads a folder that stays where it is; see `upload`."""
        return self.upload(Path(folder), kept=True)

    def files_of(self, folder: Path) -> dict[str, bytes | Path]:
        """All that is uploaded of a folder, by its place, without the names of folders of this machine."""
        paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        files: dict[str, bytes | Path] = {
            name: path for name, path in paths.items() if any(fnmatch.fnmatch(name, part) for part in self.model.parts)
        }
        files |= {name: text.encode() for name, text in configs_without_places(folder).items() if name in files}
        files.update(self.files)
        files.update({} if self.subfolder else self.model.more(folder))
        return files

    def upload(self, folder: Path, kept: bool = False) -> Any:
        """Uploads what `save_pretrained` wrote to a folder, in the place of earlier weights of the same variant.
        `kept` says that the folder stays there after an error.

        Raises:
            OSError: It failed; the message says whether the folder is there.
        """
        files = self.files_of(folder)
        start = f"{self.subfolder}/" if self.subfolder else ""
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(f"{start}{name}", value if isinstance(value, bytes) else str(value.resolve()))
            for name, value in sorted(files.items())
        ]
        complete = f"; it is complete in {folder}" if kept else ""
        with hub_errors(f"it was not uploaded to {self.repo_id!r}{complete}"):
            # diffusers would go on loading the shards of an earlier upload, which a single file does not overwrite.
            older = superseded(self.api.list_repo_files(self.repo_id), {part.path_in_repo for part in operations})
            operations += [CommitOperationDelete(path) for path in older]
            return self.api.create_commit(
                self.repo_id, operations, commit_message=self.commit_message, create_pr=self.create_pr
            )


def _check_names(repo_id: str, token: Any) -> None:
    """Refuses what no Hub need be asked about."""
    if HF_HUB_OFFLINE:
        raise OSError(f"{repo_id!r} cannot be uploaded to: HF_HUB_OFFLINE is set. Unset it.")
    try:
        validate_repo_id(repo_id)
    except ValueError as error:
        raise ValueError(f"repo_id={repo_id!r} is no name of a repository, org/name: {error}") from None
    if token is False or not (token or get_token()):
        raise OSError(
            f"there is no token to write to {repo_id!r} with: log in by `hf auth login`, set HF_TOKEN, or pass token=."
        )


class PushToHub:
    """`push_to_hub`, and `save_pretrained(push_to_hub=True)`, with a model card.

    A class before diffusers' own among the bases; it has a `_hub_model` that gives a [`Model`].
    """

    def _hub_model(self) -> Model:
        raise NotImplementedError

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
        subfolder: str | None = None,
        max_shard_size: int | str | None = None,
        license: str | None = None,
        model_card: str | os.PathLike | None = None,
        results: str | os.PathLike | Sequence[str | os.PathLike] = (),
    ) -> Any:
        """Uploads to the Hugging Face Hub, in one commit, with a model card.

        A card that is there already stays, unless it is one of this package that nobody has changed.

        Args:
            repo_id (`str`): The repository, `org/name`, or `name` for the account's own; made where there is none.
            commit_message (`str`, *optional*): "Upload" and the class by default.
            private (`bool`, *optional*): Whether a new repository is private.
            token (`str`, *optional*): Of the account, by default that of `hf auth login`.
            create_pr (`bool`, *optional*, defaults to `False`): Whether to open a pull request instead.
            safe_serialization (`bool`, *optional*, defaults to `True`): Whether to write safetensors files.
            variant (`str`, *optional*): Name of a variant such as `fp16`.
            subfolder (`str`, *optional*): Where in the repository it goes; then there is no card.
            max_shard_size (`int` or `str`, *optional*): Largest size of a weight file.
            license (`str`, *optional*): Of the weights, as the Hub names it; by default that of what they were loaded
                or converted from.
            model_card (`str` or `os.PathLike`, *optional*): A card of your own, which brings the files that it links.
            results (`list` of `str` or `os.PathLike`, *optional*): Files that `ediffi evaluate` wrote (`card.json`);
                they go along, and their figures into the card.

        Returns:
            The address of the commit (`CommitInfo`).

        Raises:
            ValueError: `repo_id` is no name, or a licence forbids the upload. Nothing was asked of the Hub.
            OSError: There is no token or no room, the repository cannot be made or written to, or the upload failed.
        """
        push = Push(
            self._hub_model(),
            repo_id,
            commit_message=commit_message,
            private=private,
            token=token,
            create_pr=create_pr,
            subfolder=subfolder,
            license=license,
            model_card=model_card,
            results=results,
        )
        push.check_room()
        how = {"safe_serialization": safe_serialization, "variant": variant, "max_shard_size": max_shard_size}
        taken = inspect.signature(self.save_pretrained).parameters  # type: ignore[attr-defined]
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root) / "model"
            how = {name: value for name, value in how.items() if name in taken and value is not None}
            self.save_pretrained(folder, **how)  # type: ignore[attr-defined]
            return push.upload(folder)

    def _push_of(self, folder: str | os.PathLike, kwargs: dict[str, Any]) -> Push:
        """The upload that `save_pretrained(folder, push_to_hub=True, **kwargs)` asks for; takes its arguments out of
        `kwargs`."""
        repo_id = kwargs.pop("repo_id", None) or Path(folder).resolve().name
        given = {name: kwargs.pop(name) for name in ARGUMENTS if name in kwargs}
        return Push(self._hub_model(), repo_id, **given, folder=Path(folder))


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Turns whatever the Hub's client raises into an `OSError` of one line that begins with `what`; errors of values
    stay what they are."""
    try:
        yield
    except Exception as error:  # which ones depends on the library that the client asks with
        if isinstance(error, ValueError) and not isinstance(error, OSError):
            raise
        raise OSError(f"{what}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """The message of an error on one line; the name of its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
