"""Facts about the machine, read from /sys and /proc under any root; reads files, nothing else."""
