"""Sockets: multicast, the one loop, the front door and its client."""
