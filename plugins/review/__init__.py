"""The command by which people review pairs: ``python -m plugins.review``."""
