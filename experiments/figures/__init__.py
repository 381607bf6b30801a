"""The figures and tables: one file each, found by its name, which begins with the figure's."""
