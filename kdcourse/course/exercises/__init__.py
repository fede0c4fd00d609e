"""Checks of the exercises in the notebooks: one module a notebook, one function an exercise."""
