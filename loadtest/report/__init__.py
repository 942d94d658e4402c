"""A result as a page, plots and tables."""
