"""One module a figure of the paper; `python -m experiments NAME --preset smoke|laptop|paper` runs
one.
"""
