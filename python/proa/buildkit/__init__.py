"""The BuildKit protocol: the third door to builds, beside proa's own client and the classic endpoint.

A docker CLI with buildx, Compose's `bake` and buildctl speak it: gRPC over HTTP/2 on connections that leave
HTTP/1.1 by an upgrade. On `/grpc` the daemon serves; on `/session` the client does, and the daemon asks it
for files, secrets and credentials.

    http2 -> grpc -> control      one build at a time by `ref`: job, wishes, status
                  -> sessions     filesync, and the client's other services

The graph itself (LLB) is not taken: Dockerfiles are, as frontend `dockerfile.v0`, and go to the engine's
builds as from everywhere else.

Source: moby/buildkit api/services/control, frontend/gateway/pb, session; moby daemon/server/router/grpc.
"""
