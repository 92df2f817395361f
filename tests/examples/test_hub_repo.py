# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""The script that makes a folder ready for the Hub, with what `push_to_hub` uploads of a pipeline."""

import json
import re
import shutil

import pytest
from helpers import tiny_pipeline
from helpers_examples import EXAMPLES, import_script, run_script, start_script
from helpers_hub import COMMIT, REPO, TOKEN, environment_of, serving


def test_prepare_refuses_a_folder_without_a_pipeline(tmp_path):
    result = run_script("hub/prepare_hub_repo", tmp_path)
    assert result.returncode == 2 and result.stderr.startswith("error: ") and "model_index.json" in result.stderr
    assert not any(tmp_path.iterdir())


def test_the_model_card_brings_what_it_links(tmp_path):
    folder = tmp_path / "repo"
    tiny_pipeline(unet_sr1024=None, scheduler_sr1024=None).save_pretrained(folder)
    result = run_script("hub/prepare_hub_repo", folder, "--model-card", EXAMPLES.parent / "model_card.md")
    assert result.returncode == 0, result.stderr
    links = re.findall(r"\]\((docs/[^)]+)\)", (folder / "README.md").read_text())
    assert links and all((folder / link).exists() for link in links)
    card = tmp_path / "card.md"
    card.write_text("[a](https://example.org) [b](#part) ![c](missing.png)")
    result = run_script("hub/prepare_hub_repo", folder, "--model-card", card)
    assert result.returncode == 2 and "missing.png" in result.stderr and "Traceback" not in result.stderr


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """Prepares a repository with a card of this text; returns the names of what came along."""
    script = import_script("hub/prepare_hub_repo", monkeypatch)
    repo, card = tmp_path / "upload" / "repo", tmp_path / "project" / "docs" / "card.md"
    (repo / "unet").mkdir(parents=True)
    (repo / "unet" / "config.json").write_text('{"weights": "theirs"}')
    index = {"_class_name": "EDiffIPipeline", "unet": ["diffusers_ediffi", "EDiffIUNet"]}
    (repo / "model_index.json").write_text(json.dumps(index))
    for name in ("cat.png", "cat 1.png", "more/dog.png", "more/.secret", "unet/config.json"):
        (card.parent / "pics" / name).parent.mkdir(parents=True, exist_ok=True)
        (card.parent / "pics" / name).write_text(name)
    (card.parents[1] / "LICENSE").write_text("theirs")
    (repo.parent / "LICENSE").write_text("mine")

    def names(text: str) -> set[str]:
        before = set(repo.rglob("*"))
        card.write_text(text)
        written = script.prepare(repo, card)
        assert all(path.resolve().is_relative_to(repo) for path in written)
        assert (repo.parent / "LICENSE").read_text() == "mine"
        assert (repo / "unet" / "config.json").read_text() == '{"weights": "theirs"}'
        found = {path for path in repo.rglob("*") if path.is_file() and "pics" in path.parts}
        for path in found - before:
            path.unlink()
        return {path.relative_to(repo / "pics").as_posix() for path in found}

    names.repo, names.card = repo, card
    return names


@pytest.mark.parametrize(
    "text, expected",
    [
        ("![cat](pics/cat.png)", {"cat.png"}),
        ('![cat](pics/cat.png "A (grey) cat")', {"cat.png"}),
        ("![cat](pics/cat%201.png)", {"cat 1.png"}),
        ("![cat](<pics/cat 1.png>)", {"cat 1.png"}),
        ("![cat][1]\n\n[1]: pics/cat.png", {"cat.png"}),
        ("[![cat](pics/cat.png)](pics/more/dog.png#part)", {"cat.png", "more/dog.png"}),
        ('<img src="pics/cat.png">', {"cat.png"}),
        ('a <a href="pics/more/dog.png?raw=1">dog</a>', {"more/dog.png"}),
        ("| a |\n|---|\n| ![cat](pics/cat.png) |", {"cat.png"}),
        ("[all](pics/more)", {"more/dog.png"}),
        ("[all](pics/../pics/cat.png)", {"cat.png"}),
        ('```python\nimage = pipes["demo"](prompt).images[0]\n```', set()),
        ('`registry["a"](b)` and    \n\n    indented["code"](c)', set()),
        ("<!-- ![old](pics/gone.png) -->", set()),
        ("[a](https://example.org/x.png) [b](#part) [c](mailto:a@b.c) [d](/docs) [e](//host/x)", set()),
        ("[the weights' config](unet/config.json)", set()),
    ],
)
def test_links_are_those_that_a_reader_of_markdown_sees(prepare, text, expected):
    assert prepare(text) == expected


@pytest.mark.parametrize("text", ["[licence](../LICENSE)", "[x](pics/../../LICENSE)", "[x](leads/LICENSE)"])
def test_what_lies_outside_of_the_cards_folder_is_not_copied(prepare, text):
    (prepare.card.parent / "leads").symlink_to("..")
    with pytest.warns(UserWarning, match="which is not in its folder: not copied"):
        assert prepare(text) == set()


def test_links_do_not_lead_out_of_the_repository(prepare):
    (prepare.repo / "pics").symlink_to("..")
    with pytest.raises(ValueError, match="leads out of"):
        prepare("![cat](pics/cat.png)")


@pytest.mark.parametrize("name", ["unet/config.json", "model_index.json", "pipeline.py"])
def test_a_link_does_not_replace_a_part_of_the_pipeline(prepare, name):
    path = prepare.card.parent / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with pytest.raises(ValueError, match=f"links {name}, which would replace a part of the pipeline"):
        prepare(f"[x]({name})")


def test_configs_do_not_name_the_folders_of_a_machine(prepare):
    places = {"_name_or_path": "/home/me/secret", "unets": [{"_name_or_path": "../secret/run", "a": 1}]}
    (prepare.repo / "vae").mkdir()
    (prepare.repo / "vae" / "config.json").write_text(json.dumps({**places, "b": [{"_name_or_path": "org/name"}]}))
    prepare("")
    found = json.loads((prepare.repo / "vae" / "config.json").read_text())
    assert found == {"unets": [{"a": 1}], "b": [{"_name_or_path": "org/name"}]}


@pytest.mark.parametrize(
    "index",
    [
        [],
        "text",
        {"_class_name": "StableDiffusionPipeline"},
        {"_class_name": "EDiffIPipeline", "../outside": ["diffusers_ediffi", "EDiffIUNet"]},
        {"_class_name": "EDiffIPipeline", "leads": ["diffusers_ediffi", "EDiffIUNet"]},
        {"_class_name": "EDiffIPipeline", "missing": ["diffusers_ediffi", "EDiffIUNet"]},
        {"_class_name": "EDiffIPipeline", "unet": ["diffusers_ediffi", "EDiffIUNet\nimport os"]},
    ],
)
def test_an_index_of_strangers_leads_nowhere_else(prepare, index):
    outside = prepare.repo.parent / "outside"
    outside.mkdir()
    (prepare.repo / "leads").symlink_to(outside)
    (prepare.repo / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="holds a|names a component"):
        prepare("")
    assert not any(outside.iterdir()) and not (prepare.repo / "pipeline.py").exists()


@pytest.mark.parametrize("name", ["README.md", "pipeline.py", "unet/diffusers_ediffi.py", "unet/other.json"])
def test_what_a_link_leads_to_stays_as_it_is(prepare, name):
    """In the cache of the Hub all files are links."""
    blob = prepare.repo.parent / "blob"
    blob.write_text('{"_name_or_path": "/home/me"}')
    (prepare.repo / name).symlink_to(blob)
    prepare("new")
    assert blob.read_text() == '{"_name_or_path": "/home/me"}'
    assert not (prepare.repo / name).is_symlink() and "/home/me" not in (prepare.repo / name).read_text()


SHAREABLE = {"name": "org/a", "license": "mit", "sha256": {"a.safetensors": "1" * 64}}
EDM = {"name": "edm.pkl", "license": "cc-by-nc-sa-4.0", "sha256": "2" * 64}
IF = {"license": "deepfloyd-if-license", "parts": {"unet": {"name": "DeepFloyd/IF", "sha256": {"b": "3" * 64}}}}


def as_record(*sources):
    return {"converter": "from_x.py", "unets": list(sources)}


@pytest.fixture
def converted(prepare, monkeypatch):
    """Prepares a repository with the record of a conversion; a push is refused or would have happened."""
    script = import_script("hub/prepare_hub_repo", monkeypatch)
    pushed = []

    class NoPush(script.Push):
        """An upload that asks no Hub."""

        def _create(self, repo_id, private):
            pushed.append((repo_id, private))
            return repo_id

        def _cards(self):
            return []

        def _validate(self, card):
            pass

        def upload_saved(self, folder):
            return "done"

    monkeypatch.setattr(script, "Push", NoPush)
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    def run(record, card="", *more):
        (prepare.repo / "unet" / "conversion.json").write_text(json.dumps(record))
        prepare.card.write_text(card)
        monkeypatch.setattr("sys.argv", ["x", str(prepare.repo), "--model-card", str(prepare.card), *more])
        script.main()
        return (prepare.repo / "README.md").read_text()

    run.pushed, run.repo = pushed, prepare.repo
    return run


def test_the_card_names_sources_licences_and_hashes(converted):
    card = "---\nlicense: cc-by-nc-sa-4.0\n---\n# Mine\n\n## Converted from\n\nstale words\n\n## More\n\ntext\n"
    text = converted(as_record(SHAREABLE, EDM), card, "--push", "org/mine")
    assert (
        f"| org/a | mit | keep the copyright notice and the text of the licence | a.safetensors | `{'1' * 64}` |"
        in text
    )
    assert "| edm.pkl | cc-by-nc-sa-4.0 | name the authors" in text and f"`{'2' * 64}`" in text
    assert text.count("## Converted from") == 1 and "stale words" not in text and "## More\n\ntext" in text
    assert converted.pushed == [("org/mine", False)]
    assert converted(as_record(SHAREABLE), text).count("## Converted from") == 1


def test_a_model_without_a_card_gets_one(tmp_path, monkeypatch):
    tiny_pipeline().save_pretrained(tmp_path)
    for record, licence in ((as_record(SHAREABLE), "mit"), (as_record(SHAREABLE, EDM), "cc-by-nc-sa-4.0")):
        (tmp_path / "unet" / "conversion.json").write_text(json.dumps(record))
        import_script("hub/prepare_hub_repo", monkeypatch).prepare(tmp_path)
        text = (tmp_path / "README.md").read_text()
        assert f"\nlicense: {licence}\n" in text.split("---")[1]
        assert "## Converted from" in text and "## Stages" in text


@pytest.mark.parametrize(
    ("record", "card", "message"),
    [
        (IF, "", "DeepFloyd/IF is under 'deepfloyd-if-license' and is not uploaded: its grant is personal"),
        (as_record(SHAREABLE, {**SHAREABLE, "license": "cc-by-nd-4.0"}), "", "lets nobody share what was changed"),
        (as_record({**SHAREABLE, "license": None}), "", "org/a is of no known licence"),
        (
            as_record({**SHAREABLE, "license": "mine-1"}),
            "",
            "under 'mine-1', which diffusers_ediffi.files.licences does not",
        ),
        (as_record(EDM), "---\nlicense: mit\n---\n", "the same licence; the model card says 'mit': write license: cc"),
        (as_record(), "", "names no source"),
        (["unets"], "", "names no source"),
    ],
)
def test_what_may_not_be_passed_on_is_not_uploaded(converted, record, card, message):
    before = {path: path.read_bytes() for path in converted.repo.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=message):
        converted(record, card, "--push", "org/mine")
    after = {path: path.read_bytes() for path in converted.repo.rglob("*") if path.is_file()}
    after.pop(converted.repo / "unet" / "conversion.json")
    assert not converted.pushed and after == before


def test_it_may_be_kept_all_the_same(converted):
    assert "deepfloyd-if-license" in converted(IF) and not converted.pushed


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts the script on a pipeline that was converted from a source of this licence; a Hub says what it got."""
    (tmp_path / "hub").mkdir()
    tiny_pipeline(unet_sr1024=None, scheduler_sr1024=None).save_pretrained(tmp_path / "saved")
    with serving(tmp_path / "hub") as (address, hub):
        for name, value in {**environment_of(address, tmp_path / "cache"), "HF_TOKEN": TOKEN}.items():
            monkeypatch.setenv(name, value)

        def run(license):
            folder = tmp_path / "converted"
            shutil.copytree(tmp_path / "saved", folder)
            source = {"name": "org/source", "license": license, "sha256": {"a.safetensors": "0" * 64}}
            (folder / "conversion.json").write_text(json.dumps({"converter": "x", "checkpoint": source}))
            return start_script("hub/prepare_hub_repo", folder, "--push", REPO), folder

        yield run, hub


def test_a_converted_model_is_uploaded_with_its_card(start):
    run, hub = start
    result, folder = run("creativeml-openrail-m")
    assert result.returncode == 0, result.stderr
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    received = {name: path.read_bytes() for name, path in hub.files().items()}
    assert received == {name: path.read_bytes() for name, path in files.items()}
    assert b"license: creativeml-openrail-m" in received["README.md"] and b"0" * 64 in received["README.md"]
    assert result.stdout.splitlines()[-1].endswith(COMMIT)


def test_nothing_is_asked_of_the_hub_where_a_licence_forbids_it(start):
    run, hub = start
    result, folder = run("deepfloyd-if-license")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "'deepfloyd-if-license' and is not uploaded: its grant is personal" in result.stderr
    assert not hub.asked and not (folder / "README.md").exists()
