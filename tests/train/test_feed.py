"""How examples reach a device: the right ones, each read once, and without waiting; from arrays and from Datasets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Counted, Items, Labelled
from torch import nn
from trainings import TINY, assert_same, digits, figures, interrupt, train

from ssdml_fast._world import World
from ssdml_fast.data import examples as data_examples
from ssdml_fast.data.examples import as_examples
from ssdml_fast.models.preparation import MeanImage
from ssdml_fast.runs.folder import RunFolder
from ssdml_fast.train import Batch, Leg, Method, Work
from ssdml_fast.train.feed import Feed
from ssdml_fast.train.training import _cache_shares

CPU = torch.device("cpu")


class Doubled(nn.Module):
    def forward(self, images):
        return 2 * images.float()


def octets(n=40):
    return np.random.default_rng(0).integers(0, 256, (n, 1, 4, 5), np.uint8)


def batches(n=40, beside=True):
    rng = np.random.default_rng(1)
    for i in range(4):
        rows = torch.from_numpy(rng.permutation(n)[: 7 + i])
        yield Batch(rows, extra=i, beside=torch.from_numpy(rng.permutation(n)[:5]) if beside else None)


@pytest.mark.parametrize("prepare", [None, Doubled()])
@pytest.mark.parametrize("kind", [np.asarray, Items])
def test_images_are_those_of_the_rows(kind, prepare):
    x = octets()
    feed = Feed(as_examples(kind(x), "images"), CPU, prepare)
    right = torch.from_numpy(x) if prepare is None else prepare(torch.from_numpy(x))
    rows = torch.tensor([3, 3, 0, 39])
    assert torch.equal(feed.images(rows), right[rows])
    assert torch.equal(feed.raw(rows), torch.from_numpy(x)[rows])
    assert torch.equal(feed.prepared(feed.raw(rows)), right[rows])
    parts = list(feed.parts(torch.arange(40), 16))
    assert [len(part) for part in parts] == [16, 16, 8] and torch.equal(torch.cat(parts), right)
    assert not feed.images(rows).requires_grad


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("beside", [True, False])
def test_mini_batches_are_read_ahead_once_and_in_order(tmp_path, workers, beside):
    x = octets()
    examples = as_examples(Counted(x, tmp_path / "reads"), "images", workers, cache_gb=0)
    reads = (tmp_path / "reads").stat().st_size  # the first, for its form
    feed, right = Feed(examples, CPU, Doubled()), 2 * torch.from_numpy(x).float()
    for expected, batch in zip(batches(beside=beside), feed.ahead(batches(beside=beside)), strict=True):
        assert batch.extra == expected.extra and torch.equal(batch.rows, expected.rows)
        for rows in (batch.rows, batch.rows, batch.beside):  # twice, as for two views
            if rows is not None:
                images = feed.images(rows)
                assert torch.equal(images, right[rows])
                images.zero_()
    examples.close()
    asked = sum(len(batch.rows) + (len(batch.beside) if beside else 0) for batch in batches(beside=beside))
    assert (tmp_path / "reads").stat().st_size - reads == asked


class Noting(Doubled):
    """Notes how many examples it is given at once."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, images):
        self.sizes.append(len(images))
        return super().forward(images)


def test_what_is_read_ahead_is_prepared_as_what_is_not():
    """By as many at once, as sums of a product may round by how many there are."""
    sizes = []
    for kind in (np.asarray, Items):
        feed = Feed(as_examples(kind(octets()), "images"), CPU, Noting())
        for batch in feed.ahead(batches()):
            feed.images(batch.rows), feed.images(batch.beside)
        sizes.append(feed.prepare.sizes)
    assert sizes[0] == sizes[1] == [7, 5, 8, 5, 9, 5, 10, 5]


def test_rows_that_are_not_at_hand_are_read():
    x = octets()
    feed = Feed(as_examples(Items(x), "images"), CPU, None)
    ahead = feed.ahead(batches())
    batch = next(ahead)
    other = batch.rows.flip(0)
    assert torch.equal(feed.images(other), torch.from_numpy(x)[other])
    ahead.close()  # as a pass that is broken off
    batch.rows[:] = 0  # another mini-batch, in the memory of that one
    assert torch.equal(feed.images(batch.rows), torch.from_numpy(x)[batch.rows])


# --- a device, by a stand-in ------------------------------------------------------------------------------------------


@pytest.fixture
def copies(monkeypatch):
    """Tensors that are sent to a device which is none, whether each was pinned, and whether the host waited."""
    sent, pinned, to, empty = [], set(), torch.Tensor.to, data_examples._empty

    def make(examples, n, pin):
        made = empty(examples, n, pin=False)
        pinned.update({made.data_ptr()} if pin else ())
        return made

    def send(tensor, where=None, *rest, non_blocking=False, **options):
        if isinstance(where, torch.device) and where.type == "cuda":
            sent.append((len(tensor), tensor.data_ptr() in pinned, non_blocking))
            return tensor.clone()
        return to(tensor, where, *rest, **options)

    monkeypatch.setattr(data_examples, "_empty", make)
    monkeypatch.setattr(torch.Tensor, "to", send)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4000, 8000))
    return sent


CUDA = torch.device("cuda", 0)


def test_arrays_that_fit_lie_on_the_device_and_rows_alone_are_sent(copies):
    x = octets(80)  # of 20 bytes each: 40% of what is free
    feed = Feed(as_examples(x, "images"), CUDA, Doubled())
    assert copies == [(80, False, False)]  # once
    for batch in feed.ahead(batches()):
        assert torch.equal(feed.images(batch.rows), 2 * torch.from_numpy(x)[batch.rows].float())
        assert copies.pop() == (len(batch.rows), False, True)
    assert [len(part) for part in feed.parts(torch.arange(80), 50)] == [50, 30]
    assert copies[1:] == [(50, False, True), (30, False, True)]


def test_arrays_lie_on_the_devices_of_all_processes_or_of_none(copies, monkeypatch):
    monkeypatch.setattr(World, "every", lambda world, fits: [fits, False])
    assert Feed(as_examples(octets(80), "images"), CUDA, None, World(0, 2))._resident is None
    assert copies == []


@pytest.mark.parametrize("kind", [np.asarray, Items])
def test_what_does_not_fit_is_sent_from_pinned_memory_a_mini_batch_at_once(copies, kind):
    x = octets(81)
    feed = Feed(as_examples(kind(x), "images"), CUDA, None)
    assert copies == []
    for batch in feed.ahead(batches()):
        assert torch.equal(feed.images(batch.rows), torch.from_numpy(x)[batch.rows])
        assert torch.equal(feed.images(batch.beside), torch.from_numpy(x)[batch.beside])
    assert copies == [(len(batch.rows) + len(batch.beside), True, True) for batch in batches()]
    copies.clear()
    assert torch.equal(torch.cat(list(feed.parts(torch.arange(81), 50))), torch.from_numpy(x))
    assert copies == [(50, True, True), (31, True, True)]


# --- whole trainings --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared():
    """The digits as bytes, what prepares them, and the training on the floats that this makes of them."""
    parts = [((images * 20 + 100).clip(0, 255).astype(np.uint8), labels) for images, labels in digits()]
    prepare = MeanImage(torch.from_numpy(parts[0][0]))
    floats = [(prepare(torch.from_numpy(images)).numpy(), labels) for images, labels in parts]
    return parts, prepare, train(TINY | {"rounds": 1}, data=floats)


@pytest.mark.parametrize(
    ("as_dataset", "settings"),
    [(False, {}), (True, {}), (True, {"cache_gb": 0.0}), (True, {"cache_gb": 1e-5}), (True, {"workers": 2})],
)
def test_examples_of_a_dataset_train_as_the_array_that_they_make(prepared, as_dataset, settings):
    parts, prepare, expected = prepared
    data = [Labelled(*part) for part in parts] if as_dataset else parts
    result = train(TINY | {"rounds": 1} | settings, data=data, prepare=prepare)
    assert figures(result.history) == figures(expected.history)
    for name, tensor in expected.model.state_dict().items():
        assert torch.equal(tensor, result.model.state_dict()[name])
    val_images = parts[1][0]
    np.testing.assert_array_equal(
        result.model.embed(val_images), expected.model.embed(prepare(torch.from_numpy(val_images)).numpy())
    )


class Endless(Method):
    """Has mini-batches without end."""

    def legs(self):
        return [Leg("classes", (0,), passes=2)]

    def prepare(self, leg, aid):
        def batches(rng):
            while True:
                yield Batch(torch.from_numpy(rng.choice(self.data.labelled, 20)))

        return Work(batches, 3)

    def loss(self, batch, aid):
        classes = aid.send(torch.from_numpy(self.data.labels)[batch.rows])
        return nn.functional.cross_entropy(aid.head(aid.embed(batch.rows)), classes)


def test_mini_batches_beyond_a_pass_are_not_drawn_by_those_who_read_ahead():
    settings = {"metric_dim": 16}
    alone = train(settings, method=Endless)
    data = [Labelled(images.copy(), labels) for images, labels in digits()]
    assert_same(train(settings | {"workers": 2}, data=data, method=Endless), alone)


class Dropping(nn.Module):
    """Drops pixels while it is told to train."""

    def forward(self, images):
        return nn.functional.dropout(images, 0.5, self.training)


def test_what_prepares_examples_is_in_evaluation_mode():
    settings = TINY | {"rounds": 0}
    assert_same(train(settings, prepare=Dropping()), train(settings))


def test_datasets_share_the_cache_by_their_numbers():
    train_part, val = Items([0] * 30), Items([0] * 10)
    train_part.targets = [0] * 30
    assert _cache_shares(2.0, train_part, (val, np.zeros(10))) == [1.5, 0.5]
    assert _cache_shares(2.0, (val, np.zeros(10)), None) == [2.0, 0]
    assert _cache_shares(2.0, (np.zeros((9, 2)), np.zeros(9)), (val, np.zeros(10))) == [0, 2.0]


def test_a_training_on_a_dataset_resumes_to_the_same_with_other_workers(prepared, tmp_path):
    parts, prepare, _ = prepared
    data, run = [Labelled(*part) for part in parts], RunFolder(tmp_path / "run")
    whole = train(TINY | {"rounds": 1}, data=data, prepare=prepare)
    with pytest.raises(KeyboardInterrupt):
        train(TINY | {"rounds": 1, "workers": 2}, data=data, prepare=prepare, run=run, on_validation=interrupt(2))
    resumed = train(TINY | {"rounds": 1}, data=data, prepare=prepare, run=run, resume=True)
    assert_same(resumed, whole)


def test_bytes_need_what_prepares_them(prepared, tmp_path):
    run = RunFolder(tmp_path / "run")
    with pytest.raises(TypeError, match=r"^train images must be float32 where there is no `prepare` .*uint8"):
        train(TINY, data=[Labelled(*part) for part in prepared[0]], run=run)
    with pytest.raises(TypeError, match=r"^train must be \(images, labels\), or a Dataset with its labels"):
        train(TINY, data=(Items(octets()), digits()[1]), run=run)
    assert not run.path.exists()
