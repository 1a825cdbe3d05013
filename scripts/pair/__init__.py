"""The demo pair: a small target and its drafter, trained from the standard library's own sources."""
