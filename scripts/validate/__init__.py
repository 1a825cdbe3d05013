"""The simulator against the live runtime: `python -m scripts.validate`."""
