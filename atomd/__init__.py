"""The compute daemon: what a host has, what it promises, and the VMs that it runs."""
