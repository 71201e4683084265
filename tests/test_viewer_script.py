"""The viewer's modules put together: in order, and refused where that is not sound."""

from __future__ import annotations

import re

import pytest

from web.flamegraph.script import joined, viewer_script

MODULES = {
    "main.js": 'import { add } from "./sums.js";\nimport { two } from "./two.js";\nshow(add(two, two));\n',
    "sums.js": 'import { two } from "./two.js";\nexport const add = (a, b) => a + b + two;\n',
    "two.js": "export const two = 2;\n",
    "unused.js": "export const three = 3;\n",
}


def test_what_is_needed_comes_first_and_once() -> None:
    script = joined(MODULES)
    assert [script.index(part) for part in ("const two", "const add", "show(")] == sorted(
        script.index(part) for part in ("const two", "const add", "show(")
    )
    assert script.count("const two") == 1 and "three" not in script
    assert not re.search(r"^(?:import|export)\b", script, re.MULTILINE)


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("two.js", "export const two = 2;\nconst add = 1;\n", "two modules of the viewer declare add"),
        ("two.js", 'import { add } from "./sums.js";\nexport const two = 2;\n', "main.js → sums.js → two.js → sums.js"),
        ("two.js", 'import { no } from "./no.js";\n', "two.js needs no.js, which is not there"),
        ("two.js", "export default 2;\n", "two.js has a line that cannot be joined: 'export default 2;'"),
        ("two.js", 'import { a as b } from "./sums.js";\n', "cannot be joined"),
        ("two.js", 'import * as all from "./sums.js";\n', "cannot be joined"),
        ("two.js", 'import {\n  add\n} from "./sums.js";\n', "cannot be joined"),
    ],
)
def test_modules_that_cannot_be_put_together_are_refused(module: str, source: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        joined({**MODULES, module: source})


def test_the_viewers_own_script_is_whole_and_small() -> None:
    script = viewer_script()
    assert script.startswith("(() => {\n") and script.endswith("})();\n")
    assert len(script) < 150_000 and "]]>" not in script and "</script" not in script
