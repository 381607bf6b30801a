"""HTML page of all figures: `python -m experiments.report`, which `make report` calls."""
