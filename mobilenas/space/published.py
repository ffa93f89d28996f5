"""Networks that have a name: published archs of the shipped spaces."""

# Name -> (space, arch). FairNAS: expansions and kernels of the 18 searched blocks in the released
# networks (Chu et al. 2021). MobileNetV2 1.0: Sandler et al. 2018, table 2.
PUBLISHED: dict[str, tuple[str, str]] = {
    "fairnas_a": (
        "fairnas",
        "e3k7_e3k3_e3k7_e6k3_e6k7_e3k3_e3k3_e6k7_e6k7_e3k5_e6k3_e3k5_e3k5_e6k3_e6k3_e6k7_e6k3_e6k7",
    ),
    "fairnas_b": (
        "fairnas",
        "e3k5_e3k3_e3k5_e3k3_e6k3_e3k5_e3k7_e3k3_e6k3_e3k5_e3k3_e6k3_e3k7_e3k3_e6k7_e6k5_e6k7_e6k3",
    ),
    "fairnas_c": (
        "fairnas",
        "e3k5_e3k3_e3k7_e3k3_e3k3_e3k3_e3k3_e3k3_e3k3_e6k3_e3k3_e3k3_e3k3_e3k3_e6k7_e6k7_e6k3_e6k3",
    ),
    "mobilenetv2_100": ("mobilenetv2", "_".join(["e6k3"] * 16)),
}
