"""The training loop, checkpoints, devices, run directories, optimizers, TensorBoard."""
