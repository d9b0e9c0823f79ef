"""Whatever changes a disk or maps a file goes through bagel_engines.disk, where tests let it fail."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# what changes a disk, or maps a file, and where it may stand beside disk.py: scratch folders of their own, and the
# writer of made-up checkpoints for tests and benchmarks
CHANGING = {
    *("os.replace", "os.rename", "os.link", "os.fsync", "os.open", "os.truncate", "os.mkdir", "os.makedirs"),
    *("shutil.rmtree", "shutil.move", "shutil.copy", "shutil.copyfile", "shutil.copytree", "mmap.mmap", "np.memmap"),
    *("np.save", "np.savez", "np.savez_compressed", "ir.save", "onnx.save"),
}
METHODS = {"write_text", "write_bytes", "mkdir", "rmdir", "unlink", "rename", "symlink_to", "hardlink_to", "touch"}
ALLOWED = {
    ("engines/bagel_engines/disk.py", None),
    ("export/bagel_export/checkpoint/synthetic.py", None),
    ("export/bagel_export/checkpoint/tokenizer.py", "write_text"),  # a scratch folder
    ("bagel_rt/files/output_files.py", "write_bytes"),  # handed to disk.write_by
    ("export/bagel_export/proof/record.py", "np.savez_compressed"),  # handed to output_files.write_by
    ("export/bagel_export/onnx/tracing.py", "ir.save"),  # handed to disk.write_by
}


def changes(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in CHANGING:
                yield called
            elif isinstance(node.func, ast.Attribute) and node.func.attr in METHODS and not called.startswith("disk."):
                yield node.func.attr
            elif called.rsplit(".", 1)[-1] == "open" and any(writes(arg) for arg in node.args):
                yield "open"


def writes(argument: ast.expr) -> bool:
    return isinstance(argument, ast.Constant) and argument.value in ("w", "wb", "a", "ab", "x", "xb", "r+", "rb+")


@pytest.mark.parametrize("package", ["bagel_rt", "engines/bagel_engines", "export/bagel_export"])
def test_no_other_module_changes_the_disk_or_maps_a_file(package):
    found = set()
    for file in (ROOT / package).rglob("*.py"):
        name = file.relative_to(ROOT).as_posix()
        found |= {(name, what) for what in changes(file) if not {(name, None), (name, what)} & ALLOWED}
    assert not found, "use bagel_engines.disk, so that its failure is tested"
