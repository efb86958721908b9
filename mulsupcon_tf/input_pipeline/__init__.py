"""From files or arrays to batches: decoding, augmentation, caching."""
