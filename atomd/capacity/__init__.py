"""What this host has, what VMs take of it, and whether one more fits: who asked, where exactly, and why not."""
