"""The demo: one text written three ways over an emulated network, live, compared token by token."""
