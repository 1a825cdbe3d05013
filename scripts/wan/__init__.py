"""WAN emulation with the simulator's own link model: packets where the machine allows it, streams anywhere."""
