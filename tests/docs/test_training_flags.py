# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""docs/training.md says of each option of diffusers' training scripts whether it is here, and of each option here what
it is."""

import argparse
import re

import pytest
from helpers_docs import ROOT
from helpers_examples import import_script

HEAD = "| diffusers | here |\n|---|---|\n"
FINE_TUNING = ("train_ediffi", "train_ediffi_lora", "train_ediffi_dreambooth")
TABLES = (FINE_TUNING, ("train_experts_from_unet",))  # the scripts of each, in the order of the page
# What the parsers of train_text_to_image.py and, of its own, train_dreambooth_lora.py of diffusers have.
OF_TEXT_TO_IMAGE = """
pretrained_model_name_or_path revision variant dataset_name dataset_config_name train_data_dir image_column
caption_column max_train_samples output_dir cache_dir seed resolution center_crop random_flip train_batch_size
num_train_epochs max_train_steps gradient_accumulation_steps gradient_checkpointing learning_rate scale_lr lr_scheduler
lr_warmup_steps snr_gamma use_8bit_adam allow_tf32 use_ema non_ema_revision dataloader_num_workers adam_beta1
adam_beta2 adam_weight_decay adam_epsilon max_grad_norm push_to_hub hub_token prediction_type hub_model_id logging_dir
mixed_precision report_to local_rank checkpointing_steps checkpoints_total_limit resume_from_checkpoint
enable_xformers_memory_efficient_attention noise_offset validation_epochs tracker_project_name
"""
OF_DREAMBOOTH = """
tokenizer_name instance_data_dir class_data_dir instance_prompt class_prompt validation_prompt num_validation_images
with_prior_preservation prior_loss_weight num_class_images train_text_encoder sample_batch_size lr_num_cycles lr_power
prior_generation_precision pre_compute_text_embeddings tokenizer_max_length text_encoder_use_attention_mask
validation_images class_labels_conditioning rank
"""
NEEDED = {TABLES[0]: OF_TEXT_TO_IMAGE + OF_DREAMBOOTH, TABLES[1]: OF_TEXT_TO_IMAGE}


def rows_of(scripts):
    """The options in both cells of each row of a table, and the text of the second cell."""
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    table = page.split(HEAD)[1 + TABLES.index(scripts)].split("\n\n")[0]
    for line in table.splitlines():
        first, second = (cell.strip() for cell in line.strip("|").split(" | "))
        yield set(re.findall(r"--\w+", first)), set(re.findall(r"--\w+", second)), second


@pytest.fixture(params=TABLES, ids=lambda scripts: scripts[0])
def table(request, monkeypatch):
    """The rows of a table, its scripts, and the options that their parsers have."""
    options, parse_args = set(), argparse.ArgumentParser.parse_args

    def parse_only(parser, args=None, namespace=None):
        options.update(name for action in parser._actions for name in action.option_strings)
        raise SystemExit

    with monkeypatch.context() as patch:
        for script in request.param:
            module = import_script(f"training/{script}", monkeypatch)
            patch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
            with pytest.raises(SystemExit):
                module.parse_arguments([])
    assert argparse.ArgumentParser.parse_args is parse_args
    return list(rows_of(request.param)), request.param, options - {"-h", "--help"}


def test_what_is_there_is_there_and_what_is_missing_is_not(table):
    rows, _, options = table
    for first, second, text in rows:
        if text.startswith("missing: "):
            assert not first & options and second <= options, f"{sorted(first & options)} are not missing"
        else:
            assert first | second <= options, f"there are no {sorted((first | second) - options)}"


def test_every_option_of_ours_and_of_diffusers_is_in_the_table(table):
    rows, scripts, options = table
    named = set().union(*(first | second for first, second, _ in rows))
    assert options <= named, f"the table lacks {sorted(options - named)}"
    theirs = {f"--{name}" for name in NEEDED[scripts].split()}
    of_theirs = set().union(*(first for first, _, _ in rows))
    assert theirs <= of_theirs, f"the table lacks {sorted(theirs - of_theirs)} of diffusers"


def test_each_option_has_one_row(table):
    firsts = [name for first, _, _ in table[0] for name in first]
    assert len(firsts) == len(set(firsts))
