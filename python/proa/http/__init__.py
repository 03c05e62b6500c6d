"""HTTP/1.1 as a server speaks it, whatever it serves: connections, TLS, listeners, clients counted.

Must not know a route, an error's status or an engine; the API and the registry are built on it.
"""
