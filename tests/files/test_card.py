# Copyright 2026 The diffusers_ediffi authors. Licensed under the Apache License, Version 2.0.
"""Model cards: what is new, what is kept, what was measured. tests/files/test_hub.py uploads them."""

import json

import pytest
from helpers_hub import check_card
from huggingface_hub import ModelCard

from diffusers_ediffi.files.card import CardText, choose_card, is_untouched, kept_card, read_results
from diffusers_ediffi.files.licences import ConvertedSource, Duties, licence_of_card

NEW = CardText("tiny", "Draws.", [("Load it:", "import x")], {"Stages": "| a |"}, data={"tags": ["mine"]})
THEIRS = "---\nlanguage: en\n---\n\n# Theirs\n\nwords\n"
EDM = ConvertedSource("edm.pkl", "cc-by-nc-sa-4.0", {"edm.pkl": "2" * 64})


def write_result(path, **changes):
    card = {
        "metrics": {"clip_score": 24.5, "frechet_distance": 3.25},
        "pictures": {"count": 500, "sha256": "0"},
        "reference": {"name": "real", "count": 400},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**card, **changes}))
    return path


def chosen(existing, given=None, results=(), duties=None):
    return choose_card(lambda: NEW, given, existing, results, duties or Duties())


def test_a_new_card_is_what_the_hub_takes(tmp_path):
    text = chosen([], results=read_results([write_result(tmp_path / "coco" / "card.json")]), duties=Duties([], "mit"))
    assert check_card(text)[0] == b'{"errors": [], "warnings": []}'
    data = ModelCard(text).data
    assert (data.library_name, data.license, data.tags[-1], data.model_name) == ("diffusers", "mit", "mine", "tiny")
    assert {(result.metric_type, result.metric_value) for result in data.eval_results} == {
        ("clip_score", 24.5),
        ("frechet_distance", 3.25),
    }
    assert {result.dataset_name for result in data.eval_results} == {"500 pictures, beside 400 of real"}
    link = "[evaluation/coco.json](evaluation/coco.json)"
    assert f"| clip_score | 24.5 | 500 pictures, beside 400 of real | {link} |" in text


def test_a_card_of_ours_is_written_anew_until_somebody_changes_it():
    first = chosen([])
    assert is_untouched(first) and is_untouched(first.replace("\n", "\r\n"))
    other = choose_card(lambda: CardText("other", "", []), None, [first], [], Duties())
    assert "# other" in other and is_untouched(other)
    changed = first.replace("Draws.", "Draws well.")
    assert not is_untouched(changed)
    assert chosen([changed]) == changed


@pytest.mark.parametrize("licence", ["mit", "mine-1"])
def test_a_new_card_in_the_place_of_ours_keeps_the_licence(licence):
    first = chosen([], duties=Duties([], licence))
    assert chosen([first]) == first
    assert ModelCard(chosen([first], duties=Duties([], "apache-2.0"))).data.license == "apache-2.0"


def test_a_card_of_others_keeps_its_words(tmp_path):
    assert chosen([THEIRS, "# lower in rank"]) == THEIRS.replace(
        "language: en", "language: en\nlibrary_name: diffusers"
    )
    results = read_results(write_result(tmp_path / "a.json"))
    text = chosen([THEIRS], results=results, duties=Duties([EDM], "cc-by-nc-sa-4.0"))
    assert "# Theirs\n\nwords\n" in text and "## Measured" in text and "## Converted from" in text
    assert ModelCard(text).data.license == "cc-by-nc-sa-4.0" and ModelCard(text).data.language == "en"
    again = kept_card(text, results, Duties([EDM], "cc-by-nc-sa-4.0"))
    assert again.count("## Measured") == again.count("## Converted from") == 1


def test_what_others_measured_stays(tmp_path):
    theirs = CardText("theirs", "", [], results=read_results(write_result(tmp_path / "coco.json"))).text()
    card = f"{theirs.partition('<!--')[0]}\n## Measured\n\nBy hand.\n\n## Thanks\n"
    text = kept_card(card, read_results(write_result(tmp_path / "own.json", metrics={"clip_score": 9.0})), Duties())
    results = ModelCard(text).data.eval_results
    found = {(result.dataset_type, result.metric_type): result.metric_value for result in results}
    assert found == {("coco", "clip_score"): 24.5, ("coco", "frechet_distance"): 3.25, ("own", "clip_score"): 9.0}
    assert "## Measured\n\nBy hand.\n\n## Thanks" in text


def test_metadata_that_cannot_be_read_is_one_line(tmp_path):
    for text in ("---\nlicense: [mit\n---\n\n# Theirs\n", "---\n- mit\n---\n\n# Theirs\n"):
        with pytest.raises(ValueError, match="metadata of the model card .* cannot be read") as error:
            chosen([text])
        assert "\n" not in str(error.value)
        (tmp_path / "README.md").write_text(text)
        with pytest.raises(ValueError, match="cannot be read"):
            licence_of_card(tmp_path / "README.md")


def test_metadata_alone_is_no_card_but_its_licence_counts():
    text = chosen(["---\nlicense: mit\n---\n"], duties=Duties([], "apache-2.0"))
    assert "# tiny" in text and ModelCard(text).data.license == "mit"


def test_a_given_card_comes_before_all_others(tmp_path):
    (tmp_path / "card.md").write_text("# Given\n")
    assert "# Given" in chosen([THEIRS], given=tmp_path / "card.md")


def test_a_licence_that_the_hub_may_not_know_has_a_name_there():
    data = ModelCard(chosen([], duties=Duties([], "mine-1"))).data
    assert (data.license, data.license_name) == ("other", "mine-1")


@pytest.mark.parametrize(
    "changes",
    [{"metrics": {}}, {"metrics": {"a": float("nan")}}, {"metrics": [1]}, {"pictures": 3}, {"reference": {}}],
)
def test_what_is_no_measurement_is_refused(tmp_path, changes):
    path = write_result(tmp_path / "card.json", **changes)
    with pytest.raises(ValueError, match="card.json' is no card of ediffi evaluate"):
        read_results(path)


def test_names_of_metrics_stay_in_their_cells(tmp_path):
    results = read_results(write_result(tmp_path / "a.json", metrics={"a|b\n\n## Licence\n\nfree": 1.0}))
    assert "\n| a/b ## Licence free | 1 | " in chosen([], results=results)


def test_results_are_files_with_names_of_their_own(tmp_path):
    with pytest.raises(FileNotFoundError, match="there are no results"):
        read_results([tmp_path / "missing.json"])
    paths = [write_result(tmp_path / name / "x.json") for name in ("a", "b")]
    with pytest.raises(ValueError, match="two of the results would be evaluation/x.json"):
        read_results(paths)
    assert [result.name for result in read_results([write_result(tmp_path / "s p" / "card.json").parent])] == [
        "evaluation/s-p.json"
    ]
