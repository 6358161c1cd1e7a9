"""The ops side: plain HTTP for people, probes and Prometheus. Never on the scoring loop."""
