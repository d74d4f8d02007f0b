"""The connection to the control plane: WebSocket and HTTP side, delivery and what is sent again."""
