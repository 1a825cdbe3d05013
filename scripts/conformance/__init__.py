"""Does an implementation keep the contract? Scripted exchanges with a server, or with an edge, rule by rule.

`server/` talks to any server as a client that says exactly what it is told to, right or wrong. `edge/` is a server that
does the same to any edge client. Both need grpcio, protobuf and `shared.pb`, and nothing else of this project: what
they check against each other are two implementations. `python -m scripts.conformance HOST:PORT` runs them;
docs/conformance.md lists the rules.
"""
