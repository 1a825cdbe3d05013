"""Generated from `proto/slipstream/v1`: see `shared/pb/__init__.py`."""
