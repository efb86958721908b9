"""Contrastive losses, recovery of label distributions, the methods made of them. No TensorFlow, only Keras operations."""
