"""The cloud side: gRPC service, verifier, KV cache and pool of workers. Never sees text."""
