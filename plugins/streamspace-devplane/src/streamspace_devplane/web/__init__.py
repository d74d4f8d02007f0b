"""The HTTP side for people and their browsers: API, page, viewers' WebSockets, and the proxy to web sessions."""
