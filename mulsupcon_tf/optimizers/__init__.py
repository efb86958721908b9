"""Learning rate schedules and the optimizers of both phases."""
