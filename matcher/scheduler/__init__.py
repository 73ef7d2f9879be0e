"""The client's side of a pledge: asking, choosing, placing. Pure."""
