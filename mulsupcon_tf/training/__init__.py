"""The training loop, checkpoints, devices, run directories, TensorBoard."""
