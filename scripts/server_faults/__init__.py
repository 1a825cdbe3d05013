"""What generations notice when one of several servers dies, freezes or goes away."""
