"""A host's side of a pledge, for both daemons: holds, commitments, offers. Pure."""
