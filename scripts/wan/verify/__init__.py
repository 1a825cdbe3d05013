"""What a link was asked for against what arrives at its ends: the proof behind every figure measured over it."""
