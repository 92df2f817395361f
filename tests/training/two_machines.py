# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Trains on two machines: network namespaces of Linux with an address each, joined by a cable (veth).

    python tests/training/two_machines.py

Needs root and `ip` (iproute2); without them it says so and ends with 0. torchrun runs on each machine and
train_ediffi_lora.py trains a tiny pipeline, whose folder both share. Then a run is cut: on one machine everything is
killed with SIGKILL, torchrun as well. The other machine must end within a minute with a message and an exit code that
is not 0, and the same commands must go on and end in the same weights, bit for bit.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent))
ADDRESSES = ("10.231.7.1", "10.231.7.2")
PORT = 29517
STEPS = 60
LONGEST = 600.0  # seconds of a run
MINUTE = 60.0


def skip_reason() -> str | None:
    """Why there can be no such machines here."""
    if sys.platform != "linux" or shutil.which("ip") is None:
        return "there is no `ip` (install iproute2)"
    return None if os.geteuid() == 0 else "only root makes network namespaces"


def ip(*words: str) -> None:
    """A command of iproute2."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Machines:
    """Two network namespaces and the cable between them, while the block lasts."""

    def __init__(self) -> None:
        self.names = [f"ediffi{os.getpid()}m{number}" for number in (0, 1)]
        self.cable = [f"ed{os.getpid()}v{number}" for number in (0, 1)]

    def __enter__(self) -> "Machines":
        for name in self.names:
            ip("netns", "add", name)
        ip("link", "add", self.cable[0], "type", "veth", "peer", "name", self.cable[1])
        for name, end, address in zip(self.names, self.cable, ADDRESSES, strict=True):
            ip("link", "set", end, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
            for link in (end, "lo"):
                ip("-n", name, "link", "set", link, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    def start(self, number: int, log: Path, *command: str) -> subprocess.Popen:
        """A command on a machine, in a group of processes of its own."""
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        environment["GLOO_SOCKET_IFNAME"] = self.cable[number]  # both machines have the name of the host
        return subprocess.Popen(
            ["ip", "netns", "exec", self.names[number], *command],
            env=environment,
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def launch(machines: Machines, folder: Path, output: Path) -> list[subprocess.Popen]:
    """torchrun on both machines."""
    script = HERE.parents[2] / "examples" / "training" / "train_ediffi_lora.py"
    meeting = ("--rdzv_backend", "c10d", "--rdzv_endpoint", f"{ADDRESSES[0]}:{PORT}", "--rdzv_id", "ediffi")
    options = ["--pretrained_model_name_or_path", folder / "inputs" / "ediffi", "--rank", "2", "--output_dir", output]
    options += ["--train_data_dir", folder / "inputs" / "pictures", "--train_batch_size", "2", "--experts", "0"]
    options += ["--max_train_steps", STEPS, "--checkpointing_steps", "5", "--resume_from_checkpoint", "latest"]
    command = (sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1", *meeting)
    # What torchrun finds by the names of machines, which are those of the host here.
    return [
        machines.start(
            number,
            folder / f"machine-{number}.log",
            *command,
            *("--local_addr", address, "--rdzv_conf", f"is_host={number == 0}"),
            str(script),
            *map(str, options),
        )
        for number, address in enumerate(ADDRESSES)
    ]


def wait_for(path: Path, running: list[subprocess.Popen], folder: Path) -> None:
    """Waits until a file is there."""
    end = time.monotonic() + LONGEST
    while not path.exists():
        if time.monotonic() > end or any(process.poll() is not None for process in running):
            sys.exit(f"error: {path} did not come.\n{said(folder)}")
        time.sleep(0.1)


def ended(running: list[subprocess.Popen], seconds: float, folder: Path) -> list[int]:
    """The exit codes, for which it waits no longer than so many seconds."""
    end = time.monotonic() + seconds
    try:
        return [process.wait(max(0.1, end - time.monotonic())) for process in running]
    except subprocess.TimeoutExpired:
        return sys.exit(f"error: a machine had not ended after {seconds:.0f} s.\n{said(folder)}")
    finally:
        for process in running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def said(folder: Path) -> str:
    """The end of what each machine said."""
    return "\n".join(f"{path.name}:\n{path.read_text()[-3000:]}" for path in sorted(folder.glob("machine-*.log")))


def main() -> None:
    reason = skip_reason()
    if reason is not None:
        print(f"skipped: {reason}.")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the machines are taken down
    from kill_runs import results, write_inputs

    from diffusers_ediffi.training.checkpoint import complete_checkpoints

    with tempfile.TemporaryDirectory() as name, Machines() as machines:
        folder = Path(name)
        write_inputs(folder / "inputs")
        started = time.monotonic()
        codes = ended(launch(machines, folder, folder / "whole"), LONGEST, folder)
        if codes != [0, 0]:
            sys.exit(f"error: the machines ended with {codes}.\n{said(folder)}")
        print(f"Two machines trained {STEPS} steps in {time.monotonic() - started:.0f} s.", flush=True)

        run = folder / "cut" / "runs" / "unet" / "expert.0"
        running = launch(machines, folder, folder / "cut")
        wait_for(run / "checkpoint-20" / "COMPLETE", running, folder)
        os.killpg(running[1].pid, signal.SIGKILL)  # torchrun, which would say it, as well
        for pid in pids(machines.names[1]):
            os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        (code,) = ended(running[:1], MINUTE, folder)
        lines = [line for line in (folder / "machine-0.log").read_text().splitlines() if line.startswith("error: ")]
        print(f"Machine 1 was killed; machine 0 ended {time.monotonic() - killed:.1f} s later with {code}:", *lines)
        if code == 0 or len(lines) != 1 or "Another process of this run has ended" not in lines[0]:
            sys.exit(f"error: there is not one message.\n{said(folder)}")
        print(f"The last checkpoint is {complete_checkpoints(run)[-1].name}.", flush=True)

        codes = ended(launch(machines, folder, folder / "cut"), LONGEST, folder)
        first, second = (results(folder / output) for output in ("whole", "cut"))
        if codes != [0, 0] or not same(first, second):
            sys.exit(f"error: the run that was cut is another one {codes}.\n{said(folder)}")
        print("The same commands went on and ended in the same weights, bit for bit.")


def pids(name: str) -> list[int]:
    """The processes on a machine."""
    found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=True)
    return [int(line) for line in found.stdout.split()]


def same(first: dict, second: dict) -> bool:
    """Whether two runs have the same weights and logs."""
    from helpers_training import assert_same

    try:
        assert_same(first, second)
    except AssertionError:
        return False
    return bool(first)


if __name__ == "__main__":
    main()
