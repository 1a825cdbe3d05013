"""Builds the images, runs the server's, and checks from outside that it keeps its promises."""
