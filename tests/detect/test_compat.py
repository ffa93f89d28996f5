"""What lets mmdet run: found in fresh processes, last in line, and clear when it is not installed."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmdet", reason="needs pip install 'mobilenas[detect]'")

from mobilenas.detect import compat
from mobilenas.errors import BadInput


def test_a_compiled_mmcv_is_found_first(tmp_path: Path) -> None:
    (tmp_path / "_ext.py").write_text("compiled = True")
    import mmcv

    code = (
        f"import mmcv; mmcv.__path__.append({str(tmp_path)!r}); "
        "import sys; from mobilenas.detect.compat import _OpsFinder; "
        "sys.meta_path.append(_OpsFinder); "
        "import mmcv._ext; print(mmcv._ext.compiled)"
    )
    # The package itself imports mmdet, which asks for ops that the stand-in here does not have.
    stub = (
        "import sys, types; package = types.ModuleType('mobilenas.detect'); "
        f"package.__path__ = [{str(Path(compat.__file__).parent)!r}]; "
        "sys.modules['mobilenas.detect'] = package; "
    )
    done = subprocess.run([sys.executable, "-c", stub + code], capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr
    assert mmcv.__path__


def test_the_finder_serves_one_name_and_stands_last() -> None:
    assert sys.meta_path[-1] is compat._OpsFinder
    assert sys.meta_path.count(compat._OpsFinder) == 1
    assert compat._OpsFinder.find_spec("mmcv._ext2", None) is None
    compat.prepare()
    assert sys.meta_path.count(compat._OpsFinder) == 1


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "_PACKAGES", ("mmengine", "no_such_package"))
    with pytest.raises(BadInput, match=r"no_such_package.*pip install 'mobilenas\[detect\]'"):
        compat.prepare()


def test_a_spawned_worker_reads_a_dataset(coco: Any, tmp_path: Path) -> None:
    script = tmp_path / "load.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "if __name__ == '__main__':\n"
        "    import mobilenas.detect\n"
        "    from mmdet.registry import DATASETS\n"
        "    from torch.utils.data import DataLoader\n"
        "    dataset = DATASETS.build(dict(\n"
        "        type='CocoDataset', ann_file=sys.argv[1], data_prefix=dict(img=sys.argv[2]),\n"
        "        metainfo=dict(classes=['red square', 'green square']),\n"
        "        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackDetInputs')]))\n"
        "    loader = DataLoader(dataset, num_workers=1, multiprocessing_context='spawn',\n"
        "                        collate_fn=len)\n"
        "    print(list(loader), len(dataset))\n"
    )
    done = subprocess.run(
        [sys.executable, script, coco.train_annotation, coco.train_images],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.splitlines()[-1:] == ["[1, 1, 1, 1, 1, 1] 6"], done.stderr[-2000:]
