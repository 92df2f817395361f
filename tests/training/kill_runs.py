# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Kills the training scripts at random moments with SIGKILL, and looks whether they end the same.

    python tests/training/kill_runs.py --kills 20 --processes 2

tests/training/test_kill_runs.py runs it with a kill of each; more of them find what these miss.

`train_ediffi.py`, `train_ediffi_lora.py` and `train_experts_from_unet.py` train tiny pipelines without interruption,
then again, killed and started anew with `--resume_from_checkpoint latest` until there were so many kills; whenever
such a run is done, its weights and its last checkpoints must be those of the first, bit for bit, and the next one
begins. Of two processes one is killed, and the other must end by itself within a minute, with an error, unless they
have not met yet. The exit code is 1 if anything differs. Needs `os.fork`.
"""

import argparse
import contextlib
import importlib.util
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parents[2] / "examples" / "training")]
from helpers import tiny_pipeline, tiny_unet  # noqa: E402
from helpers_pictures import write_folder  # noqa: E402
from helpers_split import write_model  # noqa: E402
from helpers_training import assert_same  # noqa: E402

from diffusers_ediffi import ExpertRouterUNet  # noqa: E402
from diffusers_ediffi.cli.scripts import errors_in_one_line  # noqa: E402

SCRIPTS = ("train_ediffi", "train_ediffi_lora", "train_experts_from_unet")
COMMON = ("--train_batch_size", "2", "--max_train_steps", "8", "--checkpointing_steps", "2", "--learning_rate", "1e-3")
NO_KILL = 3600.0  # seconds within which every run is done
MINUTE = 60.0
STEPS_LATER = 0.05  # seconds between two looks whether a process has ended


def write_inputs(folder: Path) -> None:
    """A pipeline of two experts, one of Stable Diffusion, and pictures for both."""
    router = ExpertRouterUNet.from_unets([tiny_unet(4), tiny_unet(5)], [0.5])
    tiny_pipeline(unet=router).save_pretrained(folder / "ediffi")
    write_model(folder / "sd")
    write_folder(folder / "pictures", size=(16, 16))


def arguments(script: str, inputs: Path, output: Path) -> list[str]:
    """The command line of a run that goes on where it was."""
    model = inputs / ("sd" if script == "train_experts_from_unet" else "ediffi")
    own = {
        "train_ediffi": ["--use_ema"],
        "train_ediffi_lora": ["--rank", "2", "--gradient_accumulation_steps", "2"],
        "train_experts_from_unet": ["--boundaries", "2", "--resolution", "8", "--rank", "2", "--use_ema"],
    }
    where = ["--pretrained_model_name_or_path", str(model), "--train_data_dir", str(inputs / "pictures")]
    return [*where, "--output_dir", str(output), *COMMON, *own[script], "--resume_from_checkpoint", "latest"]


def run_script(script: str, inputs: Path, output: Path, meeting: Path, rank: int, processes: int) -> None:
    """What a process does: the script, in silence. Of several they meet at a file."""
    torch.set_num_threads(1)
    os.environ["ACCELERATE_USE_CPU"] = "true"
    if processes > 1:
        launch = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        os.environ.update({name: str(value) for name, value in launch.items()} | {"OMP_NUM_THREADS": "1"})
        torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=processes)
    said = (output.parent / f"said-{rank}.txt").open("w")
    with said, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            with errors_in_one_line():
                load_script(script).main(arguments(script, inputs, output))
        except Exception:
            traceback.print_exc()
            said.flush()
            os._exit(1)


def load_script(name: str) -> Any:
    """A script of examples/training as a module."""
    specification = importlib.util.spec_from_file_location(name, HERE.parents[2] / "examples/training" / f"{name}.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def kill_once(script: str, inputs: Path, output: Path, processes: int, delay: float, victim: int) -> bool:
    """Trains for so many seconds and kills a process; returns False if all was done before."""
    output.mkdir(parents=True, exist_ok=True)
    meeting = output.parent / "meeting"
    met = [meeting.with_name(f"met-{rank}") for rank in range(processes)]
    for path in (meeting, *met):
        path.unlink(missing_ok=True)
    context = multiprocessing.get_context("fork")
    running = [
        context.Process(target=run_script, args=(script, inputs, output, meeting, rank, processes))
        for rank in range(processes)
    ]
    for process in running:
        process.start()
    running[victim].join(delay)
    killed = running[victim].is_alive()
    if killed:
        running[victim].kill()
        if processes > 1 and not all(path.exists() for path in met):
            # The other waits for it as for one that is late; torchrun would end it.
            for process in running:
                process.kill()
    _wait(running, MINUTE if killed else NO_KILL)
    codes = [process.exitcode for rank, process in enumerate(running) if rank != victim or not killed]
    # A process that was done before the other was killed has ended well.
    if any(code not in ((0, 2, -signal.SIGKILL) if killed else (0,)) for code in codes):
        said = [(output.parent / f"said-{rank}.txt").read_text()[-2000:] for rank in range(processes)]
        sys.exit(f"error: {script} ended with exit codes {codes}.\n" + "\n".join(said))
    return killed


def _wait(running: list[Any], seconds: float) -> None:
    """Waits until all processes have ended; of those that do not, the test fails."""
    end = time.monotonic() + seconds
    while any(process.is_alive() for process in running) and time.monotonic() < end:
        time.sleep(STEPS_LATER)
    left = [rank for rank, process in enumerate(running) if process.is_alive()]
    for process in running:
        process.kill()
        process.join()
    if left:
        sys.exit(f"error: process {left} had not ended {seconds:.0f} s after the other was killed.")


def results(output: Path) -> dict[str, Any]:
    """All weights that a script wrote, the states of the last checkpoints, and the losses of the logs."""
    found: dict[str, Any] = {}
    for path in output.rglob("*.safetensors"):
        if "embeddings" not in path.parts:
            found[str(path.relative_to(output))] = load_file(path)
    for path in output.rglob("checkpoint-8/state.pt"):
        found[str(path.relative_to(output))] = torch.load(path, weights_only=True)
    for path in output.rglob("log.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        found[str(path.relative_to(output))] = [(line["step"], line["loss"]) for line in lines]
    return found


def kill_and_compare(script: str, folder: Path, kills: int, processes: int, chance: random.Random) -> int:
    """Trains without interruption, then with kills, until there were so many and one more run is done; returns how
    many runs were compared."""
    inputs, started = folder / "inputs", time.monotonic()
    kill_once(script, inputs, folder / "whole" / "run", processes, NO_KILL, 0)
    whole = time.monotonic() - started
    expected = results(folder / "whole" / "run")
    print(f"{script}, {processes} processes: the uninterrupted run took {whole:.1f} s.", flush=True)
    killed = runs = 0
    while True:
        output = folder / f"run-{runs}" / "run"
        delay = chance.uniform(0, 0.7 * whole) if killed < kills else NO_KILL  # the first run was slower
        if kill_once(script, inputs, output, processes, delay, chance.randrange(processes)):
            killed += 1
            done = sorted(path.parent.name for path in output.rglob("checkpoint-*/COMPLETE"))
            print(f"kill {killed} after {delay:.2f} s in run {runs}: {', '.join(done) or 'no checkpoint'}", flush=True)
            continue
        try:
            assert_same(results(output), expected)
        except AssertionError:
            sys.exit(f"{script}: run {runs} has other weights than the uninterrupted one.")
        print(f"run {runs} is done: the same weights, bit for bit", flush=True)
        shutil.rmtree(output.parent)
        runs += 1
        if killed >= kills:
            return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="of each script (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="of a run (default: %(default)s)")
    parser.add_argument("--scripts", nargs="+", choices=SCRIPTS, default=SCRIPTS, help="(default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # before the first fork: threads do not survive it
    chance, runs = random.Random(options.seed), 0
    for script in options.scripts:
        with tempfile.TemporaryDirectory() as name:
            write_inputs(Path(name) / "inputs")
            runs += kill_and_compare(script, Path(name), options.kills, options.processes, chance)
    print(
        f"{options.kills} kills of each of {len(options.scripts)} scripts with {options.processes} processes, ", end=""
    )
    print(f"{runs} runs: all weights equal.")


if __name__ == "__main__":
    main()
