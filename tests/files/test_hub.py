# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`push_to_hub` of pipelines, networks, experts and schedulers, to a Hub on this machine. tests/test_hub.py loads them
as a user would."""

import json
import shutil

import pytest
import torch
from helpers import tiny_pipeline, tiny_unet
from helpers_hub import COMMIT, REPO, TOKEN, hub_in_this_process
from huggingface_hub import ModelCard

from diffusers_ediffi import (
    EDiffIPipeline,
    EDiffIUNet,
    EDMDEISScheduler,
    ExpertRouterUNet,
    LoraExpert,
    demo_checkpoint,
    factorize_expert,
)
from diffusers_ediffi.files import hub as hub_module
from diffusers_ediffi.pipelines.card import pipeline_card

THEIRS = "---\nlicense: mit\nlibrary_name: diffusers\n---\n\n# Theirs\n"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    (tmp_path / "hub").mkdir()
    with hub_in_this_process(tmp_path / "hub", monkeypatch, tmp_path / "home") as hub:
        yield hub


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline(unet_sr256=None, scheduler_sr256=None, unet_sr1024=None, scheduler_sr1024=None)


def same(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def card_of(hub):
    card = ModelCard((hub.folder / "README.md").read_text())
    assert "/api/validate-yaml" in hub.asked and card.data.library_name == "diffusers"
    return card


def test_a_network_is_pushed_alone(hub):
    unet = tiny_unet(1)
    assert unet.push_to_hub(REPO).endswith(COMMIT)
    assert set(hub.files()) == {"config.json", "diffusion_pytorch_model.safetensors", "README.md"}
    assert same(EDiffIUNet.from_pretrained(hub.folder), unet)
    assert f"EDiffIUNet.from_pretrained('{REPO}')" in card_of(hub).text
    assert set(hub.tokens) - {""} == {TOKEN}


@pytest.mark.parametrize("shared", [False, True])
def test_experts_are_pushed_alone(hub, shared):
    if shared:
        base = tiny_unet(0)
        experts = [factorize_expert(tiny_unet(i), base, rank=2) for i in (1, 2)]
        router = ExpertRouterUNet.from_lora_experts(base, experts, [0.5])
    else:
        router = ExpertRouterUNet.from_unets([tiny_unet(1), tiny_unet(2)], boundaries=[0.5])
    router.push_to_hub(REPO, variant="fp16")
    assert "experts.fp16.json" in hub.files() and ("expert.base/config.json" in hub.files()) == shared
    assert ExpertRouterUNet.from_pretrained(hub.folder, variant="fp16").boundaries == [0.5]
    assert "| expert.1 | sigma 0.5 to inf |" in card_of(hub).text


@pytest.mark.parametrize(("first", "second"), [({"max_shard_size": "200KB"}, {}), ({}, {"safe_serialization": False})])
def test_weights_that_are_pushed_take_the_place_of_earlier_ones(hub, first, second):
    tiny_unet(1).push_to_hub(REPO, **first)
    tiny_unet(2).push_to_hub(REPO, variant="fp16", **first)
    (hub.folder / "samples.safetensors").write_bytes(b"of somebody")
    variant = {name for name in hub.files() if "fp16" in name}
    unet = tiny_unet(3)
    unet.push_to_hub(REPO, **second)
    assert same(EDiffIUNet.from_pretrained(hub.folder), unet)
    weights = f"diffusion_pytorch_model.{'safetensors' if not second else 'bin'}"
    assert set(hub.files()) == variant | {"config.json", "README.md", "samples.safetensors", weights}


@pytest.mark.parametrize("subfolder", [None, "small"])
def test_no_paths_of_this_machine_go_along(hub, pipe, tmp_path, subfolder):
    pipe.save_pretrained(tmp_path / "saved")
    ExpertRouterUNet.from_unets([tiny_unet(i) for i in range(2)], boundaries=[1.0]).save_pretrained(
        tmp_path / "router"
    )
    for model in (
        EDiffIPipeline.from_pretrained(tmp_path / "saved"),
        EDiffIUNet.from_pretrained(tmp_path / "saved", subfolder="unet"),
        ExpertRouterUNet.from_pretrained(tmp_path / "router"),
    ):
        model.push_to_hub(REPO, subfolder=subfolder)
        assert not [name for name, path in hub.files().items() if str(tmp_path).encode() in path.read_bytes()]


def test_fewer_experts_take_the_place_of_more(hub):
    ExpertRouterUNet.from_unets([tiny_unet(i) for i in range(3)], boundaries=[0.5, 2.0]).push_to_hub(REPO)
    ExpertRouterUNet.from_unets([tiny_unet(i) for i in range(2)], boundaries=[1.0]).push_to_hub(REPO)
    assert {name.split("/")[0] for name in hub.files() if "/" in name} == {"expert.0", "expert.1"}


def test_a_lora_expert_is_pushed_alone(hub):
    base = tiny_unet(0)
    expert = factorize_expert(tiny_unet(1), base, rank=2)
    expert.push_to_hub(REPO)
    assert set(hub.files()) == {"expert.safetensors", "README.md"}
    loaded = LoraExpert.from_pretrained(hub.folder)
    assert same(loaded.merge(base), expert.merge(base))
    assert "| rank | 2 |" in card_of(hub).text
    with pytest.raises(OSError, match="neither a folder nor the id"):
        LoraExpert.from_pretrained("no/such/folder")


def test_a_scheduler_is_pushed_alone(hub, tmp_path):
    scheduler = EDMDEISScheduler(sigma_max=40.0)
    scheduler.push_to_hub(REPO)
    assert set(hub.files()) == {"scheduler_config.json", "README.md"}
    assert EDMDEISScheduler.from_pretrained(hub.folder).config.sigma_max == 40.0
    assert "| sigma_max | 40.0 |" in card_of(hub).text
    scheduler.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id=REPO, commit_message="mine")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {"scheduler_config.json"}


def test_save_pretrained_pushes_what_it_saved_and_nothing_else_of_the_folder(hub, pipe, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "secret.txt").write_text("not for others")
    pipe.save_pretrained(folder, push_to_hub=True, repo_id=REPO, max_shard_size="20KB")
    files = set(hub.files())
    assert "secret.txt" not in files and "unet/diffusion_pytorch_model.safetensors.index.json" in files
    assert {"pipeline.py", "unet/diffusers_ediffi.py", "README.md"} < files
    assert not {"pipeline.py", "README.md"} & {path.name for path in folder.rglob("*")}
    assert (folder / "secret.txt").exists() and EDiffIPipeline.from_pretrained(folder)


def test_the_card_says_what_the_pipeline_is(hub, tmp_path):
    router = ExpertRouterUNet.from_unets([tiny_unet(1), tiny_unet(2)], boundaries=[0.5])
    pipe = tiny_pipeline(unet=router, unet_sr1024=None, scheduler_sr1024=None, default_num_inference_steps=(4, 2, 1))
    results = tmp_path / "card.json"
    results.write_text(json.dumps({"metrics": {"cmmd": 0.5}, "pictures": {"count": 9}}))
    pipe.push_to_hub(REPO, results=[results], license="mit")
    card = card_of(hub)
    assert card.data.license == "mit" and card.data.pipeline_tag == "text-to-image"
    # Of the four sigmas 80, 9.7, 0.47, 0.002 of Karras's grid, two are below the boundary.
    for line in (
        "| base | 8 x 8 | 4 | 5 |",
        "| SR256 | 32 x 32 | 2 |",
        "| base | expert.0 | sigma 0 to 0.5 | 2 of 4 |",
        "| `text_encoder_2` | `T5EncoderModel` | t5 |",
        f"custom_pipeline='{REPO}', trust_remote_code=True",
    ):
        assert line in card.text
    (result,) = card.data.eval_results
    assert result.metric_value == 0.5 and hub.files()[f"evaluation/{tmp_path.name}.json"].read_text()


def test_the_demo_model_takes_its_notice_along():
    pipe = EDiffIPipeline.from_pretrained(demo_checkpoint())
    content = hub_module.Content(pipe._hub_model(), hub_module.Path)
    files = content.files("me/demo")
    assert "Noto Emoji" in files["NOTICE"].read_text()
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "apache-2.0" and "[NOTICE](NOTICE)" in card.text
    assert "red mushroom" in card.text and "| base | expert.2 |" in card.text
    assert "/" not in str(card.data.base_model)


def test_a_card_of_others_stays_and_one_of_ours_is_renewed(hub, pipe, tmp_path):
    (hub.folder / "README.md").write_text(THEIRS)
    pipe.push_to_hub(REPO)
    assert (hub.folder / "README.md").read_text() == THEIRS
    (hub.folder / "README.md").write_text(pipeline_card(pipe, "org/old").text())
    pipe.push_to_hub(REPO)
    assert "# tiny\n" in (hub.folder / "README.md").read_text()
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics" / "cat.png").write_bytes(b"a cat")
    (tmp_path / "card.md").write_text("# Mine\n![cat](pics/cat.png) [config](unet/config.json)\n")
    pipe.push_to_hub(REPO, model_card=tmp_path / "card.md")
    assert "# Mine" in (hub.folder / "README.md").read_text() and "pics/cat.png" in hub.files()


@pytest.mark.parametrize("part", ["", "unet"])
def test_licences_go_along_from_where_the_weights_come(hub, pipe, tmp_path, part):
    origin = tmp_path / "origin"
    pipe.save_pretrained(origin)
    source = {"name": "org/source", "license": "cc-by-nc-sa-4.0", "sha256": {"a": "0" * 64}}
    (origin / part / "conversion.json").write_text(json.dumps({"checkpoint": source}))
    (origin / "LICENSE.txt").write_text("words of the law")
    loaded = EDiffIPipeline.from_pretrained(origin)
    loaded.push_to_hub(REPO)
    assert {"LICENSE.txt", f"{part}/conversion.json".lstrip("/")} < set(hub.files())
    card = card_of(hub)
    assert card.data.license == "cc-by-nc-sa-4.0" and "0" * 64 in card.text
    assert not any(str(tmp_path) in path.read_text(errors="ignore") for path in hub.files().values())
    with pytest.raises(ValueError, match="asks for the same licence; the model card says 'mit'"):
        loaded.push_to_hub(REPO, license="mit")


def test_what_may_not_be_passed_on_is_not_uploaded(hub, pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "origin")
    source = {"name": "DeepFloyd/IF", "license": "deepfloyd-if-license", "sha256": {"a": "0" * 64}}
    (tmp_path / "origin" / "unet" / "conversion.json").write_text(json.dumps(source))
    loaded = EDiffIPipeline.from_pretrained(tmp_path / "origin")
    for push in (loaded.push_to_hub, loaded.unet.push_to_hub):
        with pytest.raises(ValueError, match="is not uploaded: its grant is personal"):
            push(REPO)
    assert not hub.asked and not hub.files()


def test_a_pipeline_of_the_hub_keeps_its_licence(hub, pipe):
    pipe.push_to_hub(REPO, license="openrail")
    loaded = EDiffIPipeline.from_pipe(pipe)
    loaded.register_to_config(_name_or_path=REPO)  # as `from_pretrained(REPO)` does
    (hub.folder / "NOTICE").write_text("of the first")
    content = hub_module.Push(loaded._hub_model(), REPO)
    assert content.files["NOTICE"].read_text() == "of the first"
    assert b"license: openrail" in content.files["README.md"] and b"base_model: org/tiny" in content.files["README.md"]


@pytest.mark.parametrize("cache", ["/home/me/hub/", "C:\\Users\\me\\hub\\"])
def test_a_part_from_the_cache_of_the_hub_keeps_its_licence(hub, cache):
    tiny_unet(1).push_to_hub(REPO, license="openrail")
    unet = tiny_unet(2)
    place = f"models--org--tiny/snapshots/{COMMIT}".replace("/", "\\" if "\\" in cache else "/")
    unet.register_to_config(_name_or_path=cache + place)
    assert b"license: openrail" in hub_module.Push(unet._hub_model(), REPO).files["README.md"]


@pytest.mark.parametrize("route", ["push_to_hub", "save_pretrained"])
def test_what_cannot_be_is_said_before_anything_is_written(hub, pipe, tmp_path, monkeypatch, route):
    def push(repo_id, **more):
        if route == "push_to_hub":
            return pipe.push_to_hub(repo_id, **more)
        return pipe.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id=repo_id, **more)

    monkeypatch.setattr(EDiffIUNet, "save_pretrained", None)  # whoever saves now fails
    with pytest.raises(ValueError, match=r"repo_id='a/b/c' is no name of a repository"):
        push("a/b/c")
    with pytest.raises(FileNotFoundError, match="there is no model card"):
        push(REPO, model_card=tmp_path / "missing.md")
    assert not hub.asked
    hub.refused, hub.status = "repos/create", 403
    with pytest.raises(OSError, match="there can be no repository 'org/other', and nothing was uploaded") as error:
        push("org/other")
    assert "\n" not in str(error.value)
    hub.refused = "auth-check/write"
    with pytest.raises(OSError, match="'org/tiny' cannot be written to by this account"):
        push(REPO)
    hub.refused = "README.md"
    with pytest.raises(OSError, match="the card of 'org/tiny' cannot be read"):
        push(REPO)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(hub_module, "get_token", lambda: None)
    with pytest.raises(OSError, match="there is no token to write to 'org/tiny'"):
        push(REPO)
    assert not hub.files() and not (tmp_path / "saved").exists()


def test_a_class_that_nobody_else_has_is_refused_before_the_hub_is_asked(hub, pipe):
    class Mine(EDiffIPipeline):
        pass

    with pytest.raises(ValueError, match="Mine is not in diffusers_ediffi.*upload EDiffIPipeline.from_pipe"):
        Mine(**pipe.components).push_to_hub(REPO)
    assert not hub.asked


def test_a_request_needs_no_right_to_write(hub, pipe):
    hub.refused = "auth-check/write"
    pipe.push_to_hub(REPO, create_pr=True, private=True, commit_message="better")
    assert "unet/config.json" in hub.files()
    assert hub.commits == [{"summary": "better", "create_pr": True}]
    assert {"name": "tiny", "organization": "org", "visibility": "private"}.items() <= hub.created[0].items()


def test_a_full_disk_is_found_before_the_copy(hub, pipe, monkeypatch):
    monkeypatch.setattr(hub_module.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2, 1, 1))
    with pytest.raises(OSError, match="needs 0.1 GB: set TMPDIR"):
        pipe.push_to_hub(REPO)
    assert not hub.files()


def test_an_upload_that_fails_leaves_the_folder(hub, pipe, tmp_path):
    hub.refused = "/preupload/"
    with pytest.raises(OSError, match="it was not uploaded to 'org/tiny'; it is complete in"):
        pipe.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id=REPO)
    assert EDiffIPipeline.from_pretrained(tmp_path / "saved") and not hub.files()


def test_a_subfolder_of_a_repository(hub, pipe):
    (hub.folder / "README.md").write_text(THEIRS)
    pipe.push_to_hub(REPO, subfolder="small")
    assert (hub.folder / "README.md").read_text() == THEIRS
    assert set(hub.files()) > {"small/model_index.json", "small/unet/config.json"}
    assert not any(name.endswith((".py", "small/README.md")) for name in hub.files())
