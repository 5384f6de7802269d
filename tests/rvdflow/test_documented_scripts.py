"""The Python examples of README and quickstart run as printed, on a small dataset and run."""

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


def _examples(page):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_examples_run_and_give_finite_scores(page, flow, trained):
    (code,) = _examples(page)
    code = code.replace('"flow.zarr"', repr(str(flow))).replace('"runs/wake"', repr(str(trained)))
    code = code.replace("members=32, lead=16, cases=4", "members=3, lead=2, cases=2")
    assert str(flow) in code
    assert "lead=2" in code
    code = re.sub(r"^(by_lead = )?evaluation\.crps", "by_lead = evaluation.crps", code, flags=re.M)
    names: dict = {}
    exec(code, names)
    assert names["by_lead"].dims == ("lead_time",)
    assert np.isfinite(names["by_lead"]).all()
