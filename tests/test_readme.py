"""The README's examples run, one after the other, as a reader would try them."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_examples_run():
    examples = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(examples) == 6
    names: dict = {}
    for example in examples:
        exec(example, names)
    assert names["graph"].indices.shape == (9100, 10)
    assert names["affinity"].error_bound <= 1e-6
    assert len(names["some"]) == 500
    assert names["loss"].isfinite()
    assert (names["L"].T @ names["L"] - names["torch"].eye(64)).abs().max() < 1e-5
