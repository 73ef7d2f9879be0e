"""Where the kernel shows a machine's parts, from the machine's root. Pure."""

CPU_DIR = "sys/devices/system/cpu"
NODE_DIR = "sys/devices/system/node"
EDAC_DIR = "sys/devices/system/edac/mc"
DMI_RECORD = "run/udev/data/+dmi:id"  # udev's, of what the firmware says
SMBIOS_TABLES = "sys/firmware/dmi/tables/DMI"
