"""What decides about a driver, as JSON: facts.py /sys/bus/pci/devices /sys/module /proc/device-tree/compatible."""

import json
import platform
import sys
from pathlib import Path

# Vendor and class of accelerators on PCI: displays and 3D controllers (03), processing accelerators (12).
VENDORS = {"nvidia": "0x10de", "amd": "0x1002"}
CLASSES = ("0x03", "0x12")
MODULES = {"nvidia": "nvidia", "amd": "amdgpu"}


def text(path: Path) -> str:
    """The file's text; empty when there is none."""
    try:
        return path.read_text(errors="replace").strip("\n\0 ")
    except OSError:
        return ""


pci, modules, tree = map(Path, sys.argv[1:])
found = [(text(device / "vendor"), text(device / "class")) for device in pci.glob("*")]
release = platform.freedesktop_os_release()
print(
    json.dumps(
        {
            "devices": {
                name: sum(vendor == number and kind.startswith(CLASSES) for vendor, kind in found)
                for name, number in VENDORS.items()
            },
            "loaded": {name: (modules / module).is_dir() for name, module in MODULES.items()},
            "version": text(modules / "nvidia" / "version"),
            "soc": "nvidia,tegra" in text(tree),
            "kernel": platform.release(),
            "architecture": platform.machine(),
            "system": release["ID"] + release["VERSION_ID"].replace(".", ""),
        }
    )
)
