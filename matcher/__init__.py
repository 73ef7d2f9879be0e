"""Matchmaking: pledges, offers, confirms, and the trust and I/O around them."""
