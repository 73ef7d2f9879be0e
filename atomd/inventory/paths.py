"""Where the kernel shows a machine's parts, from the machine's root. Pure."""

CPU_DIR = "sys/devices/system/cpu"
NODE_DIR = "sys/devices/system/node"
EDAC_DIR = "sys/devices/system/edac/mc"
