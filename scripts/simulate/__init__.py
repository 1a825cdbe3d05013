"""The simulator as a tool: Slipstream's own machines under a virtual clock."""
