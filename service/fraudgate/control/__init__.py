"""The control plane: outcomes, features, models and latency over gRPC. Port 50052, loopback by default."""
