"""Figures of the paper: `python -m experiments NAME --preset smoke|laptop|paper`."""
