"""Options that several commands have: of tables, and those that are fields of a frozen settings object."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

from secure_afl.errors import SettingError
from secure_afl.tables.form import Form

FORM = {
    "separator": typer.Option(
        help="Column separator of a text file; default: the one of , ; | and tab that its header has."
    ),
    "decimal": typer.Option(help="Decimal sign in the numbers of a text file, . or ,"),
    "encoding": typer.Option(help="Encoding of a text file, such as windows-1252."),
    "sheet": typer.Option(help="Sheet of an Excel file; default: its only one."),
    "query": typer.Option(help="Query to a database, in SQL; nothing is written to it."),
}
Table = Annotated[
    str,
    typer.Argument(help="A table: .csv, .parquet, .xlsx, .sqlite, postgresql://HOST/DATABASE, …"),
]


@dataclass(frozen=True)
class Written:
    """How a table is written, as it is typed."""

    separator: str = ""
    decimal: str = "."
    encoding: str = "utf-8"
    sheet: str = ""
    query: str = ""

    @property
    def form(self) -> Form:
        r"""The same for a reader; "\t" is a tab. Raises `DataError`."""
        separator = self.separator.replace("\\t", "\t")
        return Form(separator, self.decimal, self.encoding, self.sheet, self.query)


def options(**given: Mapping[str, Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace parameters of a command, each of a dataclass, by an option for each of its fields that is named here.

    given: by parameter, the `typer.Option` of each field. Type and default are the field's. A `SettingError` that the
    dataclass raises becomes the error of the option at fault.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command)
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            if parameter.name not in given:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
                continue
            parameters += _parameters(parameter.annotation, given[parameter.name])

        @wraps(command)
        def expanded(**values: Any) -> None:
            made = {}
            for name, known in given.items():
                chosen = {field: values.pop(field) for field in known}
                try:
                    made[name] = signature.parameters[name].annotation(**chosen)
                except SettingError as error:
                    hint = flag(error.setting, known[error.setting])
                    raise typer.BadParameter(error.fault, param_hint=hint) from None
            command(**made, **values)

        expanded.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        expanded.__annotations__ = {one.name: one.annotation for one in parameters}
        return expanded

    return decorate


def _parameters(settings: Any, known: Mapping[str, Any]) -> list[inspect.Parameter]:
    types = get_type_hints(settings)
    defaults = {one.name: one.default for one in fields(settings)}
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if defaults[name] is MISSING else defaults[name],
            annotation=Annotated[types[name], option],
        )
        for name, option in known.items()
    ]


def flag(setting: str, option: Any) -> str:
    """What a person types for a setting."""
    return next(iter(option.param_decls or ()), f"--{setting.replace('_', '-')}")
