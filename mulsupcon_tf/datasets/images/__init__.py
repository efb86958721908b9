"""Datasets of images, one module each: made, read from their official folders or TFDS, or your own photos."""
