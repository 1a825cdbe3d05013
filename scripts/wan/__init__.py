"""WAN emulation without privileges: a TCP proxy with the simulator's own link model."""
