"""Classifiers for feature matrices with few labels: scikit-learn estimators, no framework."""
