"""Generated from `proto/slipstream`: see `shared/pb/__init__.py`."""
