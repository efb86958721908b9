"""Datasets: a registry of names, and one module a dataset or file format. Nothing here imports TensorFlow."""
