"""What a client of many images needs, beside one epoch of gradient steps on the same network.

    python tests/long/size_cost.py [--rows 2500,5000,10000,60000] [--kinds mnist,cifar] [--filters 16,64]

prints the tables of docs/experiments.md. Rows are generated and written in the original formats: MNIST-5k moved by up to three
pixels as IDX files, and coloured waves as CIFAR-10's binary batches. Each client is a process of its own that reads them with the
loader, computes its vector block by block (`FedACnnL.streamed_vector`), and reports its CPU seconds and its peak of resident memory,
imports included. Lines are fitted by least squares. One epoch of gradient steps is run
up to 10,000 rows only.
"""

import argparse
import json
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

KINDS = {"mnist": (1, 28, 28), "cifar": (3, 32, 32)}
BLOCK, BATCH, MOST_OF_SGD = 500, 20, 10_000


def written(folder: Path, kind: str, rows: int) -> None:
    """`rows` training images and a few test images, in the files that their publishers give out."""
    draws = np.random.default_rng(0)
    if kind == "mnist":
        from secure_afl.simulations.data import dataset

        with np.load(Path(dataset.__file__).parent / "files" / "mnist5k.npz") as known:
            images, labels = known["x"], known["y"]
        for part, count in (("train", rows), ("t10k", 10)):
            chosen = draws.integers(0, len(images), count)
            with (folder / f"{part}-images-idx3-ubyte").open("wb") as file:
                file.write(struct.pack(">4B3I", 0, 0, 8, 3, count, 28, 28))
                for one, (down, right) in zip(chosen, draws.integers(-3, 4, (count, 2)), strict=True):
                    file.write(np.roll(images[one], (down, right), (0, 1)).tobytes())
            head = struct.pack(">4BI", 0, 0, 8, 1, count)
            (folder / f"{part}-labels-idx1-ubyte").write_bytes(
                head + labels[chosen].astype(np.uint8).tobytes()
            )
        return
    down, right = np.mgrid[:32, :32] / 32
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        count = 10 if name == "test_batch" else rows // 5
        with (folder / f"{name}.bin").open("wb") as file:
            for label, turn, noise in zip(
                draws.integers(0, 10, count),
                draws.uniform(0, 6.3, count),
                draws.integers(0, 2**32, count),
                strict=True,
            ):
                wave = np.sin(turn + (2 + label) * (down * np.cos(label) + right * np.sin(label)) * 6.3)
                grain = np.random.default_rng(noise).normal(0, 40, KINDS[kind])
                pixels = (128 + 60 * wave + grain).clip(0, 255).astype(np.uint8)
                file.write(bytes([label]) + pixels.tobytes())


def client(folder: Path, kind: str, rows: int, filters: int, how: str) -> dict[str, Any]:
    """CPU seconds and peak memory of this process. how: "analytic", or "sgd" for one epoch."""
    import torch

    from secure_afl.models.networks.fedacnnl import FedACnnL
    from secure_afl.models.networks.network import AvgPool, Conv, Network, ReLU
    from secure_afl.simulations.data import image_files

    torch.set_num_threads(1)
    started = time.process_time()
    pixels, names = image_files.read(folder)
    pixels, y = pixels[:rows], np.unique(names, return_inverse=True)[1][:rows]
    read = time.process_time() - started
    layers = (Conv(filters, 7, padding=1, contrast=True), ReLU(), AvgPool(4))
    network = Network(KINDS[kind], layers, 10)

    def blocks() -> Iterator[tuple[Any, Any]]:
        for at in range(0, rows, BLOCK):
            yield pixels[at : at + BLOCK].reshape(-1, pixels[0].size) / 255, y[at : at + BLOCK]

    started = time.process_time()
    if how == "analytic":
        FedACnnL(network, max_rows=2**17).streamed_vector(blocks(), "client")
    else:
        known = network.trained[-1].inputs
        net = torch.nn.Sequential(
            torch.nn.Conv2d(KINDS[kind][0], filters, 7, padding=1),
            torch.nn.ReLU(),
            torch.nn.AvgPool2d(4),
            torch.nn.Flatten(),
            torch.nn.Linear(known, 10),
        )
        steps, loss = torch.optim.SGD(net.parameters(), lr=0.05), torch.nn.CrossEntropyLoss()
        for at in range(0, rows, BATCH):
            steps.zero_grad()
            batch = torch.from_numpy(pixels[at : at + BATCH].astype(np.float32) / 255)
            loss(net(batch), torch.from_numpy(y[at : at + BATCH])).backward()
            steps.step()
    spent = time.process_time() - started
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"d": network.trained[-1].inputs + 1, "read": read, "seconds": spent, "peak": peak}


def _run(*command: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", default="2500,5000,10000,60000")
    parser.add_argument("--kinds", default="mnist,cifar")
    parser.add_argument("--filters", default="16,64")
    parser.add_argument("--client", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.client:
        folder, kind, rows, filters, how = given.client
        print(json.dumps(client(Path(folder), kind, int(rows), int(filters), how)))
        return
    print(
        "| images | rows | filters | values d | reading s | statistics s | peak MB | one epoch of SGD s | its peak MB |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    for kind in given.kinds.split(","):
        for filters in given.filters.split(","):
            seen = []
            for rows in map(int, given.rows.split(",")):
                count = min(rows, 50_000) if kind == "cifar" else rows
                with tempfile.TemporaryDirectory() as folder:
                    written(Path(folder), kind, count)
                    called = [sys.executable, __file__, "--client", folder, kind, str(count), filters]
                    called = [sys.executable, __file__, "--client", folder, kind, str(count), filters]
                    ours = _run(*called, "analytic")
                    sgd = _run(*called, "sgd") if count <= MOST_OF_SGD else None
                seen.append((count, ours["seconds"], ours["peak"]))
                print(
                    f"| {kind} | {count:,} | {filters} | {ours['d']:,} | {ours['read']:.1f} | {ours['seconds']:.1f} "
                    f"| {ours['peak'] / 1e6:.0f} | "
                    + (f"{sgd['seconds']:.1f} | {sgd['peak'] / 1e6:.0f} |" if sgd else "– | – |"),
                    flush=True,
                )
            if len(seen) > 1:
                counts, seconds, peaks = map(np.array, zip(*seen, strict=True))
                (slope, base), (more, least) = np.polyfit(counts, seconds, 1), np.polyfit(counts, peaks, 1)
                print(
                    f"\n{kind}, {filters} filters: {base:.2f} s + {1e3 * slope:.3f} ms a row; "
                    f"{least / 1e6:.0f} MB + {more / 1e3:.2f} kB a row\n",
                    flush=True,
                )


if __name__ == "__main__":
    main()
