"""A Python that finds the package on its path, although an editable install is there."""

# such an install puts a finder of its own before the path
WITHOUT_EDITABLE = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'ditable' not in repr(f)]"
