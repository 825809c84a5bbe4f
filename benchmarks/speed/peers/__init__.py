"""What others do, each a script for a Python environment of its own: nothing of the project is imported."""
