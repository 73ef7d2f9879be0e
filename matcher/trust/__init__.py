"""Who belongs: realms, certificates, keys."""
