"""What people write: specfiles, volumespecs, templates. Pure; imports nothing else of ours."""
