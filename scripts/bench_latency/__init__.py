"""The latency benchmark: real server, real edge, real link; every way to write the same text, side by side."""
