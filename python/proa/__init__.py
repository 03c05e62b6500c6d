"""proa: a Docker-compatible container engine that starts containers in milliseconds."""

__version__ = "0.1.0"
