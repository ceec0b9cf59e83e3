"""What this machine can do, from files as hosts of several kinds have them."""

from pathlib import Path

import pytest

from infra.model.host import _energy

CPUINFO = "processor\t: {cpu}\nvendor_id\t: {vendor}\nphysical id\t: {socket}\ncore id\t\t: 0\n\n"


def host(root: Path, *, vendor: str = "GenuineIntel", msr: bool = True, rapl: bool = True) -> Path:
    """Two sockets with two CPUs each; `msr`: the kernel's module is loaded; `rapl`: the registers exist."""
    (root / "proc").mkdir()
    sockets = {0: 0, 1: 0, 2: 1, 3: 1}
    text = "".join(CPUINFO.format(cpu=cpu, vendor=vendor, socket=socket) for cpu, socket in sockets.items())
    (root / "proc/cpuinfo").write_text(text)
    for cpu in sockets:
        folder = root / f"dev/cpu/{cpu}"
        folder.mkdir(parents=True)
        if msr:
            (folder / "msr").touch()
    if rapl:
        (root / "sys/class/powercap/intel-rapl:0").mkdir(parents=True)
    return root


def test_energy_is_counted_where_slurm_can_read_the_registers(tmp_path: Path) -> None:
    assert _energy(host(tmp_path))


@pytest.mark.parametrize("lacks", [{"msr": False}, {"rapl": False}, {"vendor": "AuthenticAMD"}])
def test_energy_is_not_counted_otherwise(tmp_path: Path, lacks: dict[str, bool]) -> None:
    assert not _energy(host(tmp_path, **lacks))  # type: ignore[arg-type]


def test_energy_needs_the_register_file_of_every_socket(tmp_path: Path) -> None:
    root = host(tmp_path)
    (root / "dev/cpu/2/msr").unlink()
    assert not _energy(root)


def test_a_host_without_proc_counts_no_energy(tmp_path: Path) -> None:
    assert not _energy(tmp_path)
