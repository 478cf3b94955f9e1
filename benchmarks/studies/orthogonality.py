"""What keeping L orthogonal is worth on its own: one partition, one network that stays, the loss of all its triplets.

    python benchmarks/studies/orthogonality.py mnist:PATH --seeds 0 1 2

From the same orthonormal L (random, or as the warm-up leaves it where the paper has one), ten iterations of conjugate
gradients with LᵀL = I (Riemannian, those of recipe ``paper``) and without (SciPy's), with the paper's settings. Prints
the loss, and NMI and Recall@1 of the test images.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from reproduce import LABELS_PER_CLASS
from scipy.optimize import minimize

import ssdml_fast as sf
from ssdml_fast._settings import divided
from ssdml_fast.data import load
from ssdml_fast.evaluate import score_embedding
from ssdml_fast.methods.partition import partitions
from ssdml_fast.methods.recipes import settings as recipe_settings
from ssdml_fast.methods.settings import SSDMLSettings
from ssdml_fast.models.networks import choose
from ssdml_fast.models.seeded import seeded
from ssdml_fast.train import Config, fit


def compare(data: str, seed: int, iterations: int) -> None:
    """Print a line for the start, one for each of the two."""
    kind = data.partition(":")[0]
    examples = load(data, seed, LABELS_PER_CLASS[kind])
    shape = examples.images.shape[1:]
    choice = choose(shape)
    dataset = choice.prepared(examples)
    own = recipe_settings("ssdml", "paper", shape) | {"seed": seed, "rounds": 0}  # the warm-up alone, if there is one
    of_method, of_engine = divided(own, SSDMLSettings, Config)
    settings, config = SSDMLSettings(**of_method), Config(**of_engine)
    model = fit(seeded(choice.network, seed), dataset, settings=settings, config=config, device="cpu").model
    members = partitions(dataset.labels, settings.partition_size, np.random.default_rng([seed, 0]))[0]
    z = model.features(torch.from_numpy(dataset.images[members]))
    graph = sf.knn_graph(z, settings.neighbors)
    affinity = sf.propagate_affinity(graph, torch.from_numpy(dataset.labels[members]), gamma=settings.gamma)
    triplets = sf.mine_triplets(graph, affinity)
    start = model.metric.L.detach().clone()

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        L = torch.from_numpy(flat.reshape(start.shape)).float()
        loss, _, gradient = sf.angular_loss_and_grad(z, triplets, L, settings.alpha, reduction="mean")
        return float(loss), gradient.double().numpy().ravel()

    flat = start.double().numpy().ravel()
    free = minimize(objective, flat, jac=True, method="CG", options={"maxiter": iterations}).x
    metrics = {
        "start": start,
        "orthogonal": sf.riemannian_cg(start, z, triplets, settings.alpha, iterations, reduction="mean").L,
        "unconstrained": torch.from_numpy(free.reshape(start.shape)).float(),
    }
    test = model.features(torch.from_numpy(dataset.test_images))
    for name, L in metrics.items():
        figures = score_embedding((test @ L).numpy(), dataset.test_labels, ks=(1,))
        loss = objective(L.double().numpy().ravel())[0]
        nmi, recall = 100 * figures["nmi"], 100 * figures["recall@1"]
        print(f"{kind} seed {seed}  {name:13}  loss {loss:.4f}  NMI {nmi:.1f}  R@1 {recall:.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="KIND:PATH, as for ssdml-fast train --data")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=10)
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        compare(arguments.data, seed, arguments.iterations)


if __name__ == "__main__":
    main()
