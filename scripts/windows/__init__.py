"""Window controllers compared on the same seeds, the training of the learned one, and DSD's comparison."""
