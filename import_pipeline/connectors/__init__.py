"""One module per source, and `base.py`, the contract they follow."""
