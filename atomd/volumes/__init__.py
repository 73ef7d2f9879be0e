"""VMs' volumes, seen from their host: asked for, mounted, plugged in and given back."""
