"""Datasets of vectors, one module each: ARFF files, Mulan's sets of them, vectors with true label distributions."""
