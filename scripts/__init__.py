"""Demo, benchmarks, simulator command line, WAN emulation, model training and export."""
