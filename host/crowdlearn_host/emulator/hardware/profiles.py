"""Phones that virtual phones imitate, with where their figures come from."""

from dataclasses import dataclass

from crowdlearn_host.emulator.hardware.power_profiles import A15, ONCLITE, SHUSKY, PowerProfile
from crowdlearn_host.errors import FleetError

# Typical lithium-ion cell: what makes watt-hours out of milliampere-hours.
CELL_VOLTS = 3.85


@dataclass(frozen=True)
class Cluster:
    """Equal cores of a processor."""

    cores: int
    mhz: int


@dataclass(frozen=True)
class DeviceProfile:
    """A model of phone; memory in MiB, storage in GiB, battery in mAh; `power` has as many clusters."""

    key: str
    manufacturer: str
    model: str
    device: str
    soc: str
    abi: str
    android: str
    api_level: int
    clusters: tuple[Cluster, ...]
    memory: int
    storage: int
    battery: int
    power: PowerProfile
    sources: tuple[str, ...]

    @property
    def cores(self) -> int:
        """Return number of cores."""
        return sum(cluster.cores for cluster in self.clusters)

    @property
    def coulombs(self) -> float:
        """Return the charge of a full battery."""
        return self.battery * 3.6

    @property
    def cpu_share(self) -> float:
        """Return the part of one core of this computer for the phone's programs: cores times clock, the Pixel
        8 being 1.

        A crude measure (it ignores how much a core does in a cycle), for telling slow phones from fast ones.
        """
        return _cycles(self) / _cycles(PROFILES[FASTEST])

    @property
    def memory_share(self) -> int:
        """Return MiB that the phone's programs may use: half of the memory, the rest being Android's
        (assumed).
        """
        return self.memory // 2


FASTEST = "pixel-8"

PROFILES = {
    profile.key: profile
    for profile in (
        DeviceProfile(
            key="pixel-8",
            manufacturer="Google",
            model="Pixel 8",
            device="shiba",
            soc="Tensor G3",
            abi="arm64-v8a",
            android="16",
            api_level=36,
            clusters=(Cluster(4, 1700), Cluster(4, 2370), Cluster(1, 2910)),
            memory=8192,
            storage=128,
            battery=4575,
            power=SHUSKY,
            sources=("https://www.phonearena.com/news/tensor-g3-specs-leaked_id151181",),
        ),
        DeviceProfile(
            key="galaxy-a14",
            manufacturer="samsung",
            model="SM-A146P",
            device="a14x",
            soc="Dimensity 700",
            abi="arm64-v8a",
            android="13",
            api_level=33,
            clusters=(Cluster(6, 2000), Cluster(2, 2200)),
            memory=4096,
            storage=64,
            battery=5000,
            power=A15,
            sources=(
                "https://www.ibtimes.co.uk/"
                "samsung-galaxy-a14-5g-pops-geekbench-same-new-exynos-chip-that-powers-m14-5g-1709040",
                "https://www.mobiflip.de/shortnews/"
                "samsung-galaxy-a14-5g-will-als-smartphone-im-einstiegssegment-ueberzeugen/",
            ),
        ),
        DeviceProfile(
            key="redmi-7",
            manufacturer="Xiaomi",
            model="Redmi 7",
            device="onclite",
            soc="Snapdragon 632",
            abi="arm64-v8a",
            android="9",
            api_level=28,
            clusters=(Cluster(4, 1800), Cluster(4, 1800)),
            memory=2048,
            storage=16,
            battery=4000,
            power=ONCLITE,
            sources=("https://www.webnews.it/2019/03/13/redmi-7-nuovo-smartphone-xiaomi-18-marzo/",),
        ),
        DeviceProfile(
            key="galaxy-tab-a8",
            manufacturer="samsung",
            model="SM-X200",
            device="gta8wifi",
            soc="Tiger T618",
            abi="arm64-v8a",
            android="11",
            api_level=30,
            clusters=(Cluster(6, 1800), Cluster(2, 2000)),
            memory=3072,
            storage=32,
            battery=7040,
            power=A15,
            sources=(
                "https://sammobile.com/news/galaxy-tab-a8-2021-vs-a7-an-upgrade-born-out-of-chip-shortages",
                "https://avalanchenoticias.com.br/mercado-de-tecnologia-e-ti-noticia/"
                "o-tablet-acessivel-samsung-galaxy-tab-a8-2021-recebera-um-chip-unisoc-t618-e-uma-bateria-de-7040-mah",
            ),
        ),
    )
}


def find_profile(key: str) -> DeviceProfile:
    """Return the profile of that name. Raises FleetError."""
    if key not in PROFILES:
        raise FleetError(f"there is no profile {key!r}; there are: {', '.join(PROFILES)}")
    return PROFILES[key]


def _cycles(profile: DeviceProfile) -> int:
    return sum(cluster.cores * cluster.mhz for cluster in profile.clusters)
