"""Backbones, heads, key encoder, queue of keys, and the two models that are trained."""
