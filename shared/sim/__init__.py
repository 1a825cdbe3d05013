"""The simulator: the product's own machines under a virtual clock, with synthetic models and links."""
