"""What four papers found, under our own machines: what can be reproduced, what cannot, and why."""
