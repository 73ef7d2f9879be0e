"""The storage daemon: the volumes that a host has, and who may use them."""
