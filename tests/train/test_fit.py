"""The whole training on small settings: what must hold of it, whatever the kernels' speed; and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from trainings import TINY, SmallNet, assert_same, digits, engine, figures, interrupt, train

from ssdml_fast.data.digits import load_digits
from ssdml_fast.evaluate import score_embedding
from ssdml_fast.models.metric import untrained
from ssdml_fast.models.seeded import seeded
from ssdml_fast.runs.folder import RunError, RunFolder
from ssdml_fast.train import fit


@pytest.fixture(scope="module")
def fitted():
    return train(TINY)


def test_training_improves_and_returns_its_best(fitted):
    assert fitted.stopped == "finished"
    assert len(fitted.history) == 2 + TINY["rounds"] * 3 == 1 + fitted.best["planned"]
    assert [record.get("round") for record in fitted.history] == [None, 0, 1, 1, 1, 2, 2, 2]
    assert [record["validation"] for record in fitted.history] == list(range(8))
    assert [record["epoch"] for record in fitted.history] == [0, 0, 1, 2, 3, 4, 5, 6]  # passes over partitions
    assert fitted.best["val_nmi"] > fitted.history[0]["val_nmi"] + 0.05
    assert fitted.best["score"] == max(record["score"] for record in fitted.history)
    val_images, val_labels = digits()[1]
    found = score_embedding(fitted.model.embed(val_images.copy()), val_labels, ks=(1,))
    assert found == {"nmi": fitted.best["val_nmi"], "recall@1": fitted.best["val_recall@1"]}


def test_the_last_model_is_kept_where_it_is_asked_for(fitted):
    last = train(TINY | {"select": "last"})
    assert last.best is last.history[-1]
    assert figures(last.history) == figures(fitted.history)
    train_part, (val_images, val_labels) = digits()
    found = score_embedding(last.model.embed(val_images.copy()), val_labels, ks=(1,))
    assert found["nmi"] == last.history[-1]["val_nmi"]
    without = train(TINY | {"select": "last"}, data=(train_part,))
    assert not {"score", "val_nmi", "val_recall@1"} & set().union(*without.history)
    assert [record.get("loss") for record in without.history] == [record.get("loss") for record in last.history]
    for name, tensor in last.model.state_dict().items():
        assert torch.equal(tensor, without.model.state_dict()[name])
    with pytest.raises(ValueError, match=r"^val must be given to choose a model by"):
        train(TINY, data=(train_part,))


def test_L_stays_orthogonal_and_moves(fitted):
    assert all(record["orthogonality_error"] <= 1e-5 for record in fitted.history)
    start = untrained(seeded(SmallNet, 0), digits()[0][0], TINY["metric_dim"], 0).metric.L
    assert (fitted.model.metric.L - start).abs().max() > 1e-2


def test_training_repeats_exactly_and_leaves_global_generators_alone(fitted):
    torch.manual_seed(123)
    np.random.seed(123)  # noqa: NPY002
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    again = train(TINY)
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert_same(again, fitted)
    other = train(TINY | {"seed": 1, "rounds": 1})
    assert other.history[1]["loss"] != fitted.history[1]["loss"]


@pytest.mark.parametrize("stop_at", [1, 2, 5])
def test_a_resumed_training_ends_as_an_uninterrupted_one(fitted, tmp_path, stop_at):
    run = RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(TINY, run=run, on_validation=interrupt(stop_at))
    assert len(run.read_history()) == stop_at + 1
    seen = []
    resumed = fit(seeded(SmallNet, 0), *digits(), device="cpu", run=run, resume=True, on_validation=seen.append)
    assert [record["validation"] for record in seen] == list(range(stop_at + 1, 8))
    assert_same(resumed, fitted)
    for name, tensor in fitted.model.state_dict().items():
        assert torch.equal(tensor, run.read_model()[name])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == resumed.history


class SmallConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 32))

    def forward(self, images):
        return F.normalize(self.layers(images))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"precision": "bfloat16"}, {"compile": True}])
def test_other_arithmetic_trains_as_well_and_resumes_to_the_same(tmp_path, monkeypatch, options):
    compiled, compiler = [], torch.compile

    def quick(network):
        if isinstance(network, nn.Module):  # not what is tried beforehand
            compiled.append(network)
        return compiler(network, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", quick)
    once = TINY | {"rounds": 1, "augment": "none"}
    plain = train(once, seeded(SmallConvNet, 0))
    whole = train(once | options, seeded(SmallConvNet, 0))
    assert whole.best["score"] > max(whole.history[0]["score"] + 0.03, plain.best["score"] - 0.03)
    change = abs(whole.history[1]["loss"] / plain.history[1]["loss"] - 1)  # rounding, and no more
    assert len(compiled) == 1 and change < 1e-3 if "compile" in options else 0 < change < 0.02
    run = RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(once | options, seeded(SmallConvNet, 0), run=run, on_validation=interrupt(2))
    assert_same(fit(seeded(SmallConvNet, 0), *digits(), run=run, resume=True), whole)


class ThreeAxes(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv3d(1, 8, (1, 8, 8))

    def forward(self, images):
        return self.layer(images[:, None]).flatten(1)


def test_networks_of_other_axes_train():
    settings = {"rounds": 1, "partition_size": 300, "epochs": 1, "metric_dim": 4, "max_epochs": 1}
    assert len(train(settings, ThreeAxes()).history) == 2


def test_one_data_set_may_hold_the_validation_examples_too():
    data = load_digits(0)
    parts = (data.images, data.labels), (data.val_images, data.val_labels)
    once = {"rounds": 1, "max_epochs": 1, "metric_dim": 16}
    assert_same(train(once, data=(data,)), train(once, data=parts))


def test_labels_may_be_of_any_library_and_integer_type():
    once = {"rounds": 1, "max_epochs": 1, "metric_dim": 16}
    tensors = [(images, torch.tensor(labels, dtype=torch.int16)) for images, labels in digits()]
    assert_same(train(once, data=tensors), train(once))


# --- what is not finite -----------------------------------------------------------------------------------------------


class OverflowingNet(SmallNet):
    def forward(self, images):
        return F.normalize(self.layers(images).exp())


def test_an_infinite_network_is_reported_and_never_returned(tmp_path):
    run = RunFolder(tmp_path / "run")
    result = train(TINY | {"learning_rate": 100}, OverflowingNet(), run=run)
    assert result.stopped == "diverged"
    assert np.isfinite(result.model.embed(digits()[1][0].copy())).all()
    again = fit(OverflowingNet(), *digits(), run=run, resume=True, device="cpu")
    assert again.stopped == "diverged" and again.history == result.history


class TrainsToNaN(SmallNet):
    def forward(self, images):
        return super().forward(images) * (torch.nan if self.training else 1)


@pytest.mark.parametrize("warmup", [0, 20])
def test_an_embedding_that_is_not_finite_stops_any_step(warmup):
    result = train(TINY | {"warmup": warmup}, TrainsToNaN())
    assert (result.stopped, len(result.history)) == ("diverged", 1)
    assert np.isfinite(result.model.embed(digits()[1][0].copy())).all()


class NaNOf(SmallNet):
    """Embeds one image by NaN."""

    def __init__(self, image):
        super().__init__()
        self.image = torch.from_numpy(image.copy())

    def forward(self, images):
        others = (images != self.image).flatten(1).any(1, keepdim=True)
        return super().forward(images).where(others, torch.nan)


def test_a_network_of_nan_is_named_and_leaves_nothing(tmp_path):
    run = RunFolder(tmp_path / "run")
    with pytest.raises(ValueError, match=r"^network must embed val by finite numbers"):
        train(TINY, NaNOf(digits()[1][0][7]), run=run)
    assert not (tmp_path / "run").exists()


def test_an_embedding_that_is_not_finite_is_given_no_graph():
    images, labels = digits()[0]
    unlabelled = images[np.flatnonzero(labels < 0)[0]]
    result = train(TINY | {"augment": "none", "warmup": 0}, NaNOf(unlabelled))
    assert result.stopped == "diverged"
    assert np.isfinite(result.model.embed(digits()[1][0].copy())).all()


class Growing(nn.Module):
    """Embeds training examples ever further from the origin."""

    def __init__(self, factor):
        super().__init__()
        self.layer, self.factor, self.n = nn.Linear(64, 32), factor, 0

    def forward(self, images):
        self.n += self.training
        return self.layer(images.flatten(1)) * self.factor**self.n


@pytest.mark.parametrize("factor", [10.0, 1e8, 1e25])  # which is not infinite, but its squares or its gradients are
@pytest.mark.parametrize(
    "settings",
    [
        {"metric_update": "cayley"},
        {"metric_update": "conjugate"},
        {"metric_update": "unconstrained"},
        {"mining": "neighborhood"},
        {"mining": "neighborhood", "metric_update": "partition"},
        {"warmup": 20},
        {"softmax_weight": 1.0},
        {"select": "last"},
    ],
    ids=str,
)
def test_an_embedding_that_overflows_while_it_learns_has_diverged(settings, factor, monkeypatch):
    monkeypatch.setattr("ssdml_fast.train.engine.COLLAPSE_DROP", 1.0)  # it may be of less use before
    result = train({"rounds": 4, "epochs": 3, "metric_dim": 4, "average": 0.0} | settings, Growing(factor))
    assert result.stopped == "diverged"
    assert torch.isfinite(result.model.metric.L).all()


class Huge(SmallNet):
    def forward(self, images):
        return super().forward(images) * 1e30


def test_a_network_whose_distances_overflow_is_named():
    with pytest.raises(ValueError, match=r"^network must embed val by finite numbers, found NaN, inf or such as are"):
        train(TINY, Huge())


# --- too little memory ------------------------------------------------------------------------------------------------


class RunsOut(SmallNet):
    """Finds too little memory at one of its steps."""

    def __init__(self, out_at, fail=None):
        super().__init__()
        self.left, self.fail = out_at, fail

    def forward(self, images):
        self.left -= self.training
        if self.left == 0:
            raise self.fail or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(images)


@pytest.mark.parametrize("out_at", [3, 25, 27])  # in the warm-up; and in partitions, some of which are done
def test_too_little_memory_is_one_error_from_which_a_run_goes_on(tmp_path, out_at):
    run, whole = RunFolder(tmp_path / "run"), train(TINY | {"rounds": 1})
    network = RunsOut(out_at)
    network.load_state_dict(seeded(SmallNet, 0).state_dict())
    message = r"^cpu has too little memory: lower batch_size \(now 100\), or set precision to 'bfloat16'; or go on from"
    with pytest.raises(MemoryError, match=message) as raised:
        train(TINY | {"rounds": 1}, network, run=run)
    assert str(run.path) in str(raised.value) and isinstance(raised.value.__cause__, torch.OutOfMemoryError)
    assert_same(train(TINY | {"rounds": 1}, run=run, resume=True), whole)


def test_too_little_memory_without_a_run_says_what_to_lower():
    message = r"^cpu has too little memory: lower batch_size \(now 50\)$"
    with pytest.raises(MemoryError, match=message):
        train(TINY | {"batch_size": 50, "precision": "bfloat16"}, RunsOut(1))


class Greedy(SmallNet):
    def forward(self, images):
        return super().forward(images) + torch.empty(2**50 * self.training).sum()  # 4 PB, and nothing


@pytest.mark.parametrize(
    "network",
    [
        RunsOut(2, MemoryError("std::bad_alloc")),
        RunsOut(2, RuntimeError("MPS backend out of memory (MPS allocated: 18.00 GB).")),
        RunsOut(2, RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)")),
        Greedy(),
    ],
)
def test_too_little_memory_is_one_error_on_any_device(network):
    with pytest.raises(MemoryError, match=r"^cpu has too little memory: lower batch_size"):
        train(TINY, network)


def test_other_errors_are_as_they_are():
    with pytest.raises(RuntimeError, match=r"^shapes differ$"):
        train(TINY, RunsOut(2, RuntimeError("shapes differ")))


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "of", "change", "message"),
    [
        (0, 0, lambda images: images.astype(np.float64), "^train images must be a NumPy array of type float32 in nat"),
        (0, 0, lambda images: images.astype(images.dtype.newbyteorder()), "in native byte order, found [<>]f4"),
        (0, 0, lambda images: torch.from_numpy(images.copy()), "^train images must be a NumPy array"),
        (0, 0, lambda images: (255 * images).astype(np.uint8), "^train images must be float32 where there is no `prep"),
        (0, 0, lambda images: images + np.float32(np.inf), "^train images must be finite"),
        (0, 1, lambda labels: labels[:-1], "^train labels must have shape"),
        (0, 1, lambda labels: np.where(labels > 0, -1, labels), "^train labels must hold at least two classes"),
        (0, 1, lambda labels: labels - 1, r"^train labels must be at least 0, or -1 where unlabelled, found -2"),
        (0, 1, lambda labels: labels / 2, "^train labels must be"),
        (1, 1, lambda labels: labels[:-1], "^val labels must have shape"),
        (1, 1, lambda labels: np.where(labels > 8, -1, labels), r"^val labels must all be known \(at least 0\), fo"),
        (1, 0, lambda images: images[:, :, 1:], "^val must hold examples as train does"),
        (0, 0, np.ma.masked_array, "^train images must have no mask, found a NumPy masked array"),
        (0, 1, np.ma.masked_array, "^train labels must have no mask"),
        (1, 0, np.ma.masked_array, "^val images must have no mask"),
        (1, 1, np.ma.masked_array, "^val labels must have no mask"),
        (0, 0, lambda images: images.reshape(len(images), -1), "^(val must hold|augment must be 'none' for examples)"),
    ],
)  # fmt: skip
def test_bad_data_is_named_before_anything_is_written(tmp_path, part, of, change, message):
    data = [list(each) for each in digits()]
    data[part][of] = change(data[part][of])
    with pytest.raises((TypeError, ValueError), match=message):
        train(TINY, data=data, run=RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_examples_that_are_no_images_are_not_augmented(tmp_path):
    flat = [(images.reshape(len(images), -1), labels) for images, labels in digits()]
    with pytest.raises(ValueError, match=r"^augment must be 'none' for examples that are no images, .*shape \(64,\)"):
        train(TINY, data=flat, run=RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_validation_images_are_named_before_anything_is_written(tmp_path, n):
    train_part, val = digits()
    with pytest.raises(ValueError, match=f"^val must hold at least two examples, .* found {n}"):
        train(TINY, data=(train_part, [each[:n] for each in val]), run=RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("part", [None, 3, (1,), (1, 2, 3)])
def test_examples_without_labels_are_named(part):
    with pytest.raises(TypeError, match=r"^train must be \(images, labels\) or a map-style Dataset, found "):
        fit(SmallNet(), part, digits()[1])


def test_settings_that_do_not_fit_the_data_are_named_before_anything_is_written(tmp_path):
    run = RunFolder(tmp_path / "run")
    for setting, value in {"neighbors": 200, "metric_dim": 33}.items():
        with pytest.raises(ValueError, match=f"{setting} must be"):
            train(TINY | {setting: value}, run=run)
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_compiled_is_named_before_anything_is_written(tmp_path, monkeypatch):
    def without_compiler(*_):
        raise RuntimeError("No C++ compiler found.\n\nSet TORCHDYNAMO_VERBOSE=1 for more")

    monkeypatch.setattr(torch, "compile", lambda _: without_compiler)
    message = r"^compile must be False, as torch.compile does not work here: No C\+\+ compiler found\.$"
    with pytest.raises(ValueError, match=message):
        train(TINY | {"compile": True}, run=RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_network_that_cannot_be_compiled_is_named(monkeypatch):
    from torch._dynamo.exc import BackendCompilerFailed

    def fails(network):
        def call(images):
            if isinstance(network, nn.Module):
                raise BackendCompilerFailed(fails, RuntimeError("no kernel for it"), None)
            return network(images)

        return call

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(ValueError, match=r"^compile must be False for this network: .*no kernel for it"):
        train(TINY | {"compile": True})


def test_resuming_needs_a_run():
    with pytest.raises(ValueError, match=r"^run must be given to resume from"):
        fit(SmallNet(), *digits(), resume=True)


def test_a_run_of_other_settings_is_refused(tmp_path):
    run = RunFolder(tmp_path / "run")
    train(TINY | {"rounds": 1}, run=run)
    with pytest.raises(RunError, match="other settings: rounds"):
        train(TINY, run=run, resume=True)
    with pytest.raises(RunError, match="other settings: patience"):
        train(TINY | {"rounds": 1, "patience": 9}, run=run, resume=True)
    with pytest.raises(RunError, match="must be new or empty"):
        train(TINY, run=run)


def test_where_a_resumed_training_runs_may_be_other(tmp_path, fitted):
    run = RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(TINY, run=run, on_validation=interrupt(2))
    assert_same(train(TINY | {"workers": 1, "cache_gb": 0.5}, run=run, resume=True), fitted)


def test_a_checkpoint_of_another_device_goes_on_with_the_kernels_of_this(tmp_path, fitted):
    run = RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(TINY, run=run, on_validation=interrupt(2))
    checkpoint = run.read_checkpoint()
    (group,) = checkpoint["optimizers"][0]["param_groups"]
    group |= {"fused": True, "foreach": None}  # as on CUDA
    run.write_progress(checkpoint)
    made = engine(TINY)
    made.load(run)
    assert made.optimizer.param_groups[0]["fused"] is None
    assert_same(train(TINY, run=run, resume=True), fitted)


def test_a_checkpoint_of_a_version_before_0_1_0_is_refused(tmp_path):
    run, once = RunFolder(tmp_path / "run"), TINY | {"rounds": 1}
    train(once, run=run)
    checkpoint = run.read_checkpoint()
    for record in checkpoint["history"]:
        record["epoch"] = record.pop("validation")
    run.write_progress(checkpoint)
    with pytest.raises(RunError, match=r"of a version of ssdml-fast before 0\.1\.0, .*: train again"):
        train(once, run=run, resume=True)
