# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""`--push_to_hub` of the scripts that make weights, to a Hub on this machine: what is there is what the card says."""

import re
import subprocess
import sys

import pytest
from accelerate.state import AcceleratorState, PartialState
from helpers_examples import import_script
from helpers_hub import COMMIT, REPO, TOKEN, environment_of, serving
from helpers_pictures import write_folder
from helpers_split import write_model

from diffusers_ediffi import EDiffIPipeline
from diffusers_ediffi.training import Trainer

WEIGHTS = "pytorch_lora_weights.safetensors"
PUSH = ("--push_to_hub", "--hub_model_id", REPO, "--hub_token", TOKEN)
SHORT = ("--max_train_steps", 1, "--experts", 0, "--validation_prompt", "a zorb", "--num_validation_images", 1)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    (tmp_path / "hub").mkdir()
    with serving(tmp_path / "hub") as (address, hub):
        hub.address = address
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield hub


def snippet_of(folder):
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return code


def test_a_lora_is_uploaded_with_its_card_and_loads_from_there(train, hub, folder, tmp_path, capsys):
    run = train(*SHORT, *PUSH)
    assert capsys.readouterr().out.splitlines()[-1] == f"Uploaded: {hub.address}/{REPO}/commit/{COMMIT}"
    assert set(hub.files()) == {WEIGHTS, "README.md", "validation/step-0000001.png"}
    for name in (WEIGHTS, "validation/step-0000001.png"):
        assert (hub.folder / name).read_bytes() == (run / name).read_bytes()
    assert f"pipe.load_lora_weights('{REPO}')" in snippet_of(hub.folder)
    assert "pipe.load_lora_weights('run')" in snippet_of(run)
    assert set(hub.tokens) == {TOKEN}
    assert not any(TOKEN.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    environment = environment_of(hub.address, tmp_path / "cache")
    command = [sys.executable, "-c", snippet_of(hub.folder)]
    (tmp_path / "pipeline").symlink_to(folder / "pipeline")  # the base, as the card names it
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("script", "options"), [("train_ediffi", ()), ("train_ediffi_dreambooth", ("--full_weights",))]
)
def test_a_pipeline_is_uploaded_to_the_top_of_the_repository(train, hub, script, options):
    run = train(*SHORT, *PUSH, *options, script=script)
    local = {path.relative_to(run / "pipeline").as_posix() for path in (run / "pipeline").rglob("*") if path.is_file()}
    assert set(hub.files()) == local | {"README.md", "validation/step-0000001.png"}
    assert f"EDiffIPipeline.from_pretrained('{REPO}')" in snippet_of(hub.folder)
    assert "EDiffIPipeline.from_pretrained('run/pipeline')" in snippet_of(run)
    assert len(EDiffIPipeline.from_pretrained(hub.folder).unet.experts) == 3


def test_experts_of_a_unet_are_uploaded(hub, tmp_path, monkeypatch):
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()
    script = import_script("training/train_experts_from_unet", monkeypatch)
    write_folder(tmp_path / "pictures")
    write_model(tmp_path / "model")
    options = ["--pretrained_model_name_or_path", tmp_path / "model", "--train_data_dir", tmp_path / "pictures"]
    options += ["--output_dir", tmp_path / "run", "--resolution", 8, "--train_batch_size", 1, "--max_train_steps", 1]
    script.main(list(map(str, [*options, "--boundaries", 1, 5, "--rank", 2, "--experts", 1, *PUSH])))
    card = (hub.folder / "README.md").read_text()
    assert "| boundaries in sigma | 1, 5 |" in card and "| expert.0 | as it was, timesteps 0 to " in card
    assert "| expert.1 | trained, timesteps " in card and str(tmp_path) not in card
    namespace = {}
    here = snippet_of(tmp_path / "run").replace("'run/pipeline'", repr(str(hub.folder)))
    exec(here.replace("pipe(", "result = pipe(height=8, width=8, num_inference_steps=1, prompt="), namespace)
    assert len(namespace["pipe"].unet.experts) == 3 and f"from_pretrained('{REPO}')" in card


def test_a_repository_that_cannot_be_made_is_told_before_training(train, hub, tmp_path):
    hub.refused = f"/repos/create|/api/models/{REPO}"
    with pytest.raises(OSError, match=f"there can be no repository '{REPO}': .* nothing was trained") as error:
        train(*SHORT, *PUSH)
    assert TOKEN not in str(error.value) and not (tmp_path / "run").exists()


def test_an_upload_that_fails_leaves_the_result_and_is_tried_again(train, hub, tmp_path, monkeypatch, capsys):
    hub.refused = "/commit/"
    with pytest.raises(OSError, match=f"The result is complete in .*run, but it was not uploaded to {REPO}") as error:
        train(*SHORT, *PUSH)
    assert "\n" not in str(error.value).strip() and TOKEN not in str(error.value)
    before = (tmp_path / "run" / WEIGHTS).read_bytes()
    assert (tmp_path / "run" / "README.md").exists() and not hub.files()
    hub.refused = ""
    monkeypatch.setattr(Trainer, "train_step", None)  # whoever trains now fails
    train(*SHORT, *PUSH, "--resume_from_checkpoint", "latest")
    assert (hub.folder / WEIGHTS).read_bytes() == before


def test_what_may_not_be_passed_on_is_not_uploaded(train, hub, folder, tmp_path):
    record = folder / "pipeline" / "unet" / "conversion.json"
    record.write_text("{}")
    try:
        with pytest.raises(ValueError, match="was converted from other models, and their licences decide"):
            train(*SHORT, *PUSH)
    finally:
        record.unlink()
    assert not hub.asked and not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [("--hub_model_id", REPO), ("--hub_token", TOKEN)])
def test_a_repository_without_an_upload_is_refused(train, options, tmp_path):
    with pytest.raises(ValueError, match="--hub_model_id and --hub_token are for --push_to_hub"):
        train(*SHORT, *options)
    assert not (tmp_path / "run").exists()
