"""Stands in for `napari-pcs pretrain`: the same options, the same files, nothing learnt.

What the objective is called says how it behaves: "context" ends by itself, "endless" when it is told
to stop, "broken" fails with a sentence, "crash" without one, "deaf" does not listen.
"""

import argparse
import math
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np

from napari_pcs.files import write_json
from napari_pcs.models.folders import find_model
from napari_pcs.provenance import ModelReference
from napari_pcs.training.events import Epoch, Pictured, Preparing, Pretrained, Skipped, Started, Step, Stopped
from napari_pcs.training.journal import write_event
from napari_pcs.training.pictures import write_picture

STEPS = 4
told = []
signal.signal(signal.SIGINT, lambda *_: told.append(1))


def volumes(epoch, shape=(32, 32, 32)):
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    targets = [((x**2 + y**2 + (z - s / 2) ** 2) < 0.5).astype(np.float32) for s in range(2)]
    return np.array([[t * (abs(y - 0.2) > 0.2), t, t * (1 - math.exp(-epoch))] for t in targets])


class Run:
    def __init__(self, folder, options):
        self.folder, self.options = folder, options
        sys.stderr.write(f"a warning of some library\nrun: {folder}\n")

    def tell(self, event):
        write_event(self.folder / "events.jsonl", event)

    def go(self, first, seconds):
        o, begun = self.options, time.perf_counter()
        if not (self.folder / "config.json").exists():
            write_json(self.folder / "config.json", {"objective": o.objective})
        epochs = o.epochs or 3
        self.tell(Preparing(sentence="Reading 18 hemispheres"))
        self.tell(self.started(epochs, (first - 1) * STEPS))
        self.tell(Skipped(name="sub-07_hemi-L", reason="found a damaged file", count=1, of=18))
        epoch = first - 1
        while epoch < epochs and not told:
            epoch += 1
            for n in range(STEPS):
                self.tell(self.step((epoch - 1) * STEPS + n + 1, epoch, seconds))
                time.sleep(seconds)
            self.tell(self.epoch(epoch, seconds))
            path, array = write_picture(
                volumes(epoch), ("given", "target", "found"), self.folder / f"pictures/epoch-{epoch:04d}.png"
            )
            self.tell(Pictured(epoch=epoch, path=str(path), volumes=str(array), images=("given", "target", "found")))
        (self.folder / "checkpoint-last.safetensors").write_bytes(b"weights")
        if told:
            self.tell(Stopped(step=epoch * STEPS, steps=epochs * STEPS, run=str(self.folder)))
            sys.exit("Error: Stopped.")
        self.tell(self.pretrained(epoch, first, time.perf_counter() - begun))

    def started(self, epochs, done):
        return Started(
            what=self.options.objective,
            network={},
            trainable_parameters=900,
            total_parameters=1000,
            training=tuple(f"sub-{n:02d}" for n in range(16)),
            held_out=("sub-16", "sub-17"),
            epochs=epochs,
            steps=epochs * STEPS,
            steps_done=done,
            device="cpu",
            precision="fp32",
            processes=1,
            batch_size=8,
            micro_batch=8,
        )

    def step(self, n, epoch, seconds):
        loss = 0.1 + math.exp(-n / 8) + 0.05 * math.sin(n)
        return Step(
            step=n,
            epoch=epoch,
            loss=loss,
            figures={"reconstruction": loss},
            learning_rate=1e-3,
            gradient_norm=1.0,
            samples=8,
            seconds=seconds,
        )

    def epoch(self, epoch, seconds):
        return Epoch(
            epoch=epoch,
            loss=0.1 + math.exp(-epoch / 2),
            validation_loss=0.2 + math.exp(-epoch / 2),
            learning_rate=1e-3,
            seconds=seconds * STEPS,
            samples_per_second=8 / seconds,
            seconds_left=1.0,
            memory_mb=1812.0,
            utilisation=0.83,
            power_w=250.0,
        )

    def pretrained(self, epochs, first, seconds):
        name = self.options.name or f"{self.options.objective}-1"
        model = self.options.out / "models" / name
        if not model.exists():
            shutil.copytree(find_model("starter").path, model)
        return Pretrained(
            model=ModelReference(name=name, digest="ab"),
            path=str(model),
            run=str(self.folder),
            objective=self.options.objective,
            epochs=epochs,
            best_epoch=epochs,
            stopped="complete",
            seconds_per_epoch=1.0,
            seconds_total=seconds,
            first_loss=1.0,
            last_loss=0.5,
            skipped=("sub-07_hemi-L",),
            lineage=(),
        )


def main():
    parser = argparse.ArgumentParser()
    for option in ("--objective", "--recipe", "--init", "--name"):
        parser.add_argument(option)
    for option in ("--data", "--out", "--resume"):
        parser.add_argument(option, type=Path)
    for option in ("--epochs", "--batch-size"):
        parser.add_argument(option, type=int)
    parser.add_argument("--json", action="store_true", required=True)
    options = parser.parse_args()
    if options.resume:
        done = (options.resume / "events.jsonl").read_text().count('"event": "Epoch"')
        options.objective, options.out, options.epochs = "context", options.resume.parent.parent, done + 2
        Run(options.resume, options).go(done, 0.01)
        return
    match options.objective:
        case "broken":
            sys.exit("some library speaks\nError: Session x: found no hemisphere, expected at least 2. Add some.")
        case "crash":
            raise ZeroDivisionError
        case "deaf":
            sys.stderr.write(f"run: {options.out}\n")
            time.sleep(600)
    seconds = {"context": 0.02, "endless": 0.05}[options.objective]
    if options.objective == "endless":
        options.epochs = 10_000
    Run(options.out / "runs" / f"20260101T000000_{options.objective}", options).go(1, seconds)


if __name__ == "__main__":
    main()
