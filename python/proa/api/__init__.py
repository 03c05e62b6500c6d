"""The API server: HTTP in, engine call, HTTP out. `server.serve` is what the daemon uses."""
