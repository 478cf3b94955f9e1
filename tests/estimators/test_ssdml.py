"""sf.SSDML is a scikit-learn estimator by scikit-learn's own checks, and learns."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from ambient import AMBIENT
from sklearn.datasets import make_blobs
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import ssdml_fast as sf
from ssdml_fast.data import hide_labels


@pytest.mark.parametrize("hidden_units", [None, 8])
def test_scikit_learns_own_checks(hidden_units):
    check_estimator(sf.SSDML(hidden_units=hidden_units, max_iter=1))


@pytest.fixture(scope="module")
def noisy():
    """Four classes apart in three features, among seven that are louder and tell nothing; five labels per class."""
    rng = np.random.default_rng(0)
    y = np.arange(240) % 4
    X = np.concatenate([np.eye(4)[y][:, :3] * 6 + rng.normal(size=(240, 3)), 3 * rng.normal(size=(240, 7))], 1)
    return X, y, hide_labels(y, 5, rng)


@pytest.mark.filterwarnings("error")
def test_labels_that_are_known_are_kept_and_tight_clusters_are_no_reason_to_warn():
    X, y = make_blobs(1500, centers=12, cluster_std=0.1, random_state=0)
    assert sf.SSDML(random_state=0, max_iter=1).fit(X, np.where(np.arange(1500) % 50 == 0, y, -1)).score(X, y) > 0.9
    X, y = np.random.default_rng(0).standard_normal((200, 5)), np.arange(200) % 3  # noise
    np.testing.assert_array_equal(sf.SSDML(random_state=0, max_iter=1).fit(X, y).transduction_, y)


def test_the_embedding_is_orthonormal_linear_and_better_than_the_features(noisy):
    X, y, few = noisy
    model = sf.SSDML(n_components=3, random_state=0).fit(X, few)
    assert model.n_iter_ == model.max_iter and 0 < model.best_iter_ <= model.max_iter
    np.testing.assert_allclose(model.components_ @ model.components_.T, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(
        model.transform(X), (X - model.mean_) / model.scale_ @ model.components_.T, rtol=1e-9, atol=1e-12
    )
    known = few >= 0
    features = KNeighborsClassifier(1).fit(X[known], y[known]).score(X, y)
    few_nearest = KNeighborsClassifier(1).fit(model.transform(X[known]), y[known])
    assert few_nearest.score(model.transform(X), y) > features + 0.1
    np.testing.assert_array_equal(model.transduction_[known], y[known])
    nearest = KNeighborsClassifier(1).fit(model.transform(X), model.transduction_)
    shifted = X + 0.5  # not the training samples themselves
    assert model.score(shifted, y) == pytest.approx(nearest.score(model.transform(shifted), y))
    assert model.score(X, y) == pytest.approx((model.transduction_ == y).mean())
    assert model.score(X, y) > features + 0.2
    assert np.isnan(model.score(X, np.full(240, -1)))
    assert model.score(X, np.where(y == 0, y, -1)) == pytest.approx(
        nearest.score(model.transform(X[y == 0]), y[y == 0])
    )


@pytest.mark.parametrize("hidden_units", [None, 16])
def test_the_same_random_state_gives_the_same_embedding_and_pickling_keeps_it(noisy, hidden_units):
    X, _, few = noisy
    model, again, other = (sf.SSDML(hidden_units=hidden_units, random_state=s).fit(X, few) for s in (1, 1, 2))
    np.testing.assert_array_equal(model.transform(X), again.transform(X))
    assert not np.array_equal(model.transform(X), other.transform(X))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).transform(X), model.transform(X))
    assert model.transform(X.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("ambient", AMBIENT)
@pytest.mark.parametrize("hidden_units", [None, 8])
def test_what_torch_is_set_to_changes_nothing(noisy, hidden_units, ambient):
    X, y, few = noisy
    right = sf.SSDML(hidden_units=hidden_units, random_state=0, max_iter=2).fit(X, few)
    with AMBIENT[ambient]():
        model = sf.SSDML(hidden_units=hidden_units, random_state=0, max_iter=2).fit(X, few)
        embedding, score = model.transform(X), model.score(X, y)
    np.testing.assert_array_equal(embedding, right.transform(X))
    assert score == right.score(X, y)


def test_the_embedding_has_two_dimensions_a_class_or_half_the_features(noisy):
    X, _, few = noisy
    fitted = sf.SSDML(max_iter=1).fit(X, few)
    assert fitted.components_.shape == (5, 10)
    two_classes = sf.SSDML(max_iter=1).fit(X, np.where(few > 1, -1, few))
    assert two_classes.components_.shape == (4, 10)


def test_labels_may_be_any_numbers(noisy):
    X, y, few = noisy
    spread = np.where(few < 0, -1, 10 * few + 3)
    model = sf.SSDML(random_state=0).fit(X, spread)
    assert model.classes_.tolist() == [3, 13, 23, 33] and set(model.transduction_) <= {3, 13, 23, 33}
    assert model.score(X, 10 * y + 3) == sf.SSDML(random_state=0).fit(X, few).score(X, y)


@pytest.mark.parametrize("step", [1, -1], ids=["unlabelled first", "labelled first"])
@pytest.mark.parametrize(("dtype", "mark"), [("U2", "-1"), ("U2", ""), (object, -1), (object, "-1"), (object, "")])
def test_labels_may_be_names_with_a_mark_for_none(noisy, dtype, mark, step):
    X, y, few = noisy
    order = np.argsort(few, kind="stable")[::step]
    X, y, few = X[order], y[order], few[order]
    names = np.array(["d", "b", "c", "a"], dtype)
    labels = names[y]
    labels[few < 0] = mark
    model = sf.SSDML(random_state=0, max_iter=2).fit(X, labels)
    expected = sf.SSDML(random_state=0, max_iter=2).fit(X, np.where(few < 0, -1, np.array([3, 1, 2, 0])[y]))
    assert model.classes_.tolist() == sorted(names.tolist())
    np.testing.assert_array_equal(model.transduction_, model.classes_[expected.transduction_])
    np.testing.assert_array_equal(model.transform(X), expected.transform(X))
    known = few >= 0
    assert model.score(X, names[y]) == expected.score(X, np.array([3, 1, 2, 0])[y])
    assert model.score(X, labels) == model.score(X[known], names[y][known])
    assert np.isnan(model.score(X[~known], labels[~known]))


@pytest.mark.parametrize(("dtype", "mark"), [(np.int64, -1), (np.float64, -1), ("U2", ""), (object, "")])
def test_samples_that_no_label_reaches_get_none(dtype, mark):
    of = np.repeat(np.arange(4), 30)
    corners = np.array([[0, 0], [30, 0], [0, 30], [300, 300]])
    X = corners[of] + np.random.default_rng(0).normal(size=(120, 2))
    names = np.array([0, 1, 2, 3] if mark == -1 else ["0", "1", "2", "3"], dtype)
    y = np.where((np.arange(120) % 30 < 2) & (of < 3), names[of], np.array(mark, dtype))  # none of the last thirty
    model = sf.SSDML(random_state=0, max_iter=2).fit(X, y)
    assert model.transduction_[:90].tolist() == names[of[:90]].tolist()
    assert model.transduction_[90:].tolist() == [mark] * 30
    assert model.score(X, names[of]) == 0.75


def test_integers_as_objects_are_integers(noisy):
    X, _, few = noisy
    model = sf.SSDML(random_state=0, max_iter=1).fit(X, few.astype(object))
    assert model.classes_.dtype.kind == "i" and model.classes_.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("labels", "found"), [([-1, "a", "b", 3], "int, str"), (["a", "b", None, -1], "NoneType, str")]
)
def test_names_of_several_types_are_refused(labels, found):
    X = np.random.default_rng(0).normal(size=(8, 3))
    for order in (labels * 2, labels[::-1] * 2):
        with pytest.raises(ValueError, match=f"y must hold labels of one type, .* found {found}"):
            sf.SSDML().fit(X, np.array(order, object))


def test_it_works_in_a_pipeline_and_a_grid_search(noisy):
    X, _, few = noisy
    pipeline = make_pipeline(StandardScaler(), sf.SSDML(max_iter=2, random_state=1))
    search = GridSearchCV(pipeline, {"ssdml__n_components": [1, 3]}, cv=2, error_score="raise").fit(X, few)
    assert search.best_params_["ssdml__n_components"] == 3
    names = search.best_estimator_[:-1].get_feature_names_out()
    assert list(search.best_estimator_.get_feature_names_out(names)) == ["ssdml0", "ssdml1", "ssdml2"]
    assert search.transform(X).shape == (240, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_components": 11}, r"n_components must be in \[1, 10\]"),
        ({"n_neighbors": 1}, "n_neighbors must be at least 2"),
        ({"max_iter": 0}, "max_iter must be at least 1"),
        ({"hidden_units": 0}, "hidden_units must be at least 1"),
        ({"gamma": 1.0}, "gamma must be between"),
        ({"alpha": -1}, "alpha must be between"),
        ({"metric_step": 0}, "metric_step must be between"),
    ],
)
def test_a_bad_parameter_is_named(noisy, settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        sf.SSDML(**settings).fit(noisy[0], noisy[2])


@pytest.mark.parametrize("y", [np.full(240, -1), np.where(np.arange(240) < 9, 5, -1)])
def test_fewer_than_two_classes_are_refused(noisy, y):
    with pytest.raises(ValueError, match="y must hold at least two classes"):
        sf.SSDML().fit(noisy[0], y)


@pytest.mark.parametrize(("n", "y"), [(2, [0, 1]), (2, [0, -1]), (3, [0, 1, 2]), (5, [4, 3, 2, 1, 0])])
def test_too_few_samples_for_a_triplet_are_refused(n, y):
    told = (
        "minimum of 3 is required"
        if n == 2
        else f"more samples than there are classes in y, found n_samples={n} of {n}"
    )
    with pytest.raises(ValueError, match=told):
        sf.SSDML().fit(np.eye(n), y)


@pytest.mark.parametrize("y", [[0, 0, 1], [0, 1, -1], [1, -1, 0], [0, 1, 1, -1], [0, 1, 2, -1]])
@pytest.mark.parametrize("n_neighbors", [2, 10])
def test_the_fewest_samples_are_learned_from(y, n_neighbors):
    X = np.random.default_rng(0).normal(size=(len(y), 4))
    model = sf.SSDML(n_neighbors=n_neighbors, random_state=0).fit(X, y)
    known = np.array(y) >= 0
    assert model.n_iter_ >= 1 and model.transform(X).shape == (len(y), 2)
    np.testing.assert_array_equal(model.transduction_[known], np.array(y)[known])


@pytest.mark.parametrize("method", ["fit", "score", "transform"])
def test_refuses_masked_arrays(method):
    X, y = np.eye(4), np.array([0, 1, 0, -1])
    model = sf.SSDML(random_state=0, max_iter=1).fit(X, y)
    with pytest.raises(TypeError, match=r"^X must have no mask, found a NumPy masked array: fill it"):
        getattr(model, method)(np.ma.masked_equal(X, 1), *[y] * (method != "transform"))
    if method != "transform":
        with pytest.raises(TypeError, match=r"^y must have no mask, found a NumPy masked array: fill it"):
            getattr(model, method)(X, np.ma.masked_equal(y, -1))
