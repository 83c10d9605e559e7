"""Maps a call to its key: which arguments are query, context, tags, or ignored. Pure."""

from __future__ import annotations

import copy
import enum
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import partial
from pathlib import PurePath
from string import Formatter
from types import NoneType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from uuid import UUID

from memora._faults import contained
from memora.calls._identity import has_state, identity_of
from memora.context import Settled, canonical_context, canonical_query
from memora.errors import ArgumentError, ClosedError, ContextError, QueryError, QueryTypeError

if TYPE_CHECKING:
    from typing import NoReturn

    from memora.model import Unkeyed

FUNCTION = "memora.function"
"""The context key that identifies the function."""
CODE = "memora.code"
"""The context key that identifies the function's version."""

UNKEYED = (QueryError, ContextError, ArgumentError, ClosedError)
"""The errors raised if a call has no key."""

Arguments: TypeAlias = "dict[str, Any]"
"""Parameters to values, as `inspect.BoundArguments.arguments` with defaults applied."""

_EMPTY = inspect.Parameter.empty
_CONSTANT = frozenset({NoneType, bool, int, float, str, bytes})  # immutable
# Types with one obvious text. Not any object: its address would be a useless tag.
_TAGGABLE = (str, int, float, Decimal, UUID, date, PurePath)


class BoundCall(NamedTuple):
    """The key of a call: query and context; and the tags of its result."""

    query: str
    context: dict[str, Any]
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The decorator's options that map arguments to query, context and tags; see `Caching`."""

    query_param: str = "query"
    strict_params: tuple[str, ...] | None = None
    static_context: Mapping[str, Any] | None = None
    auto_strict: bool = False
    ignore: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    key: Callable[..., str] | None = None
    context: Callable[..., Mapping[str, Any] | None] | None = None
    instance: Callable[[Any], Any] | None = None

    def settles(self, owner: str) -> bool:
        """Return whether the options say how a method's object counts."""
        said = (self.context, self.instance, self.strict_params)
        return owner in self.ignore or any(one is not None for one in said)


class Binding:
    """The mapping of one function's calls to queries in contexts.

    Args:
        signature: The function's signature.
        rules: The decorator's options.
        name: The function's name in errors.
        fixed: Context of every call: identifies the function and its version.
        owner: Whether the first positional argument is a method's `self` or `cls`.
        bound: The object that is called, or whose method is, if it is part of the key.

    Raises:
        ArgumentError: A rule names a parameter that does not exist, or contradicts another.
        ContextError: The static context holds a value without canonical form.
    """

    def __init__(  # noqa: PLR0913 - the decorator's options
        self,
        signature: inspect.Signature,
        rules: Rules,
        *,
        name: str,
        fixed: Mapping[str, Any],
        owner: bool = False,
        bound: object = None,
    ) -> None:
        self._bound = bound
        self._signature = signature
        self._rules = rules
        self._name = name
        self._read_signature(owner=owner)
        self._check_names()
        self._query_param = rules.query_param if rules.query_param in self._names else None
        static = copy.deepcopy(dict(rules.static_context or {}))
        self._fixed = {**fixed, **static}
        self._choose_context(static)
        self._made_query = None if rules.key is None else self._from_arguments("key", rules.key)
        self._made_context = (
            None if rules.context is None else self._from_arguments("context", rules.context)
        )
        self._tags = tuple(self._template(tag) for tag in rules.tags)

    @property
    def owners(self) -> int:
        """Number of positional arguments before the parameters: one for a method."""
        return 1 if self._owner is not None or self._skipped else 0

    @property
    def uncounted(self) -> list[str]:
        """Parameters that a rule leaves out of the key; with `auto_strict`, only as texts."""
        counted = {*self._counted, *self._counted_stars, *self._rules.ignore, self._query_param}
        return [name for name in self._names if name not in counted]

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Arguments | None:
        """Return the arguments of a call with defaults applied; None if they do not fit.

        Equals `Signature.bind` and `apply_defaults`, in a tenth of their time.
        """
        positional = self._positional
        given = len(args)
        arguments = self._defaults.copy()
        arguments.update(zip(positional, args, strict=False))
        if given > len(positional):
            if self._star is None:
                return None
            arguments[self._star] = args[len(positional) :]
        if kwargs:
            more: dict[str, Any] = {}
            for name, value in kwargs.items():
                position = self._by_keyword.get(name)
                if position is None:
                    more[name] = value
                elif position < given:  # also given by position
                    return None
                else:
                    arguments[name] = value
            if more:
                if self._double_star is None:
                    return None
                arguments[self._double_star] = more
        return arguments if len(arguments) == self._size else None

    def call(self, arguments: Arguments) -> BoundCall:
        """Return the key of a call with these arguments.

        Raises:
            QueryError: The query is not a text, or is blank.
            ContextError: `context` did not return a mapping.
            ArgumentError: A tag would be blank, or a value in it has no obvious text.
        """
        query = self._query(arguments)
        context = self._fixed.copy()
        context.update(self._owner_in(arguments))
        if self._made_context is not None:
            context.update(self._context_from(self._made_context, arguments))
        for name in self._counted:
            if (value := arguments[name]) is not None:
                context[name] = value
        for name in self._counted_unless_text:
            value = arguments[name]
            if value is not None and (not isinstance(value, str) or isinstance(value, enum.Enum)):
                context[name] = value
        for name in self._counted_stars:
            value = arguments[name]
            if name == self._star:
                value = value[self._skipped :]
            if value:
                context[name] = value
        return BoundCall(query, context, tuple(self._tags_of(arguments)) if self._tags else ())

    def settled(self, arguments: Arguments) -> BoundCall:
        """Return the validated key of a call, as a snapshot that later changes do not affect.

        Raises:
            MemoraError: One of `UNKEYED`: as by `call`, or the query or a value has no exact form.
        """
        query, context, tags = self.call(arguments)
        query = canonical_query(query)
        try:
            return BoundCall(query, Settled(context), tags)
        except ContextError:
            self._explain(context)
            raise

    def is_still(self, arguments: Arguments, call: BoundCall) -> bool:
        """Return whether the arguments still have the same key, that is, have not been changed."""
        if all(type(value) in _CONSTANT for value in arguments.values()):
            return True
        try:
            query, context, tags = self.settled(arguments)
        except UNKEYED:
            return False
        same = canonical_context(context) == canonical_context(call.context)
        return same and (query, tags) == (call.query, call.tags)

    def _owner_in(self, arguments: Arguments) -> dict[str, object]:
        """Return the context that identifies a method's object, if it is part of the key."""
        instance = self._rules.instance
        if self._owner_named is not None:
            given = arguments[self._owner or self._star or ""]
            if self._owner is None:  # the owner is the first of `*args`
                given = given[0] if given else None
            return {self._owner_named: owner_form(given, instance)}
        if self._bound is not None and (instance is not None or has_state(self._bound)):
            return {"self": owner_form(self._bound, instance)}
        return {}

    def _explain(self, context: Mapping[str, Any]) -> None:
        """Raise a ContextError that names the argument that cannot be context, if there is one."""
        for name, value in context.items():
            try:
                canonical_context({name: value})
            except ContextError as error:
                if name == (self._owner_named or (self._bound is not None and "self")):
                    raise ContextError(
                        unsaid_owner(self._name, name)
                        if self._rules.instance is None
                        else f"{self._name}(): what instance= returned: {error}"
                    ) from None
                if self._made_context is not None:
                    raise ContextError(f"{self._name}(): what context= returned: {error}") from None
                raise ContextError(
                    f"{self._name}(): parameter {name!r} cannot be part of the context: {error}. "
                    "If it does not change the result, name it in ignore=; otherwise say with "
                    "context= what identifies it"
                ) from None

    def _read_signature(self, *, owner: bool) -> None:
        """Precompute the data that `bind` needs, and the parameters that may be context."""
        kinds = inspect.Parameter
        parameters = self._signature.parameters.values()
        self._size = len(parameters)
        self._positional = tuple(
            one.name
            for one in parameters
            if one.kind in {kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD}
        )
        stars = {one.kind: one.name for one in parameters}
        self._star = stars.get(kinds.VAR_POSITIONAL)
        self._double_star = stars.get(kinds.VAR_KEYWORD)
        position = {name: index for index, name in enumerate(self._positional)}
        self._by_keyword = {
            one.name: position.get(one.name, sys.maxsize)
            for one in parameters
            if one.kind in {kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY}
        }
        self._defaults: Arguments = {
            one.name: one.default for one in parameters if one.default is not _EMPTY
        }
        if self._star is not None:
            self._defaults[self._star] = ()
        if self._double_star is not None:
            self._defaults[self._double_star] = {}
        self._owner = self._positional[0] if owner and self._positional else None
        # In `def method(*args)`, the first argument is the owner.
        self._skipped = 1 if owner and not self._positional else 0
        # The owner's key in the context, if it counts.
        self._owner_named: str | None = None
        first = (self._owner or self._star) if owner else None
        if first and (self._rules.instance is not None or not self._rules.settles(first)):
            self._owner_named = "self" if first == self._star else first
        self._stars = tuple(name for name in (self._star, self._double_star) if name is not None)
        self._names = tuple(one.name for one in parameters if one.name != self._owner)

    def _check_names(self) -> None:
        rules = self._rules
        plain = [name for name in self._names if name not in self._stars]
        # If `key` makes the query, no parameter needs to be named "query".
        free = rules.key is not None and rules.query_param == "query"
        if rules.query_param not in plain and not free:
            self._refuse(f"query_param {rules.query_param!r} is not one of them", plain)
        for option, named in (("strict_params", rules.strict_params), ("ignore", rules.ignore)):
            for name in named or ():
                if name == rules.query_param and name in self._names:
                    self._refuse(f"{option} names {name!r}, which is the query", self._names)
                if name not in self._names and not (option == "ignore" and name == self._owner):
                    self._refuse(f"{option} names {name!r}, which is not one of them", self._names)
        if both := {*(rules.strict_params or ())} & {*rules.ignore}:
            self._refuse(f"{min(both)!r} is in strict_params and in ignore", self._names)
        if rules.context is not None and (rules.strict_params is not None or rules.auto_strict):
            self._refuse(
                "context= is in place of the parameters, so strict_params and auto_strict say "
                "nothing beside it",
                self._names,
            )

    def _choose_context(self, static: Mapping[str, Any]) -> None:
        rules = self._rules
        others = [name for name in self._names if name not in {self._query_param, *rules.ignore}]
        named, unless_text = others, list[str]()
        if rules.context is not None:
            named = []
        elif rules.strict_params is not None or rules.auto_strict:
            named = list(rules.strict_params or ())
            if rules.auto_strict:
                unless_text = [name for name in others if name not in named]
        elif rules.static_context is not None:
            named = []
        canonical_context(static)
        owned = [] if self._owner_named is None else [self._owner_named]
        for name in (FUNCTION, CODE, *owned, *named, *unless_text):
            if name in static:
                self._refuse(f"static_context has the key {name!r} of its own", self._names)
        stars = self._stars
        self._counted = tuple(name for name in named if name not in stars)
        self._counted_unless_text = tuple(name for name in unless_text if name not in stars)
        self._counted_stars = tuple(name for name in (*named, *unless_text) if name in stars)

    def _query(self, arguments: Arguments) -> str:
        if self._made_query is not None:
            query, what = self._made("key", self._made_query, arguments), "what key= returned"
        else:
            query, what = arguments[self._rules.query_param], None
        if isinstance(query, str) and query.strip():
            return query
        what = what or f"parameter {self._query_param!r}"
        if isinstance(query, str):
            raise QueryError(f"{self._name}(): {what} is the query, and blank: {query!r}")
        raise QueryTypeError(
            f"{self._name}(): {what} is the query, which must be a text; "
            f"got {type(query).__name__}. key= can make one of the arguments"
        )

    def _context_from(
        self, make: Callable[[Arguments], Any], arguments: Arguments
    ) -> Mapping[str, Any]:
        made = self._made("context", make, arguments)
        if made is None:
            return {}
        if not isinstance(made, Mapping):
            raise ContextError(
                f"{self._name}(): context= must return a mapping such as {{'agent': 'sql'}}, or "
                f"None; got {type(made).__name__}"
            )
        for name in (FUNCTION, CODE, self._owner_named):
            if name in made:
                raise ContextError(f"{self._name}(): context= returned the key {name!r}; rename it")
        return made

    def _from_arguments(self, option: str, make: Callable[..., Any]) -> Callable[[Arguments], Any]:
        """Return a function that calls an application's callable with the parameters it names."""
        as_called = partial(self._call_alike, make)
        try:
            wanted = inspect.signature(make).parameters.values()
        except (TypeError, ValueError):  # a builtin
            return as_called
        kinds = inspect.Parameter
        if any(one.kind is kinds.VAR_POSITIONAL for one in wanted):
            return as_called
        ours = self._signature.parameters
        takes_all = any(one.kind is kinds.VAR_KEYWORD for one in wanted)
        named = [one for one in wanted if one.kind is not kinds.VAR_KEYWORD]
        for one in named:
            if one.name not in ours and one.default is _EMPTY:
                self._refuse(f"{option}= takes {one.name!r}, which is not one of them", ours)
        by_position = [one.name for one in named if one.kind is kinds.POSITIONAL_ONLY]
        by_keyword = [name for name in ours if takes_all or any(one.name == name for one in named)]
        by_keyword = [name for name in by_keyword if name not in by_position]

        def call(arguments: Arguments) -> Any:
            return make(
                *(arguments[name] for name in by_position),
                **{name: arguments[name] for name in by_keyword},
            )

        return call

    def _made(self, option: str, make: Callable[[Arguments], Any], arguments: Arguments) -> Any:
        """Call an application's `key` or `context` function for a call.

        Raises:
            QueryError: `key` failed.
            ContextError: `context` failed.
        """
        try:
            with contained:
                return make(arguments)
        except Exception as error:
            refusal = QueryError if option == "key" else ContextError
            raise refusal(f"{self._name}(): {option}= raised {type(error).__name__}") from error

    def _call_alike(self, make: Callable[..., Any], arguments: Arguments) -> Any:
        ordered = {name: arguments[name] for name in self._signature.parameters}
        bound = inspect.BoundArguments(self._signature, ordered)
        return make(*bound.args, **bound.kwargs)

    def _template(self, tag: str) -> tuple[tuple[str, str | None], ...]:
        """Return the parts of a tag template: a text, and the parameter that follows it."""
        plain = [name for name in self._names if name not in self._stars]
        try:
            parts = list(Formatter().parse(tag))
        except ValueError as error:
            raise ArgumentError(
                f"tags: {tag!r} is no template ({error}); write {{{{ and }}}} for braces"
            ) from None
        for _, name, form, conversion in parts:
            if name is not None and (form or conversion or not name.isidentifier()):
                raise ArgumentError(
                    f"tags: {tag!r} may name parameters, such as {{{plain[0] if plain else 'x'}}}, "
                    "without format, attribute or index; make another value with context= or a "
                    "parameter of its own"
                )
            if name is not None and name not in plain:
                self._refuse(f"the tag {tag!r} names {name!r}, which is not one of them", plain)
        return tuple((text, name) for text, name, _, _ in parts)

    def _tags_of(self, arguments: Arguments) -> Iterable[str]:
        for template, parts in zip(self._rules.tags, self._tags, strict=True):
            if any(name is not None and arguments[name] is None for _, name in parts):
                continue  # None: the result does not depend on such a source
            tag = "".join(
                text if name is None else text + self._text(template, name, arguments[name])
                for text, name in parts
            )
            if not tag.strip():
                raise ArgumentError(f"{self._name}(): the tag {template!r} is blank in this call")
            try:
                tag.encode()
            except UnicodeEncodeError:
                raise ArgumentError(
                    f"{self._name}(): the tag {template!r} has a lone surrogate in this call"
                ) from None
            yield tag

    def _text(self, template: str, name: str, value: object) -> str:
        if isinstance(value, enum.Enum):
            value = value.value
        if not isinstance(value, _TAGGABLE):
            raise ArgumentError(
                f"{self._name}(): the tag {template!r} needs a text or a number, and parameter "
                f"{name!r} is a {type(value).__name__}"
            )
        try:
            return str(value)
        except ValueError as error:  # an integer with more digits than Python converts
            raise ArgumentError(f"{self._name}(): the tag {template!r}: {error}") from None

    def _refuse(self, why: str, names: Iterable[str]) -> NoReturn:
        raise ArgumentError(f"{self._name}() has the parameters {', '.join(names)}; {why}")


def why_unkeyed(fault: Exception) -> Unkeyed:
    """Return the missing part of a call's key, for an error of `UNKEYED`."""
    if isinstance(fault, QueryError):
        return "query"
    if isinstance(fault, ContextError):
        return "context"
    return "closed" if isinstance(fault, ClosedError) else "tags"


def unsaid_owner(name: str, owner: str) -> str:
    """Return the error message for a method whose options do not cover its object."""
    return (
        f"{name}() is a method, and the cache cannot know whether the answers of two objects "
        "differ: "
        f"ignore=[{owner!r}] where they never do, instance=lambda {owner}: {owner}.tenant where "
        f"something identifies the object, or context=lambda {owner}, ...: {{...}} in place of "
        "all parameters"
    )


def owner_form(owner: Any, instance: Callable[[Any], Any] | None) -> object:
    """Return a value that identifies a method's object: a class's name, or by `instance`.

    Raises:
        ContextError: `instance` failed.
    """
    if instance is None:
        return identity_of(owner) if isinstance(owner, type) else owner
    try:
        with contained:
            return instance(owner)
    except Exception as error:
        raise ContextError(f"instance= raised {type(error).__name__}") from error
