"""The edge side: ONNX drafter, tokenizer, gRPC transport and command line. Never imports torch."""
