"""Figures and tables, one file each; the file name begins with the name of the figure."""
