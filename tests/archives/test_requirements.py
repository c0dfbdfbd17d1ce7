import pytest

from headrace.archives.requirements import digest, has_hashes, named_files

ASKED = {"text": "six==1.16\n", "files": {}, "python": "cpython-311", "platform": "linux", "sees_server": False}


@pytest.mark.parametrize(
    "other",
    [
        {"text": "six==1.17\n"},
        {"text": "six==1.16\nidna\n"},
        {"files": {"more.txt": b"idna"}},
        {"python": "cpython-312"},
        {"platform": "linux-aarch64"},
        {"sees_server": True},
    ],
)
def test_what_is_not_the_same_has_another_name(other):
    assert digest(**{**ASKED, **other}) != digest(**ASKED)


def test_no_two_lists_of_files_have_one_name():
    one, other = {"a": b"b1:c", "d": b""}, {"a": b"b", "c1:d": b""}
    assert digest(**{**ASKED, "files": one}) != digest(**{**ASKED, "files": other})


@pytest.mark.parametrize("text", ["six==1.16", "\ufeff# what we need\r\n\r\n  six==1.16  \r\n", "six==1.16\n\n"])
def test_comments_and_blanks_make_no_other_environment(text):
    assert digest(**{**ASKED, "text": text}) == digest(**ASKED)


def test_where_pip_takes_only_hashes_that_is_seen():
    assert has_hashes("six==1.16 \\\n    --hash=sha256:aa\n")
    assert not has_hashes("# --hash=sha256:aa\nsix\n")


def test_files_beside_the_requirements_are_found():
    text = """
-r more.txt
-cconstraints.txt
--requirement=last.txt
./wheels/own-1.0-py3-none-any.whl  # ours
other @ file:wheels/other.whl ; python_version > "3"
six==1.16; python_version > "3"
lib[extra]
--index-url https://example.org/simple
"""
    found = named_files(text)
    assert {"more.txt", "constraints.txt", "last.txt", "./wheels/own-1.0-py3-none-any.whl"} <= set(found)
    assert "six==1.16" in found  # which is no file then
    assert "lib" in found
    assert not any("example.org" in path for path in found)
