"""Calls every kernel, its twin, and what is built on them alone: what an installation without extras must do."""

import numpy as np
import torch

import ssdml_fast as sf

rng = np.random.default_rng(0)
x, labels = rng.normal(size=(40, 6)), np.where(np.arange(40) < 8, np.arange(40) % 2, -1)
L, tangent = np.eye(6, 3), rng.normal(size=(6, 3))
tangent -= L @ (L.T @ tangent + tangent.T @ L) / 2
called = {}


def call(name, *arguments, **options):
    called[name] = getattr(sf, name)(*arguments, **options)
    getattr(sf.reference, name)(*arguments, **options)
    return called[name]


graph = call("knn_graph", x, 5)
call("knn_search", x[:4], x, 5)
affinity = call("propagate_affinity", graph, labels)
posteriors = call("propagate_labels", graph, labels).posteriors
triplets = call("mine_triplets", graph, affinity)
call("mine_class_triplets", posteriors, 20)
call("graph_modes", graph)
call("angular_loss", x, triplets, L)
call("angular_loss_and_grad", x, triplets, L)
call("cayley_update", L, tangent, 0.1)
call("qr_retraction", L, tangent)
call("polar_retraction", L, tangent)
call("riemannian_cg", L, x, triplets, iterations=2)
assert set(called) == set(sf.reference.__all__)

metric = sf.nn.OrthogonalMetric(6, 3)
z = torch.from_numpy(x).float()
triplets = sf.mine_triplets(sf.knn_graph(z, 5), sf.propagate_affinity(sf.knn_graph(z, 5), torch.from_numpy(labels)))
sf.nn.AngularLoss()(z, triplets, metric.L).backward()
for optimizer in (sf.optim.CayleySGD, sf.optim.CayleyAdam):
    optimizer(metric.parameters(), lr=0.1).step()
sf.show_config()
