"""How well, how fast and in how much memory patients are matched, beside peers on the same data."""
