"""Settings: each place with its key and a test that says in a sentence what works; keys stay in memory."""

from __future__ import annotations

import dataclasses

import pytest
import seed
from seen import labels, said

from drone_ft import fine_tuning
from drone_ft.endpoints import Endpoint


def typed(at, key, name="OpenAI"):
    at.text_input(key=f"connections.key.{name}").set_value(key).run()
    return at


def tried(at, name="OpenAI"):
    at.button(key=f"connections.test.{name}").click().run()
    assert not at.exception
    return at


def added(at, name, url, kind="custom"):
    at.text_input(key="connections.name").set_value(name)
    at.text_input(key="connections.url").set_value(url)
    at.selectbox(key="connections.kind").select(kind)
    at.button(key="FormSubmitter:connections.form-Add").click().run()
    return at


def test_this_computer_and_openai_are_there_without_settings(open_page, monkeypatch):
    assert [s.value.split(": ")[-1] for s in open_page("settings").subheader] == ["This computer", "OpenAI"]
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://ours.openai.azure.com")
    at = open_page("settings")
    assert "https://ours.openai.azure.com/openai/v1/" in said(at) and "set AZURE_OPENAI_API_KEY" in (
        at.text_input(key="connections.key.Azure OpenAI").placeholder
    )


def test_a_good_key_is_told_with_what_works_there(open_page, hosted):
    at = tried(typed(open_page("settings"), seed.KEY))
    lines = at.success[0].value.replace("\\", "").split("  \n")
    assert [line.split(": ")[-1][:20] for line in lines] == [
        "OpenAI answers and t",
        "5 models for chat (g",
        "It can fine-tune",
    ]
    assert "gpt-4.1-mini and gpt-4o-mini stop answering on 14 January 2027" in said(at).replace("\\", "")
    assert "14 January" not in at.success[0].value, "what ends is no good news"


def test_a_bad_key_is_a_sentence_that_does_not_repeat_it(open_page, hosted):
    at = tried(typed(open_page("settings"), "sk-a-wrong-key-of-mine"))
    assert at.warning[0].value == "OpenAI does not accept this key. Paste another one."
    assert "wrong-key" not in said(at).replace("\\", "") and not at.success
    typed(at, seed.KEY)
    assert not at.warning, "another key, another answer"


def test_without_a_key_the_test_says_where_to_put_it(open_page, hosted):
    at = open_page("settings")
    assert at.text_input(key="connections.key.OpenAI").placeholder == "Paste it here, or set OPENAI_API_KEY"
    assert tried(at).warning[0].value == "OpenAI needs a key. Paste it above."
    typed(at, seed.KEY)
    assert "paste another to replace it" in at.text_input(key="connections.key.OpenAI").placeholder


def test_a_place_that_is_off_is_a_sentence(open_page, store):
    store.save_endpoint(Endpoint("office", "http://127.0.0.1:9/v1", "custom"))
    at = tried(open_page("settings"), "office")
    assert "Office: No server answers at http://127.0.0.1:9/v1" in at.warning[0].value.replace("\\", "")
    assert "could not start" in tried(at, "this computer").warning[0].value


def test_a_typed_key_survives_other_pages_and_is_never_on_disk(open_page, hosted, store):
    at = typed(open_page("settings"), seed.KEY)
    for page in ("home", "examples", "settings"):
        at.switch_page(f"pages/{page}.py").run()
    assert "A key is in use, from this tab" in said(at) and tried(at).success
    assert not [f for f in store.folder.rglob("*") if f.is_file() and seed.KEY.encode() in f.read_bytes()]
    at.button(key="connections.forget.OpenAI").click().run()
    assert "A key is in use" not in said(at) and tried(at).warning


def test_a_key_of_the_environment_is_named_and_a_typed_one_goes_before_it(open_page, hosted, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-an-old-one-from-before")
    at = open_page("settings")
    assert "from the environment variable OPENAI_API_KEY" in said(at) and "Forget it" not in labels(at)
    assert tried(at).warning and tried(typed(at, seed.KEY)).success


def test_a_connection_is_added_tested_and_removed(open_page, hosted, store):
    at = added(open_page("settings"), " The office ", f"{hosted.base_url}/")
    assert store.endpoints() == [Endpoint("The office", hosted.base_url, "custom")]
    assert at.text_input(key="connections.name").value == "" and "was added" in at.toast[0].value
    assert tried(typed(at, seed.KEY, "The office"), "The office").success
    at.button(key="connections.remove.The office").click().run()
    assert store.endpoints() == [] and "The office" not in [s.value.split(": ")[-1] for s in at.subheader]
    added(at, "The office", hosted.base_url)
    assert tried(at, "The office").warning, "its key is gone with it"


def test_an_azure_address_may_be_pasted_without_its_end(open_page, store):
    added(open_page("settings"), "Work", "https://ours.openai.azure.com", "azure")
    assert store.endpoints() == [Endpoint("Work", "https://ours.openai.azure.com/openai/v1/", "azure")]


def looked(at, name="OpenAI"):
    at.button(key=f"connections.trainings.{name}").click().run()
    assert not at.exception
    return at


def trained(hosted, *suffixes):
    """Trainings of ours at the service."""
    client = hosted.client(key=seed.KEY)
    return [
        fine_tuning.start(client, "OpenAI", "{}", None, "gpt-4o-mini", suffix=suffix, catalog="drone", seed=7)
        for suffix in suffixes
    ]


def test_trainings_that_were_lost_are_found_at_the_service_and_those_here_stay(open_page, hosted, store):
    assert "connections.trainings.OpenAI" not in [b.key for b in open_page("settings").button], "it wants a key"
    at = typed(open_page("settings"), seed.KEY)
    assert "connections.trainings.this computer" not in [b.key for b in at.button]
    assert "OpenAI knows no training of yours." in looked(at).info[0].value
    lost, kept = trained(hosted, "lost", "kept")
    store.save_job(dataclasses.replace(kept, message="as I have it"), "{}")
    assert "OpenAI knows 2 trainings of yours; 1 was missing here and came back." in looked(at).info[0].value
    assert "OpenAI knows 2 trainings of yours; none was missing here." in looked(at).info[0].value
    assert store.job(kept.id).message == "as I have it" and store.job(lost.id).suffix == "lost"
    hosted.script.key = "another"
    assert "Incorrect API key" in looked(at).error[0].value
    at.switch_page("pages/fine_tune.py").run()
    assert not at.exception and set(at.dataframe[0].value["Name"]) == {"lost", "kept"}


def test_a_training_found_again_says_that_its_examples_are_not_known(open_page, hosted, store):
    trained(hosted, "lost")
    looked(typed(open_page("settings"), seed.KEY))
    at = open_page("fine_tune")
    assert "What it was trained on is not known here" in said(at) and "To learn from 1 example of" in said(at)
    assert not at.get("download_button") and "Its number at OpenAI: ftjob" in said(at).replace("\\", "")


def test_what_a_model_turned_out_to_accept_is_said_and_can_be_forgotten(open_page, hosted, store):
    assert "turned out to accept" not in str([e.label for e in open_page("settings").expander])
    store.put(hosted.base_url, "gpt-reasoning", {"max_tokens": "max_completion_tokens", "temperature": "left out"})
    at = open_page("settings")
    assert "leaves out settings this model refuses: temperature." in said(at).replace("\\", "")
    assert "This model has another name for the most it may write" in said(at)
    at.button(key="connections.unlearn.OpenAI.gpt-reasoning").click().run()
    assert store.get(hosted.base_url, "gpt-reasoning") == {} and "has another name" not in said(at)
    assert "gpt-reasoning" in at.toast[0].value


@pytest.mark.parametrize(
    "name, url, sentence",
    [
        ("", "http://localhost:1/v1", "Give it a name first"),
        ("openai", "http://localhost:1/v1", "There is a connection named openai already"),
        ("office", "", "A base URL begins with http://"),
        ("office", "localhost:11434/v1", "A base URL begins with http:// or https://, for example http://localhost"),
        ("office", "http://[half/v1", "A base URL begins with http://"),
        ("office", "http://local host/v1", "A base URL begins with http://"),
        ("office", "file:///etc/passwd", "A base URL begins with http://"),
        ("office", "https://me:sesame@host/v1", "must not hold a password"),
        ("office", "https://host/v1?api_key=sesame", "must not hold a password"),
    ],
)
def test_what_is_no_connection_is_not_added(name, url, sentence, open_page, store):
    at = added(open_page("settings"), name, url)
    form = next(part for part in at.expander if part.label == "Add a connection")
    assert form.proto.expanded and len(at.error) == len(form.error) == 1, "it stays open and says it there"
    assert sentence in at.error[0].value.replace("\\", "") and "sesame" not in said(at)
    assert store.endpoints() == [] and at.text_input(key="connections.url").value == url, "to be corrected"
