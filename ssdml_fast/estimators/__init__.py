"""Estimators in scikit-learn's form, on feature arrays."""

from .._extras import require

require("an estimator", "safetensors", "sklearn", "threadpoolctl")
