"""Whatever the tokens and their portions: what streams out is the whole decoding, cut at the first stop string."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import tokenizers
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from edge_client.text import BYTE_OF, StopStrings, TextStream, Tokenizer
from shared.errors import UserError

LETTERS = "ab ."
WORDS = ["a", "b", " ", ".", "ab", " a", "é", "€", "😀", "b€"]


def byte_level() -> tokenizers.Tokenizer:
    alphabet = {byte: character for character, byte in BYTE_OF.items()}
    pieces = [alphabet[byte] for byte in range(256)]
    pieces += ["".join(alphabet[byte] for byte in word.encode()) for word in WORDS if len(word.encode()) > 1]
    pieces += [alphabet[0xE2] + alphabet[0x82], alphabet[0xAC] + alphabet[ord("a")]]
    inner = tokenizers.Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<|end|>"])
    inner.add_tokens([AddedToken("日本", normalized=False), AddedToken("ab ab", normalized=False)])
    return inner


def sentence_piece() -> tokenizers.Tokenizer:
    pieces = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "▁▁", *dict.fromkeys(word.replace(" ", "▁") for word in WORDS if word != " ")]
    inner = tokenizers.Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], 0, byte_fallback=True))
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    inner.add_special_tokens(["<s>"])
    return inner


def byte_level_and_more() -> tokenizers.Tokenizer:
    inner = byte_level()
    inner.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    return inner


def metaspace() -> tokenizers.Tokenizer:
    inner = sentence_piece()
    inner.decoder = decoders.Metaspace()
    return inner


def word_piece() -> tokenizers.Tokenizer:
    pieces = ["[UNK]", "a", "##a", "b", "##b", ".", "n't", "'", "ab"]
    inner = tokenizers.Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}))
    inner.decoder = decoders.WordPiece()
    return inner


def bpe_with_suffix() -> tokenizers.Tokenizer:
    pieces = ["<unk>", "a", "a</w>", "b", "b</w>", "ab</w>", "é</w>"]
    inner = tokenizers.Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    inner.decoder = decoders.BPEDecoder()
    return inner


def no_decoder() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1, "é": 2, ".": 3}, unk_token="a"))


KINDS: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    function.__name__: function
    for function in (
        byte_level,
        byte_level_and_more,
        sentence_piece,
        metaspace,
        word_piece,
        bpe_with_suffix,
        no_decoder,
    )
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    folder = tmp_path_factory.mktemp("tokenizers")
    for name, build in KINDS.items():
        build().save(str(folder / f"{name}.json"))
    return {name: Tokenizer(folder / f"{name}.json") for name in KINDS}


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest, loaded: dict[str, Tokenizer]) -> Tokenizer:
    return loaded[request.param]


def first_stop(text: str, stops: Sequence[str]) -> str:
    """The text before the stop string that ends first, by trying every end."""
    for end in range(len(text) + 1):
        here = [stop for stop in stops if text[:end].endswith(stop)]
        if here:
            return text[: end - max(map(len, here))]
    return text


STOPS = st.lists(st.text(LETTERS, min_size=1, max_size=4), max_size=3)


def any_tokens_in_any_portions(loaded: dict[str, Tokenizer], data: st.DataObject, stops: list[str]) -> None:
    for tokenizer in loaded.values():
        top = tokenizer.vocabulary_size  # one past the last id: a model's output is often padded
        tokens = data.draw(
            st.lists(st.one_of(st.integers(0, top), st.integers(max(0, top - 16), top)), max_size=14)
        )
        stream, shown = TextStream(tokenizer, stops), ""
        while tokens_left := tokens[stream._tokens :]:
            shown += stream.feed(tokens_left[: data.draw(st.integers(1, len(tokens_left)))])
            if stream.match:
                break
            assert tokenizer.decode(tokens).startswith(shown)
        shown += stream.finish()
        assert shown == first_stop(tokenizer.decode(tokens), stops)
        if stream.match:
            through = stream.match.token_index + 1
            assert any(stop in tokenizer.decode(tokens[:through]) for stop in stops)


@given(data=st.data(), stops=STOPS)
@settings(max_examples=200, deadline=None)
def test_any_tokens_in_any_portions(
    loaded: dict[str, Tokenizer], data: st.DataObject, stops: list[str]
) -> None:
    any_tokens_in_any_portions(loaded, data, stops)


@given(text=st.text(max_size=30), stops=STOPS)
@example(text="€😀é", stops=[])
@settings(max_examples=200, deadline=None)
def test_any_text_round_trips(loaded: dict[str, Tokenizer], text: str, stops: list[str]) -> None:
    tokenizer = loaded["byte_level"]
    stream = TextStream(tokenizer, stops)
    tokens = tokenizer.encode(text)
    if "<|end|>" not in text:
        assert stream.feed(tokens) + stream.finish() == first_stop(text, stops)


def test_text_comes_at_once_when_nothing_can_change_it(tokenizer: Tokenizer) -> None:
    """Holding everything back until the end would pass the tests above."""
    a, stream = tokenizer.encode("a"), TextStream(tokenizer, ["ax", "."])
    first, second = stream.feed(a), stream.feed(a)
    assert first + second
    assert len(first + second) >= len(tokenizer.decode([*a, *a])) - 1


@pytest.mark.parametrize("stops", [["abc", "b"], ["b", "abc"]])
def test_the_first_completed_stop_wins(stops: list[str]) -> None:
    strings = StopStrings(stops)
    assert strings.feed("xa", 0) == "x"
    assert strings.feed("bc", 1) == "a"
    assert strings.match is not None
    assert (strings.match.string, strings.match.token_index) == ("b", 1)
    assert strings.feed("more", 2) == ""
    assert strings.finish() == ""


def test_what_might_have_been_a_stop_is_shown_in_the_end() -> None:
    strings = StopStrings(["abab!"])
    assert strings.feed("ababab", 0) == "ab"
    assert strings.feed("x", 1) == "ababx"
    assert strings.feed("ab", 2) == ""
    assert strings.finish() == "ab"


def test_the_token_that_completes_the_stop_is_named(loaded: dict[str, Tokenizer]) -> None:
    tokenizer = loaded["byte_level"]
    stream = TextStream(tokenizer, ["€."])
    tokens = [*"x€.y".encode()]
    assert stream.feed(tokens) == "x"
    assert stream.match is not None
    assert stream.match.token_index == 4


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one character"):
        StopStrings(["a", ""])


MUTANTS = {
    "_overlap": lambda _text, _string: 0,
    "REPLACEMENT": "never",
    "_is_byte": lambda _piece: False,
}


@pytest.mark.parametrize(("name", "mutant"), MUTANTS.items(), ids=MUTANTS.keys())
def test_a_stream_that_does_not_hold_back_is_seen(
    loaded: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch, name: str, mutant: object
) -> None:
    monkeypatch.setattr(f"edge_client.text.{name}", mutant)
    check = given(data=st.data(), stops=STOPS)(any_tokens_in_any_portions)
    unshrunk = settings(max_examples=500, deadline=None, phases=[Phase.generate], database=None)(check)
    with pytest.raises(AssertionError):
        unshrunk(loaded)


def test_a_tokenizer_says_what_it_is(loaded: dict[str, Tokenizer], tmp_path: Path) -> None:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path)
    content = (tmp_path / "tokenizer.json").read_bytes()
    assert tokenizer.fingerprint == hashlib.sha256(content).hexdigest()
    assert tokenizer.fingerprint != loaded["word_piece"].fingerprint
    assert tokenizer.special_tokens.keys() == {"<|end|>"}
    end = tokenizer.special_tokens["<|end|>"]
    assert tokenizer.encode("a<|end|>") == (ord("a"), end)
    assert tokenizer.decode([ord("a"), end]) == "a"
    assert tokenizer.vocabulary_size > end


def test_errors_that_a_user_can_act_on(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist: copy"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="is not a tokenizer"):
        Tokenizer(tmp_path)
