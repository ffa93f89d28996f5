"""Published tables: the same sums as those who published them, and no row that claims too much."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from published_files import OPERATIONS, proxyless_key, write_published
from pyarrow import parquet
from timm.layers import make_divisible
from typer.testing import CliRunner

from mobilenas.base.errors import BadInput
from mobilenas.cli.latency import latency_app
from mobilenas.cost.latency import read_table
from mobilenas.cost.rows import rows_of
from mobilenas.latency.imports import (
    BLOCK_SUMS,
    BLOCK_TABLES,
    NETWORK_TIMES,
    NETWORKS,
    Imported,
    import_tables,
)
from mobilenas.latency.published import bottleneck_key, table_key
from mobilenas.space import Space, list_spaces, load_space


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_published(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def imported(root: Path) -> dict[str, Imported]:
    return {item.table.name: item for item in import_tables(root)}


def genes_of(space: Space, n: int = 20) -> np.ndarray:
    return space.sample_genes(n, np.random.default_rng(0))


def proxyless_latency(space: Space, genes: np.ndarray, published: dict[str, Any]) -> float:
    """As `SuperProxylessNASNets.expected_latency` of the released search code adds them up."""
    total = sum(published[key]["mean"] for key in published if not key.startswith("expanded"))
    chosen = space.candidates_of(space.decode(genes))
    for block, candidate in zip(space.layers, chosen, strict=True):
        if not candidate.is_identity:
            kernel = candidate.kernels[0][0]
            total += published[
                proxyless_key(
                    block.in_channels,
                    block.in_size,
                    block.out_channels,
                    block.stride,
                    candidate.expansion,
                    kernel,
                )
            ]["mean"]
    return float(total)


@pytest.mark.parametrize("name", ["proxyless_mobile_trim", "proxyless_pixel_trim"])
def test_proxyless_archs_take_the_sum_of_the_published_layers(
    name: str, root: Path, imported: dict[str, Imported]
) -> None:
    published = json.loads((root / "latency" / BLOCK_TABLES).read_text())[name]
    space = load_space("proxyless")
    genes = genes_of(space)
    expected = [proxyless_latency(space, row, published) for row in genes]
    assert imported[name].table.predict(space, genes) == pytest.approx(expected, rel=1e-12)
    assert "proxyless" in imported[name].covers


@pytest.mark.parametrize("device", ["pixel3", "raspi4", "eyeriss", "fpga"])
def test_fbnet_archs_take_the_constant_and_the_sum_of_their_layers(
    device: str, root: Path, imported: dict[str, Imported]
) -> None:
    sums = json.loads((root / "latency" / BLOCK_SUMS).read_text())["devices"][device]
    space = load_space("fbnet_cifar")
    names = {"id": "skip", "e3k3": "k3_e3", "e6k3": "k3_e6", "e3k5": "k5_e3", "e6k5": "k5_e6"}
    genes = genes_of(space)
    expected = [
        sums["const_ms"]
        + sum(
            layer[OPERATIONS.index(names[str(candidate)])]
            for layer, candidate in zip(
                sums["block_minus_skip_ms"], space.decode(row).blocks, strict=True
            )
        )
        for row in genes
    ]
    item = imported[f"fbnet_{device}"]
    assert item.table.predict(space, genes) == pytest.approx(expected, rel=1e-12)
    assert item.covers == ["fbnet_cifar"]
    assert item.agreements[0].networks == 30


def test_rows_that_no_space_can_express_are_of_no_space(imported: dict[str, Imported]) -> None:
    ours = {key for name in list_spaces() for key in rows_of(load_space(name)).distinct}
    fbnet = imported["fbnet_pixel3"].table.rows
    foreign = [key for key in fbnet if "-e1" in key]
    assert len(foreign) == 4 * 12  # 4 operations of expansion 1 in 12 geometries
    assert all(key.endswith(("-pw", "-pw-g2")) for key in foreign)
    note10 = imported["ofa_note10_224"].table.rows
    assert not ours & {*foreign, *note10}


def test_blocks_where_the_shape_changes_say_what_they_are(imported: dict[str, Imported]) -> None:
    rows = imported["fbnet_pixel3"].table.rows
    beyond = "beyond the 1x1 convolution in its place"
    assert beyond in rows["block-16x32x32-24x32x32-e3k3-relu"].flags
    assert beyond not in rows["block-24x32x32-24x32x32-e3k3-relu"].flags
    assert rows["stem-3x32x32-16x32x32-k3-relu"].ms == 0


@pytest.mark.parametrize(
    ("published", "ratio", "key"),
    [
        (proxyless_key(32, 112, 16, 1, 1, 3), True, "block-32x112x112-16x112x112-e1k3-relu6"),
        (proxyless_key(24, 56, 40, 2, 6, 7), True, "block-24x56x56-40x28x28-e6k7-relu6"),
        (
            proxyless_key(24, 56, 32, 2, 96, 5) + "-se:0-hs:1",
            False,
            "block-24x56x56-32x28x28-e4k5-hard_swish",
        ),
        (
            proxyless_key(136, 14, 136, 1, 408, 3) + "-se:1-hs:1",
            False,
            "block-136x14x14-136x14x14-k3-hidden408-se104-hard_swish",
        ),
        (
            proxyless_key(24, 56, 32, 2, 100, 5) + "-se:0-hs:0",
            False,
            "block-24x56x56-32x28x28-k5-hidden100-relu",
        ),
    ],
)
def test_keys_of_published_blocks(published: str, ratio: bool, key: str) -> None:
    assert table_key(published, ratio=ratio) == key


def test_the_squeezed_width_is_that_of_once_for_all() -> None:
    for hidden in range(32, 1200, 8):
        key = bottleneck_key(8, 14, 8, 1, 3, hidden, "relu", squeeze_excite=True)
        assert f"-se{make_divisible(hidden // 4, 8)}-" in key


def edit(name: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    """Change the JSON file of that name."""

    def apply(folder: Path) -> None:
        data = json.loads((folder / name).read_text())
        change(data)
        (folder / name).write_text(json.dumps(data))

    return apply


def cut(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-40])  # type: ignore[func-returns-value]


def move_latency(folder: Path) -> None:
    table = parquet.read_table(folder / NETWORK_TIMES).to_pydict()
    table["lat_raspi4_ms"][7] += 0.01
    schema = parquet.read_schema(folder / NETWORK_TIMES)
    parquet.write_table(pyarrow.table(table, schema=schema), folder / NETWORK_TIMES)


def drop_column(folder: Path) -> None:
    table = parquet.read_table(folder / NETWORK_TIMES)
    parquet.write_table(table.drop_columns(["op03"]), folder / NETWORK_TIMES)


STEM = "Conv-input:224x224x3-output:112x112x32"
BLOCK = proxyless_key(24, 56, 24, 1, 3, 5)
MOBILE = "proxyless_mobile_trim"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: shutil.rmtree(folder), ["no such folder", "latency"]),
        (lambda folder: (folder / NETWORKS).unlink(), ["no such file", NETWORKS]),
        (lambda folder: (folder / NETWORK_TIMES).unlink(), ["no such file", NETWORK_TIMES]),
        (cut(BLOCK_TABLES), [BLOCK_TABLES, "not JSON"]),
        (cut(BLOCK_SUMS), [BLOCK_SUMS, "not JSON"]),
        (cut(NETWORK_TIMES), [NETWORK_TIMES, "not parquet"]),
        (drop_column, [NETWORK_TIMES, "op03"]),
        (move_latency, ["raspi4: 1 of 30 networks", "row 7"]),
        (
            edit(BLOCK_TABLES, lambda data: data[MOBILE][STEM].update(mean=-1)),
            [BLOCK_TABLES, MOBILE, STEM, "mean"],
        ),
        (
            edit(BLOCK_TABLES, lambda data: data[MOBILE][STEM].update(mean=float("nan"))),
            [BLOCK_TABLES, MOBILE, STEM, "mean"],
        ),
        (
            edit(BLOCK_TABLES, lambda data: data[MOBILE][STEM].pop("count")),
            [BLOCK_TABLES, MOBILE, STEM, "count"],
        ),
        (edit(BLOCK_TABLES, lambda data: data.pop("ofa_note10_192")), ["'ofa_note10_192'"]),
        (
            edit(BLOCK_TABLES, lambda data: data[MOBILE].pop(BLOCK)),
            [MOBILE, "lacks 1 rows of space proxyless", "block-24x56x56-24x56x56-e3k5-relu6"],
        ),
        (
            edit(BLOCK_TABLES, lambda data: data[MOBILE].pop("Logits-input:7x7x1280-output:1000")),
            [MOBILE, "lacks Conv_1 or Logits"],
        ),
        (
            edit(BLOCK_TABLES, lambda data: data[MOBILE].update(Conv_9=data[MOBILE][STEM])),
            [MOBILE, "Conv_9 is no layer"],
        ),
        (
            edit(
                BLOCK_TABLES,
                lambda data: data[MOBILE].update({BLOCK[:-1] + "0": data[MOBILE].pop(BLOCK)}),
            ),
            [MOBILE, "idskip"],
        ),
        (edit(NETWORKS, lambda data: data[0].update(latency_ms=22)), ["1.00 ms off", "21ms"]),
        (edit(BLOCK_SUMS, lambda data: data["devices"].pop("eyeriss")), ["device 'eyeriss'"]),
        (
            edit(BLOCK_SUMS, lambda data: data["primitives"].__setitem__(2, "k3_e3_x")),
            [BLOCK_SUMS, "k3_e3_x"],
        ),
        (
            edit(BLOCK_SUMS, lambda d: d["devices"]["fpga"]["block_minus_skip_ms"][4].pop()),
            ["fpga: not one value a layer and operation"],
        ),
    ],
)
def test_damaged_files_are_refused_in_one_line(
    damage: Callable[[Path], None], words: list[str], tmp_path: Path
) -> None:
    root = write_published(tmp_path / "data")
    damage(root / "latency")
    with pytest.raises(BadInput) as refused:
        import_tables(root)
    message = str(refused.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_the_command_writes_tables_that_can_be_read_back(
    root: Path, imported: dict[str, Imported], tmp_path: Path
) -> None:
    arguments = ["import", "--data-root", str(root), "--tables", str(tmp_path), "--json"]
    printed = CliRunner().invoke(latency_app, arguments)
    assert printed.exit_code == 0
    tables = json.loads(printed.stdout)["tables"]
    assert [row["table"] for row in tables] == list(imported)
    for row in tables:
        assert read_table(Path(row["file"])) == imported[row["table"]].table
    shown = CliRunner().invoke(latency_app, arguments[:-1])
    assert "30 published" in shown.stdout


def test_the_command_writes_nothing_when_one_table_is_wrong(tmp_path: Path) -> None:
    root = write_published(tmp_path / "data")
    move_latency(root / "latency")
    out = tmp_path / "out"
    refused = CliRunner().invoke(
        latency_app, ["import", "--data-root", str(root), "--tables", str(out)]
    )
    assert isinstance(refused.exception, BadInput)
    assert not out.exists()
    nameless = CliRunner().invoke(latency_app, ["import"], env={"MOBILENAS_DATA": None})
    assert isinstance(nameless.exception, BadInput)
    assert "--data-root" in str(nameless.exception)


def test_the_published_tables_themselves(data_root: Path) -> None:
    imported = {item.table.name: item for item in import_tables(data_root)}
    assert len(imported) == 11
    (note10,) = imported["ofa_note10_224"].agreements
    assert note10.largest_error_ms == pytest.approx(0.03, abs=0.005)  # 29.97 ms, published as 30
    for device in ("pixel3", "raspi4", "eyeriss", "fpga"):
        (agreement,) = imported[f"fbnet_{device}"].agreements
        assert agreement.networks == 5000
        assert agreement.largest_error_ms < 2e-6  # half a unit in the last place of a float32
    assert imported["proxyless_mobile_trim"].covers == ["proxyless"]
    rows = imported["fbnet_pixel3"].table.rows
    assert rows["block-24x32x32-24x32x32-e6k5-relu"].ms == pytest.approx(4.1925, abs=1e-4)
