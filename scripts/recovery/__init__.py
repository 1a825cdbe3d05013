"""What recovery from failures costs and buys: moving sessions, hedging steps, waiting for drafts. Simulated."""
