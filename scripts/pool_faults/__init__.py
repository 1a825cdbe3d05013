"""What a server of several workers does when they fail, when too many come, and when clients vanish."""
