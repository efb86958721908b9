"""Metrics, thresholds, retrieval, neighbours and distances between label distributions."""
