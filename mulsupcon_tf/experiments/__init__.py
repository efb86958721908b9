"""Grids of runs, their tables and tests of significance."""
