"""Features, or images, that a user has as arrays or as a table."""

from __future__ import annotations

import os
from pathlib import Path

from .dataset import Source
from .feature_arrays import feature_arrays
from .feature_table import feature_table
from .tables import SUFFIXES


def load_features(path: str | os.PathLike[str]) -> Source:
    """Load features, or images, from arrays or a table.

    Parameters
    ----------
    path : str or path
        One of these:

        - A ``.npz`` file, or a folder of ``.npy`` files, with the arrays ``x_train``, ``y_train``, ``x_val``,
          ``y_val``, ``x_test`` and ``y_test``, of which only ``x_train`` must be there; or ``x`` and ``y`` in place of
          ``x_train`` and ``y_train``; in any letter case. x is (N, d), or (N, ...) uint8 images with the channels
          first. y is (N,) integers or whole floats, of which -1 and NaN mark unlabelled examples, or texts, of which ""
          and "-1" do. Where there is no y, no training example has a label.
        - A ``.npy`` file: x alone.
        - A table, ``.csv``, ``.tsv`` or ``.parquet``, with the columns label (empty or -1: unlabelled), split (train,
          val or test; empty: train) and path, name or id, none of which must be there; every other column is a feature,
          a Parquet column of lists several.

    Returns
    -------
    Source
        Features as float32; uint8 as it is, (N, height, width) images with one channel added. ``.npy`` files of float32
        or uint8 stay mapped. Validation and test examples without a label are left out, as its account says.

    Raises
    ------
    DataError
        If a file, an array or a column is missing, damaged or of another form; if a number is NaN or more than float32
        holds; if the validation or test part has no labels. The message names the array or column, and the row or line.
    ImportError
        If a Parquet file is to be read and pyarrow is not installed.

    Notes
    -----
    Time O(N d). Memory: that of the features as float32, for ``.npy`` files of float32 or uint8 O(N).

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/my.npz", x=np.ones((4, 2)), y=np.array([5, -1, 7, 7]))
    ...     source = load_features(f"{folder}/my.npz")
    >>> source.images.dtype, source.labels, source.classes
    (dtype('float32'), array([ 0, -1,  1,  1]), ('5', '7'))
    """
    path = Path(path)
    if path.suffix.lower() in SUFFIXES and not os.path.isdir(path):
        return feature_table(path)
    return feature_arrays(path)
