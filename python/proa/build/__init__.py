"""Builds: a Dockerfile becomes a graph of steps, the steps become snapshots, the snapshots an image.

Knows neither the CLI nor HTTP: whoever brings a Dockerfile and a context in is the same to it.
"""
