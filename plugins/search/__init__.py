"""Finds rows by the meaning of their documents: the command ``python -m plugins.search``."""
