"""What lets mmdet run: found last, found in fresh processes, clear when it is not installed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmdet", reason="needs pip install '.[detect]'")

import mmcv

from mobilenas.base.errors import BadInput
from mobilenas.detect import compat


def test_a_compiled_mmcv_is_found_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mmcv._ext")
    served = importlib.util.find_spec("mmcv._ext")
    assert served is not None
    assert served.origin == str(Path(compat.__file__).with_name("ops.py"))
    (tmp_path / "_ext.py").write_text("")
    monkeypatch.setattr(mmcv, "__path__", [*mmcv.__path__, str(tmp_path)])
    compiled = importlib.util.find_spec("mmcv._ext")
    assert compiled is not None
    assert compiled.origin == str(tmp_path / "_ext.py")


def test_the_finder_serves_one_name_and_is_there_once() -> None:
    compat.prepare()
    assert sys.meta_path.count(compat._OpsFinder) == 1  # type: ignore[arg-type]
    assert compat._OpsFinder.find_spec("mmcv._ext2", None) is None


def test_annotations_with_a_byte_order_mark_are_read(coco: Any, tmp_path: Path) -> None:
    from mmdet.datasets.api_wrappers import COCO

    marked = tmp_path / "marked.json"
    marked.write_bytes(b"\xef\xbb\xbf" + coco.train.annotations.read_bytes())
    assert len(COCO(str(marked)).imgs) == 6


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "_PACKAGES", ("mmengine", "no_such_package"))
    with pytest.raises(BadInput, match=r"no_such_package.*pip install '\.\[detect\]'"):
        compat.prepare()


@pytest.mark.parametrize("error", ["EOFError()", "pickle.UnpicklingError('truncated')"])
def test_a_cache_that_another_process_writes_is_waited_for(
    error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = tmp_path / "begun"
    (tmp_path / "yapf.py").write_text(
        "import pickle\nfrom pathlib import Path\n"
        f"begun = Path({str(begun)!r})\n"
        f"if not begun.exists():\n    begun.touch()\n    raise {error}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "yapf")
    with pytest.raises(BadInput, match="remove the folder YAPF"):
        compat._import_yapf(tries=1)
    begun.unlink()
    compat._import_yapf(tries=2)
    assert sys.modules["yapf"].begun == begun


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
        "        type='mmdet.CocoDataset', ann_file=sys.argv[1],\n"
        "        data_prefix=dict(img=sys.argv[2]),\n"
        "        metainfo=dict(classes=['red square', 'green square']),\n"
        "        pipeline=[dict(type='LoadImageFromFile'), dict(type='mmdet.PackDetInputs')]))\n"
        "    loader = DataLoader(dataset, num_workers=1, multiprocessing_context='spawn',\n"
        "                        collate_fn=len)\n"
        "    print(list(loader), len(dataset))\n"
    )
    done = subprocess.run(
        [sys.executable, script, coco.train.annotations, coco.train.images],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.stdout.splitlines()[-1:] == ["[1, 1, 1, 1, 1, 1] 6"], done.stderr[-2000:]
