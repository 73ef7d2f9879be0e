"""Domains: the words for them, and libvirt, which no other package imports."""
