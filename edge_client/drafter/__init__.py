"""The drafter: a small ONNX decoder that proposes children for the nodes of a draft tree; opened by `load`."""
