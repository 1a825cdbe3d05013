"""What both sides and the simulator share: messages, machines, policies, noise. Pure Python and numpy."""
