"""What every other folder may use: errors, whole files, arrays as tensors."""
