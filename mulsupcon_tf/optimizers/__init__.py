"""Learning rate schedules, the optimizers of both phases, and averages of the weights that they keep."""
