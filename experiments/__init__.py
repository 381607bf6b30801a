"""The paper's figures, one module each: `python -m experiments NAME --preset smoke|laptop|paper`."""
