"""Compare objectives: pre-train, freeze the encoder, and read skeleton and PCS from it linearly.

    python scripts/pretraining/compare.py WORK OBJECTIVE SEED [--minutes 3]
    python scripts/pretraining/compare.py WORK table

WORK was filled by `labels.py`. Every objective trains the same small network (the diffusion objective its own) on
the same people for the same time; `random` is that network before any training. The probe is ridge-regularised
logistic regression on the encoder's features at single voxels of the medial wall of 10 labelled hemispheres; it is
judged on 10 other people, whom pre-training has never seen. Labels are weak: made by rule.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from napari_pcs.models.folders import ModelFolder
from napari_pcs.models.networks import build_network
from napari_pcs.models.store import load_network
from napari_pcs.stop import StopToken
from napari_pcs.training.events import Epoch
from napari_pcs.training.plan import PretrainPlan
from napari_pcs.training.pretrain import pretrain
from napari_pcs.training.processes import Processes
from napari_pcs.training.recipes import merged, read_recipe, stage_config

if TYPE_CHECKING:
    from napari_pcs.models.contract import Segmenter

MEDIAL = (slice(57, 89), slice(84, 180), slice(55, 151))
"""A box of 32 x 96 x 96 mm that holds the medial frontal wall."""
VOXELS = 1500
"""Voxels of each kind that the probe takes from a hemisphere."""
BATCH = {"simclr": 16, "barlow_twins": 16, "swav": 16, "diffusion": 4, "contrastive": 4}
SETTINGS: dict[str, dict[str, Any]] = {"swav": {"queue_length": 512, "prototypes": 64}}
FIGURES = ("skeleton_auc", "skeleton_ap", "pcs_auc", "pcs_ap")


def settings(objective: str, seed: int, epochs: int) -> dict[str, Any]:
    """Return the laptop's recipe on smaller patches."""
    changes: dict[str, Any] = {
        "settings": SETTINGS.get(objective, {}),
        "loop": {
            "epochs": epochs,
            "seed": seed,
            "batch_size": BATCH.get(objective, 2),
            "patience": None,
            "optimiser": {"learning_rate": 2e-3},
            "schedule": {"warmup_epochs": 0.3},
        },
        "held_out_share": 0.0,
        "picture_epochs": 10,
    }
    if objective == "diffusion":
        changes["network"] = {"channels": [16, 16, 32], "head_channels": 32}
    else:
        changes["patch"] = [32, 32, 64]
    return merged(read_recipe("laptop").settings(objective, 3), changes)


def run(work: Path, objective: str, seed: int, minutes: float) -> None:
    """Pre-train one network for about so many minutes, probe it, and write the result."""
    result = work / "results" / f"{objective}-{seed}.json"
    if result.exists():
        return
    record: dict[str, Any] = {"objective": objective, "seed": seed}
    base, _, kind = objective.partition(":")
    if base == "random":
        stage = stage_config(settings(kind or "reconstruction", seed, 1))
        torch.manual_seed(seed)
        network = build_network(stage.network)
    else:
        epochs = epochs_for(work, objective, minutes)
        record |= train(work, objective, seed, epochs)
        network = load_network(ModelFolder(Path(record["path"])))
    record |= probe(network, work, seed)
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(record, indent=1))
    print(json.dumps(record), flush=True)


def epochs_for(work: Path, objective: str, minutes: float) -> int:
    """Return how many epochs fit, from the time of a first one; the same for all seeds."""
    path = work / "results" / f"{objective}.epochs"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        seconds = train(work, objective, 999, 2)["seconds_per_epoch"]
        path.write_text(str(max(2, round(60 * minutes / seconds))))
    return int(path.read_text())


def train(work: Path, objective: str, seed: int, epochs: int) -> dict[str, Any]:
    """Run one stage; return what it took and the loss of its epochs."""
    stamp = f"{objective}-{seed}-{time.time():.0f}"
    plan = PretrainPlan(
        data=work / "unlabelled",
        model=work / "models" / stamp,
        stage=stage_config(settings(objective, seed, epochs)),
    )
    losses = []
    for event in pretrain(work / "runs" / stamp, plan, Processes("cpu"), StopToken()):
        if isinstance(event, Epoch):
            losses.append(event.loss)
            print(objective, seed, event.epoch, f"{event.loss:.4f} {event.seconds:.1f} s", flush=True)
    return {
        "path": event.path,
        "epochs": epochs,
        "seconds_per_epoch": event.seconds_per_epoch,
        "losses": losses,
    }


def probe(network: Segmenter, work: Path, seed: int) -> dict[str, float]:
    """Fit linear readouts on the labelled people and return their figures on the judges."""
    network = network.eval().requires_grad_(requires_grad=False)
    rng = np.random.default_rng(seed)
    seen, judged = (
        [sampled(network, p, rng) for p in sorted((work / f).glob("*.npz"))] for f in ("labelled", "judges")
    )
    found = {}
    for name, index in (("skeleton", 0), ("pcs", 1)):
        readout = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
        readout.fit(*(np.concatenate([s[index][part] for s in seen]) for part in (0, 1)))
        x, y = (np.concatenate([s[index][part] for s in judged]) for part in (0, 1))
        scores = readout.decision_function(x)
        found[f"{name}_auc"] = float(roc_auc_score(y, scores))
        found[f"{name}_ap"] = float(average_precision_score(y, scores))
    return found


def sampled(network: Segmenter, path: Path, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Features and labels at voxels: skeleton against other voxels near tissue, and PCS against other skeleton."""
    with np.load(path) as f:
        tissue, labels = f["tissue"][MEDIAL], f["labels"][MEDIAL]
        position = f["position"][(slice(None), *MEDIAL)].astype(np.float32)
    image = torch.from_numpy(tissue.astype(np.float32)[None, None] / 2)
    if network.sees_position:
        image = torch.cat([image, torch.from_numpy(position)[None]], dim=1)
    with torch.inference_mode():
        scales = network.encode(image)
    kinds = [
        (labels >= 1, (labels == 0) & (tissue < 2)),
        (labels == 2, labels == 1),
    ]
    out = []
    for positive, negative in kinds:
        chosen = [chosen_voxels(mask, rng) for mask in (positive, negative)]
        voxels = np.concatenate(chosen)
        truth = np.repeat([1, 0], [len(chosen[0]), len(chosen[1])])
        out.append((read_at(scales, voxels, labels.shape), truth))
    return out


def chosen_voxels(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    inside = np.argwhere(mask)
    return inside[rng.permutation(len(inside))[:VOXELS]]


def read_at(scales: list[torch.Tensor], voxels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Interpolate every scale's features at voxels (n, 3)."""
    points = torch.from_numpy((2 * voxels + 1) / np.asarray(shape) - 1).float()[:, [2, 1, 0]]
    grid = points[None, :, None, None]
    read = [torch.nn.functional.grid_sample(s.float(), grid, align_corners=False)[0, :, :, 0, 0].T for s in scales]
    return torch.cat(read, dim=1).numpy()


def table(work: Path) -> None:
    """Print the mean and spread over seeds, as Markdown."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((work / "results").glob("*.json")):
        record = json.loads(path.read_text())
        rows.setdefault(record["objective"], []).append(record)
    print("| encoder | seeds | epochs | loss | " + " | ".join(FIGURES) + " |")
    print("|---|---|---|---|" + "---|" * len(FIGURES))
    for name, records in rows.items():
        losses = [r["losses"] for r in records if "losses" in r]
        fell = f"{np.mean([v[0] for v in losses]):.3g} -> {np.mean([v[-1] for v in losses]):.3g}" if losses else ""
        cells = [
            f"{np.mean(v):.3f} ± {np.std(v, ddof=1) if len(v) > 1 else 0:.3f}"
            for v in ([r[f] for r in records] for f in FIGURES)
        ]
        print(f"| {name} | {len(records)} | {records[0].get('epochs', '')} | {fell} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("objective", help="name, 'random', 'random:diffusion' or 'table'")
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--minutes", type=float, default=3)
    args = parser.parse_args()
    if args.objective == "table":
        table(args.work)
    else:
        run(args.work, args.objective, args.seed, args.minutes)


if __name__ == "__main__":
    main()
