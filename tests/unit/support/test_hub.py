"""Names of the Hub: what is one, and what its parts are."""

from __future__ import annotations

import pytest

from sparserm.support.hub import HubName


@pytest.mark.parametrize(
    ("text", "repository", "revision"),
    [
        ("org/model", "org/model", None),
        ("gpt2", "gpt2", None),
        ("org/model@v1.0", "org/model", "v1.0"),
        ("gpt2@main", "gpt2", "main"),
        ("org/model@refs/pr/1", "org/model", "refs/pr/1"),
        ("org/model@" + 40 * "a", "org/model", 40 * "a"),
        ("Org/my.model_2-b@2024-01-31+fixed", "Org/my.model_2-b", "2024-01-31+fixed"),
    ],
)
def test_a_name_has_a_repository_and_may_have_a_revision(text: str, repository: str, revision: str | None) -> None:
    found = HubName.parse(text)
    assert found == (repository, revision) and str(found) == text and found.owned == ("/" in repository)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "@v1",
            "org/@v1",
            "org/model@",
            "org/model@ v1",
            "org/model@v1 ",
            "org/model@v1@v2",
            "org/model@-x",
            "org/model:a",
        ),
        *("../model", "~/model", "/org/model", "a/b/c", "org/model@../../etc", "org/model@a/../b", "org/model@/etc", "C:\\a@b"),
        *("org/mödel", "org/model@ü", "org/model\n", "org/" + 97 * "m", "org/model@" + 252 * "a"),
    ],
)
def test_what_is_a_path_or_no_name_has_no_parts(text: str) -> None:
    assert HubName.parse(text) is None


def test_the_command_that_downloads_names_the_revision() -> None:
    assert HubName("org/model", "v1").download() == "`hf download org/model --revision v1`"
    assert HubName("org/pairs").download("dataset") == "`hf download org/pairs --repo-type dataset`"
