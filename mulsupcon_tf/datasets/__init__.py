"""Datasets: a registry of names, what a dataset is and must keep, how splits are made, tables and arrays of any kind.

The datasets themselves lie in `images` and `vectors`, which import from here and never the other way. Nothing in these
folders imports TensorFlow.
"""
