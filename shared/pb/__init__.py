"""Code generated from `proto/` by `make proto`; not edited by hand.

    from shared.pb.slipstream.v1 import slipstream_pb2, slipstream_pb2_grpc

Only `shared.wire` and the gRPC transports of the two sides import it: everything else speaks `shared.messages`.
"""
