"""Settings: each place with its key and a test that says in a sentence what works; keys stay in memory."""

from __future__ import annotations

import pytest
import seed
from seen import labels, said

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
    assert "OpenAI answers and takes the key: 5 models for chat" in at.success[0].value.replace("\\", "")
    assert "it can fine" in said(at) and "stops answering on 14 January 2027" in said(at)


def test_a_bad_key_is_a_sentence_that_does_not_repeat_it(open_page, hosted):
    at = tried(typed(open_page("settings"), "sk-a-wrong-key-of-mine"))
    assert "Incorrect API key" in at.warning[0].value and "Check the key" in at.warning[0].value
    assert "wrong-key" not in said(at).replace("\\", "") and not at.success
    typed(at, seed.KEY)
    assert not at.warning, "another key, another answer"


def test_without_a_key_the_test_says_which_variable_is_missing(open_page, hosted):
    assert "OPENAI_API_KEY is not set" in tried(open_page("settings")).warning[0].value.replace("\\", "")


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


@pytest.mark.parametrize(
    "name, url, sentence",
    [
        ("", "http://localhost:1/v1", "Give it a name first"),
        ("openai", "http://localhost:1/v1", "There is a connection named openai already"),
        ("office", "", "Nothing is no base URL"),
        ("office", "localhost:11434/v1", "localhost:11434/v1 is no base URL"),
        ("office", "http://[half/v1", "is no base URL"),
        ("office", "http://local host/v1", "is no base URL"),
        ("office", "file:///etc/passwd", "is no base URL"),
        ("office", "https://me:sesame@host/v1", "must not hold a password"),
        ("office", "https://host/v1?api_key=sesame", "must not hold a password"),
    ],
)
def test_what_is_no_connection_is_not_added(name, url, sentence, open_page, store):
    at = added(open_page("settings"), name, url)
    assert len(at.error) == 1 and sentence in at.error[0].value.replace("\\", "") and "sesame" not in said(at)
    assert store.endpoints() == [] and at.text_input(key="connections.url").value == url, "to be corrected"
