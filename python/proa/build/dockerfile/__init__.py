"""Dockerfiles as text: words, lines, instructions, stages. Pure: no I/O, no engine.

Source: the Dockerfile reference (docker/dockerfile:1); where that is silent, what BuildKit does.
"""
