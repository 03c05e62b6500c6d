"""Builds over the engine's rooms: what proa.build asks for, with layers, keeper, networks and images."""
