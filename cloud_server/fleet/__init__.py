"""The workers of one server: in threads of this process, in processes of this host, or on other machines.

`Fleet` keeps them all behind one asyncio interface. A `Place` is where a worker runs, a `Member` is a worker that is
up there; when it is lost, the place puts another in its stead, under a number that was never used before.
"""
