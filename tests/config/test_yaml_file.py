# SPDX-License-Identifier: Apache-2.0
"""YAML is data and nothing else."""

import pytest

from medrecon.config.yaml_file import parse, read
from medrecon.errors import ConfigError


def test_lines_of_keys_are_remembered():
    data, lines = parse("a: 1\nb:\n  c: 2\n  d: [3, 4]\n", "f.yaml")
    assert data == {"a": 1, "b": {"c": 2, "d": [3, 4]}}
    assert lines[("b", "d")] == 4


@pytest.mark.parametrize(
    "text, words",
    [
        ("a: 1\na: 2\n", "f.yaml:2: duplicate key 'a'"),
        ("a:\n  b: 1\n  b: 2\n", "f.yaml:3: duplicate key 'b'"),
        ("x: !!python/object/apply:os.system ['touch /tmp/owned']\n", "f.yaml:1: could not determine a constructor"),
        ("x: !!python/name:os.system\n", "f.yaml:1"),
        ("x: !Component {}\n", "f.yaml:1"),
        ("a: &x [1]\nb: *x\n", "f.yaml:2: aliases"),
        ("a: [1, 2\n", "f.yaml:2"),
        ("- 1\n- 2\n", "must hold 'key: value' lines, got list"),
        ("just words\n", "must hold 'key: value' lines, got str"),
        ("? [1, 2]\n: 3\n", "keys must be plain words"),
        ("a: \x00\n", "not valid YAML"),
        ("{" * 5000, "f.yaml"),
    ],
)
def test_what_is_not_plain_data_is_refused_with_its_line(text, words):
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.yaml")
    assert words in caught.value.cause
    assert caught.value.remedy


def test_file_that_is_no_text_or_absurdly_large(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00bin")
    (tmp_path / "b.yaml").write_text("a: 1\n" * 300_000)
    with pytest.raises(ConfigError, match="not UTF-8"):
        read(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match="larger than"):
        read(tmp_path / "b.yaml")
    with pytest.raises(ConfigError, match="No such file"):
        read(tmp_path / "c.yaml")
