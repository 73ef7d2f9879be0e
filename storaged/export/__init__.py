"""How a volume reaches a VM: one file for each way."""
