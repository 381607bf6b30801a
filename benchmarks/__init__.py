"""Ratios against what one would do instead, measured in one run: `python -m benchmarks [NAME ...]
[--quick]`.

Every side runs in its own process under a time limit (`child`), so that memory is its own: the
growth of the process's peak resident size over what it was once the libraries were imported and the
inputs made, compilation included. Times are the best of several calls after compilation;
compilation is the first call less that.
"""
