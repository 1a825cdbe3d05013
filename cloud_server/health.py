"""Asks a server for its health, as a container's health check does: no model is imported, no token is needed."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shared.security import ClientSecurity, is_loopback, read_client


def trouble(server: str, security: ClientSecurity, within_s: float) -> str | None:
    """What is wrong with the server at HOST:PORT; None: it serves.

    Raises:
        UserError: a file of `security` cannot be used, or the name cannot be resolved.
    """
    secrets = read_client(security)
    options: list[tuple[str, str | int]] = []
    if is_loopback(server.rpartition(":")[0]):
        options.append(("grpc.enable_http_proxy", 0))  # the way to this machine leads over no other
    if secrets.server_name is not None:
        options.append(("grpc.ssl_target_name_override", secrets.server_name))
    if secrets.roots is None:
        channel = grpc.insecure_channel(server, options=options)
    else:
        keys = grpc.ssl_channel_credentials(secrets.roots, secrets.key, secrets.certificate)
        channel = grpc.secure_channel(server, keys, options=options)
    with channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=within_s
            )
        except grpc.RpcError as error:
            return f"{server} does not answer ({error.details()})"
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        return f"{server} is up and says {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}"
    return None
