"""The connection to the control plane: registering over HTTP, the WebSocket, and delivery of messages."""
