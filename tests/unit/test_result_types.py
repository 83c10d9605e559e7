"""Results whose classes contain other classes, and the warning for results that are not stored."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator  # noqa: TC003 - read by the cache
from dataclasses import dataclass, field
from enum import Enum, Flag, auto
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, NamedTuple, NewType, TypeVar

import attrs
import msgspec
import pydantic
import pytest
from doubles import WordEmbedder
from openai.types.chat import ChatCompletion, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice
from typing_extensions import TypedDict

from memora import CacheConfig, Memora
from memora.codec import Codec
from memora.errors import SerializationError

if TYPE_CHECKING:
    from somewhere_else import Absent  # type: ignore[import-not-found]

T = TypeVar("T")


class Color(Enum):
    RED = auto()


class Place(NamedTuple):
    page: int
    color: Color = Color.RED


@attrs.frozen
class Source:
    place: Place


class Note(msgspec.Struct):
    text: str
    sources: list[Source] = []


class Card(TypedDict):
    note: Note


@dataclass
class Box(Generic[T]):
    content: T


class Item(pydantic.BaseModel):
    name: str
    _hidden: Color = pydantic.PrivateAttr(Color.RED)


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]


@dataclass
class Tree:
    children: list[Tree] = field(default_factory=list)
    late: Later | None = None
    absent: Absent | None = None


@dataclass
class Later:
    value: int


Named = NewType("Named", Later)


@dataclass
class Report:
    cards: dict[str, Card]
    boxes: tuple[Box[Later], ...]
    page: Page[Item] | None
    tree: Tree
    named: Annotated[Named, "not a class"]
    kind: Literal["a", Color.RED] = "a"


class Plain:
    def __init__(self) -> None:
        self.value = 1

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


def report() -> Report:
    return Report(
        cards={"first": {"note": Note("x", [Source(Place(3))])}},
        boxes=(Box(Later(1)),),
        page=Page[Item](items=[Item(name="a")]),
        tree=Tree([Tree(late=Later(2))]),
        named=Named(Later(3)),
        kind=Color.RED,  # type: ignore[arg-type]
    )


def completion() -> ChatCompletion:
    message = ChatCompletionMessage(role="assistant", content="hello", reasoning="extra")  # type: ignore[call-arg]
    return ChatCompletion(
        id="1",
        choices=[Choice(finish_reason="stop", index=0, message=message)],
        created=1,
        model="m",
        object="chat.completion",
    )


@pytest.fixture
def cache() -> Iterator[Memora]:
    with Memora(CacheConfig(json_logs=True), embedder=WordEmbedder()) as opened:
        yield opened


@pytest.mark.parametrize(("cls", "value"), [(Report, report()), (ChatCompletion, completion())])
def test_a_class_brings_the_classes_of_its_fields(cls: type, value: Any) -> None:
    codec, other = Codec(), Codec()
    codec.register(cls)
    other.register(cls)

    payload = codec.encode([value])

    assert codec.decode(payload) == other.decode(payload) == [value]


def test_names_that_are_given_to_inner_classes_hold() -> None:
    codec = Codec()
    codec.register(Tree, name="tree")
    codec.register(Later, name="later")

    assert b"@later" in codec.encode(Tree(late=Later(1)))


def test_only_data_is_registered_with_a_class() -> None:
    @dataclass
    class Holder:
        plain: Plain

    codec = Codec()
    codec.register(Holder)
    with pytest.raises(SerializationError, match=r"result\.plain: .*Plain is not a type"):
        codec.encode(Holder(Plain()))


def test_a_subclass_of_what_is_named_is_not_named() -> None:
    @dataclass
    class More(Later):
        more: int = 0

    codec = Codec()
    codec.register(Tree)
    with pytest.raises(SerializationError, match=r"result\.late: .*More is not a type"):
        codec.encode(Tree(late=More(1)))


def test_classes_inside_a_function_are_found_while_it_runs(cache: Memora) -> None:
    @dataclass
    class Inner:
        value: int

    class Outer(pydantic.BaseModel):
        inners: list[Inner]

    @cache.cached
    def ask(query: str) -> Outer | None:
        return Outer(inners=[Inner(1)])

    assert ask("x") == ask("x")
    assert ask.cache_info() == (1, 1, {})


def test_what_a_function_says_it_returns_is_stored(cache: Memora) -> None:
    @cache.cached
    def ask(query: str) -> dict[str, ChatCompletion]:
        return {"a": completion()}

    @cache.cached(returns=list[Plain])
    def tell(query: str) -> Any:
        return [Plain()]

    @cache.cached(returns=(Report, "Later"))
    def show(query: str):  # type: ignore[no-untyped-def] # noqa: ANN202 - nothing is said
        return [report(), Later(1)]

    class Asker:
        def __call__(self, query: str) -> Tree:
            return Tree()

        @cache.cached(ignore="self")
        def ask(self, query: str) -> Plain:
            return Plain()

    calls: list[Any] = [ask, tell, show, cache.cached(Asker()), Asker().ask]
    for call in calls:
        assert call("x") == call("x")
        assert call.cache_info() == (1, 1, {})


@pytest.mark.anyio
async def test_coroutines_and_streams_are_no_exception(cache: Memora) -> None:
    @cache.cached
    async def ask(query: str) -> ChatCompletion:
        return completion()

    @cache.cached
    def stream(query: str) -> Iterator[Note]:
        yield Note("x")

    @cache.cached
    async def astream(query: str) -> AsyncIterator[Item]:
        yield Item(name="a")

    for _ in range(2):
        assert await ask("x") == completion()
        assert list(stream("x")) == [Note("x")]
        assert [one async for one in astream("x")] == [Item(name="a")]
    for one in (ask, stream, astream):
        assert one.cache_info() == (1, 1, {})


def test_what_is_said_wrongly_breaks_nothing(cache: Memora) -> None:
    @cache.cached
    def ask(query: str) -> Absent:
        return 1

    @cache.cached(returns="no type (")
    def tell(query: str) -> Iterator[object]:
        return Later(1)  # type: ignore[return-value]

    assert (ask("x"), ask("x"), tell("x")) == (1, 1, Later(1))


def test_the_warning_says_where_what_and_what_to_do_once(
    cache: Memora, capsys: pytest.CaptureFixture[str]
) -> None:
    @dataclass
    class Holder:
        parts: list[Any]

    cache.register_type(Holder)
    for number in range(3):
        cache.store(f"secret {number}", None, {"secret key": Holder([1, {"secret": Plain()}])})
    cache.store("secret", None, Plain())
    cache.store("secret", None, [object()])

    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(one["level"], one["result_type"], one["path"], one["type"]) for one in told] == [
        ("warning", "dict", "[…].parts[1][…]", f"{__name__}.Plain"),
        ("warning", "Plain", "", f"{__name__}.Plain"),
        ("warning", "list", "[0]", "builtins.object"),
    ]
    assert all("register_type()" in one["because"] for one in told)
    assert not any("secret" in str(one) for one in told)
    assert cache.get_stats()["results_not_stored"] == 5


def test_the_path_in_a_model_is_that_of_its_fields() -> None:
    codec = Codec()
    codec.register(Choice)
    value = completion()
    value.choices[0].message.content = Plain()  # type: ignore[assignment]
    codec.register(ChatCompletion)
    with pytest.raises(SerializationError) as refused:
        codec.encode(value)
    assert refused.value.path == "choices[0].message.content"
    assert refused.value.type_name == f"{__name__}.Plain"


class Rights(Flag):
    READ = 1
    WRITE = 2


class Loose(Enum):
    KNOWN = "known"

    @classmethod
    def _missing_(cls, value: object) -> Loose:
        made = object.__new__(cls)
        made._name_, made._value_ = "MADE", value
        return made


class Normed(msgspec.Struct):
    value: int

    def __post_init__(self) -> None:
        self.value += 1


class Optional_(msgspec.Struct, kw_only=True, frozen=True):  # noqa: N801 - as the type is called
    text: str
    maybe: int | msgspec.UnsetType = msgspec.UNSET
    score: float = float("nan")


class TestProof:
    def test_what_cannot_be_read_again_is_not_stored(self, cache: Memora) -> None:
        cache.register_type(Loose)
        cache.register_type(Normed)
        cache.register_type(Plain, encode=vars, decode=lambda fields: fields["absent"])
        cache.register_type(Later, encode=lambda one: one.value, decode=str)  # type: ignore[arg-type,return-value]
        values = [Loose("new"), Normed(1), {"a": [Plain()]}, Later(1)]
        for value in values:
            assert cache.store("x", None, value) is None
        assert cache.lookup("x").reason == "no_candidate"
        stats = cache.get_stats()
        assert (stats["results_not_stored"], sum(stats["errors"].values())) == (4, 0)
        assert cache.health_check()["status"] == "healthy"

    @pytest.mark.parametrize(
        "value", [Loose.KNOWN, Rights.READ | Rights.WRITE, Rights(0), Note("x"), Place(1)]
    )
    def test_what_can_is_stored(self, value: Any) -> None:
        codec = Codec()
        codec.register(type(value))
        assert codec.decode(codec.encode({"a": value})) == {"a": value}

    def test_a_struct_keeps_what_is_not_set_and_what_is_no_number(self) -> None:
        codec = Codec()
        codec.register(Optional_)
        again = codec.decode(codec.encode(Optional_(text="x")))
        assert (again.text, again.maybe, str(again.score)) == ("x", msgspec.UNSET, "nan")

    def test_sets_of_what_is_equal_to_itself_alone_are_stored(self) -> None:
        codec = Codec()
        codec.register(Holder)
        value = {Holder(), float("nan"), 1, "a", frozenset({2})}
        assert len(codec.decode(codec.encode(value))) == 5

    def test_a_cause_in_the_applications_class_is_kept(self) -> None:
        codec = Codec()
        codec.register(Plain, encode=vars, decode=lambda fields: fields["absent"])
        with pytest.raises(SerializationError, match="could not be read again") as refused:
            codec.encode(Plain())
        assert refused.value.__cause__ is not None


class Holder:
    pass
