"""Matrices with orthonormal columns where several processes train: whole in each, beside what is sharded."""

import json

import pytest
import torch
from processes import run_together

BUILD = """
import json
import ssdml_fast as sf
from ssdml_fast.optim import CayleyAdam, CayleySGD, RiemannianCG

OPTIMIZERS = {
    "CayleySGD": lambda groups: CayleySGD(groups, lr=0.05, momentum=0.5, weight_decay=0.01),
    "CayleyAdam": lambda groups: CayleyAdam(groups, lr=0.05, weight_decay=0.01),
    "RiemannianCG": lambda groups: RiemannianCG(groups, max_iter=3),
}


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.net, self.metric = torch.nn.Linear(6, 5), sf.nn.OrthogonalMetric(5, 2, generator=generator)
        with torch.no_grad():
            for parameter in self.net.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, x):
        return self.metric(torch.tanh(self.net(x)))


def groups_of(model):
    return [{"params": model.metric.parameters()}, {"params": model.net.parameters(), "stiefel": False}]


def whole(parameter):
    parameter = parameter.detach()
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter


x = torch.randn(8, 6, generator=torch.Generator().manual_seed(1)).double()
torch.set_default_dtype(torch.float64)


def train(optimizer, model, call, x, average=lambda tensors: None, steps=5):
    def closure():
        optimizer.zero_grad()
        loss = (call(x) - 1).square().mean()
        loss.backward()
        loss = loss.detach()
        average([loss, model.metric.L.grad])
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    return [whole(parameter).tolist() for parameter in (model.metric.L, *model.net.parameters())]
"""

TRAIN = (
    BUILD
    + """
from ssdml_fast._world import World
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

def average(tensors):
    for tensor in tensors:
        tensor /= size
    World.here().sum_(tensors)

mesh, mine, said = init_device_mesh("cpu", (size,)), World.here().shard(len(x)), {}
for name, build in OPTIMIZERS.items():
    model = Model()
    said[name, "alone"] = train(build(groups_of(model)), model, model, x)

    model = Model()
    parallel = DistributedDataParallel(model)  # averages the gradients, that of L too
    average_loss = lambda tensors: average(tensors[:1])
    said[name, "DistributedDataParallel"] = train(build(groups_of(model)), model, parallel, x[mine], average_loss)

    model = Model()
    fully_shard(model.net, mesh=mesh)
    optimizer = build(groups_of(model))
    assert [hasattr(p, "full_tensor") for g in optimizer.param_groups for p in g["params"]] == [False, True, True]
    said[name, "fully_shard"] = train(optimizer, model, model, x[mine], average)
print(json.dumps([[*key, parameters] for key, parameters in said.items()]))
"""
)


def told(code, size, folder):
    """What each of so many processes printed, none of which may have failed."""
    ended = run_together(code, size, folder)
    assert [status for status, _, _ in ended] == [0] * size, ended
    return [json.loads(printed) for _, printed, _ in ended]


def test_matrices_are_whole_and_move_alike_beside_parameters_that_are_replicated_or_sharded(tmp_path):
    """On their halves of a mini-batch, two processes go where one goes on all of it, and L is the same in both."""
    first, second = ({(name, how): parameters for name, how, parameters in said} for said in told(TRAIN, 2, tmp_path))
    assert len(first) == 9 and first == second
    for name in ("CayleySGD", "CayleyAdam", "RiemannianCG"):
        alone = [torch.tensor(parameter, dtype=torch.float64) for parameter in first[name, "alone"]]
        for how in ("DistributedDataParallel", "fully_shard"):
            for expected, found in zip(alone, first[name, how], strict=True):
                torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected, rtol=0, atol=1e-9)


REFUSED = (
    BUILD
    + """
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

mesh, told = init_device_mesh("cpu", (size,)), []


def refused(function, *arguments):
    try:
        function(*arguments)
    except TypeError as error:
        told.append(str(error))
    else:
        told.append("nothing")


L = Model().metric.L
for placement in (Shard(0), Replicate()):
    distributed_L = torch.nn.Parameter(distribute_tensor(L.detach(), mesh, [placement]))
    for build in OPTIMIZERS.values():
        refused(build, [distributed_L])
        build([{"params": [distributed_L], "stiefel": False}])
        optimizer = build([torch.nn.Parameter(L.detach().clone())])
        refused(optimizer.add_param_group, {"params": [distributed_L]})
        assert len(optimizer.param_groups) == 1
        optimizer.param_groups[0]["params"][0] = distributed_L  # as launchers do that shard a model later
        refused(optimizer.step, lambda: torch.zeros(()))
metric = sf.nn.OrthogonalMetric(5, 2)
metric.L = torch.nn.Parameter(distribute_tensor(L.detach(), mesh, [Shard(0)]))
refused(metric.orthogonality_error)
refused(sf.cayley_update, metric.L, metric.L, 0.1)
refused(sf.qr_retraction, metric.L, metric.L)
refused(sf.polar_retraction, metric.L, metric.L)
refused(sf.angular_loss, x[:, :5].contiguous(), torch.tensor([[0, 1, 2]]), metric.L)
print(json.dumps(told))
"""
)


@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_matrices_that_are_sharded_are_refused(size, tmp_path):
    for refusals in told(REFUSED, size, tmp_path):
        assert len(refusals) == 23
        for placement, messages in zip(("Shard(dim=0)", "Replicate()"), (refusals[:9], refusals[9:18]), strict=True):
            for message in messages:
                assert message == (
                    "params[0] of a group with stiefel=True must be whole in every process, found a DTensor, "
                    f"{placement} on a mesh of shape ({size},): leave it out of what is sharded, as fully_shard(model, "
                    "ignored_params={model.metric.L}) does, and average its gradient over the processes"
                )
        assert refusals[18].startswith("L must be whole in every process, found a DTensor, Shard(dim=0) on a mesh ")
        for message in refusals[19:]:
            assert message.startswith("L must be a tensor with memory of its own, found a DTensor without any: ")
            assert ".full_tensor()" in message
