"""Estimators in scikit-learn's form, on feature arrays."""
