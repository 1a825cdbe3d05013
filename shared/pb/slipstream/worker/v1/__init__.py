"""Generated from `proto/slipstream/worker/v1`: see `shared/pb/__init__.py`."""
