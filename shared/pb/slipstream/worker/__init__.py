"""Generated from `proto/slipstream/worker`: see `shared/pb/__init__.py`."""
