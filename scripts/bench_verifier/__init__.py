"""What a verify step costs on this machine, and how near to the machine's own limits that is."""
