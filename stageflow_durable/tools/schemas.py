"""What a tool takes and gives: by its handler's annotations, by a Pydantic model, or by a JSON schema."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, ValidationError, create_model

from stageflow_durable.codec import plain
from stageflow_durable.errors import ConfigurationError, InvalidInput
from stageflow_durable.model import json_schema
from stageflow_durable.model.context import StageContext

OWN_KEY = "idempotency_key"
"""The parameter of a handler that is filled in with the call's key."""


class Signature:
    """The parameters of a handler that the engine fills in, and those that a caller gives."""

    def __init__(self, name: str, handler: Callable[..., Any]) -> None:
        try:
            hints = get_type_hints(handler, include_extras=True)
            parameters = inspect.signature(handler).parameters
        except (NameError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"tool {name!r}: its handler's parameters cannot be read: {error}; annotate it with types that its "
                "module knows, or wrap it in a function that says them"
            ) from None
        self.returns = hints.get("return", Any)
        self.context = next((one for one in parameters if _is_context(hints.get(one))), None)
        self.key = OWN_KEY if OWN_KEY in parameters else None
        self.given = {one: parameters[one] for one in parameters if one not in (self.context, self.key)}
        self.hints = hints
        odd = [one.name for one in parameters.values() if one.kind in (one.VAR_POSITIONAL, one.POSITIONAL_ONLY)]
        if odd:
            raise ConfigurationError(f"tool {name!r}: parameter {odd[0]!r} cannot be given by its name; name it")

    @property
    def takes_anything(self) -> bool:
        """Whether it has ``**arguments``."""
        return any(one.kind is one.VAR_KEYWORD for one in self.given.values())


def _is_context(hint: Any) -> bool:
    return hint is StageContext or getattr(hint, "__origin__", None) is StageContext


class Input:
    """What a tool takes: its JSON schema, as models are told it, and how arguments become the handler's."""

    def __init__(self, name: str, signature: Signature, declared: Any) -> None:
        self._name = name
        self._whole: str | None = None  # the parameter that gets the model itself
        self._model: type[BaseModel] | None = None
        if isinstance(declared, Mapping):
            wrong = json_schema.mistakes(declared)
            if wrong:
                raise ConfigurationError(f"tool {name!r}: input_schema: {'; '.join(wrong)}")
            self.schema: dict[str, Any] = dict(declared)
            self._checked = self.schema
            return
        if declared is None and signature.takes_anything:
            raise ConfigurationError(f"tool {name!r}: **arguments say nothing of what it takes; give input_schema=")
        self._model = _model(name, signature, declared)
        if declared is not None:
            self._whole = _whole(name, signature)
        try:
            self.schema = self._model.model_json_schema()
        except PydanticUserError as error:
            raise ConfigurationError(f"tool {name!r}: its arguments have no JSON schema: {_first(error)}") from None

    def validated(self, arguments: Any) -> dict[str, Any]:
        """The handler's arguments by name. Raises InvalidInput naming each field, without its value."""
        what = f"arguments of tool {self._name!r}"
        if not isinstance(arguments, Mapping):
            raise InvalidInput(what, [f"value: {type(arguments).__name__} given; they are an object"])
        if self._model is None:
            problems = json_schema.problems(self._checked, plain(dict(arguments)))
            if problems:
                raise InvalidInput(what, problems)
            return dict(arguments)
        try:
            model = self._model.model_validate(dict(arguments))
        except ValidationError as error:
            told = error.errors(include_input=False, include_url=False)
            raise InvalidInput(
                what, [f"{'.'.join(map(str, one['loc'])) or 'value'}: {one['msg']}" for one in told]
            ) from None
        if self._whole is not None:
            return {self._whole: model}
        return {name: getattr(model, name) for name in model.__class__.model_fields if name in model.model_fields_set}


def _model(name: str, signature: Signature, declared: Any) -> type[BaseModel]:
    if declared is not None:
        if not (isinstance(declared, type) and issubclass(declared, BaseModel)):
            raise ConfigurationError(f"tool {name!r}: input_schema is a Pydantic model, a JSON schema (dict), or None")
        return declared
    fields: dict[str, Any] = {}
    for parameter in signature.given.values():
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (signature.hints.get(parameter.name, Any), default)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a parameter called as a method of models is: "copy", "json"
            forbids = ConfigDict(extra="forbid", protected_namespaces=())
            return create_model(f"{name}_arguments", __config__=forbids, **fields)
    except (PydanticUserError, NameError, TypeError) as error:
        raise ConfigurationError(f"tool {name!r}: its parameters have no schema: {_first(error)}") from None


def _whole(name: str, signature: Signature) -> str:
    if len(signature.given) != 1:
        raise ConfigurationError(f"tool {name!r}: with a model as input_schema its handler takes one: that model")
    return next(iter(signature.given))


def can_come_back(name: str, declared: Any) -> None:
    """Refuse a type as which no result can be read: it would show only once the tool has acted."""
    if declared is None:
        return
    try:
        TypeAdapter(declared).rebuild(raise_errors=True)
    except Exception as error:  # noqa: BLE001  # Pydantic's, or of the application's own hooks
        called = getattr(declared, "__name__", repr(declared))[:100]
        raise ConfigurationError(
            f"tool {name!r}: its result cannot come back as {called}: {_first(error)}; give output_schema=, typing.Any "
            "for what was saved as it is"
        ) from None


def _first(error: Exception) -> str:
    return str(error).partition("\n")[0]
