"""Sets: Deep Sets, and attention over bags."""
