"""One command per claim about how fast or how large something is: `uv run python -m benchmarks.<name>`."""
