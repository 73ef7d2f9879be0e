"""A host's part in its realm's gossip: the sockets, the signatures and the loop around `matcher.gossip`.

Of a host's two daemons one speaks for both (`sharing`).
"""
