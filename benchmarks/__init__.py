"""Benchmarks against alternatives: `python -m benchmarks [NAME ...] [--quick]`.

Each ratio compares the package with the code that one would write instead, on the same machine in
one run. Each side runs in its own process under a time limit (`child`). Its memory is the growth of
the peak resident size, compilation included, after the imports and the creation of the inputs. Its
time is the best of several calls after compilation. The compile time is the time of the first call
minus that.
"""
