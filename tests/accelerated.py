"""Runs a program with ``accelerate`` in two processes, for test_other_loops.py.

A script of its own, since a forked process must not have computed gradients before.
"""

import sys
from pathlib import Path

import torch
from accelerate import DataLoaderConfiguration, debug_launcher
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from toys import CLASSES, images, weights

SIZES = (1, 7, 2, 6, 5, 3, 4, 4) * 2  # of the batches: sixteen samples in every four of them


def perceptron(seed: int) -> nn.Module:
    """In float64, and without batch norm, which sees one part of a batch at a time."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.Tanh(), nn.Linear(8, CLASSES)).double()


def names() -> dict:
    """What the program calls its own."""
    seen = images(sum(SIZES))
    batches = [part.tolist() for part in torch.arange(len(seen)).split(SIZES)]
    samples = TensorDataset(seen.inputs().double(), seen.target)
    loader = DataLoader(samples, batch_sampler=batches)
    return {"my_student": perceptron(1), "my_teacher": perceptron(2), "my_loader": loader}


def run(program: str, folder: Path) -> None:
    """Run the program, and save the student's weights."""
    torch.set_num_threads(1)
    # Otherwise `accelerate` wants batches of one size, to fill up the last ones.
    mine = {**names(), "uneven": DataLoaderConfiguration(even_batches=False)}
    exec(program.replace("Accelerator()", "Accelerator(dataloader_config=uneven)"), mine)
    rank = mine["accelerator"].process_index
    torch.save(weights(mine["my_student"]), folder / f"{rank}.pt")


if __name__ == "__main__":
    debug_launcher(run, (sys.argv[1], Path(sys.argv[2])), num_processes=2)
