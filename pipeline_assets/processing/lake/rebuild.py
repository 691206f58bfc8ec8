"""Tables whose metadata are damaged, taken out of the catalog so that the next writer makes them anew from what is before them."""

from typing import TYPE_CHECKING

from pipeline_assets.core import connections, names
from pipeline_assets.core.damage import ObjectDamaged
from pipeline_assets.core.errors import UnknownName, UserInputError
from pipeline_assets.core.iceberg import Identifier, open_table
from pipeline_assets.core.settings import Settings
from pipeline_assets.processing.lake import files
from pipeline_assets.processing.lake.intact import damaged

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog

REBUILT = (names.TYPED, names.LAKE, names.CLEANED, names.FEATURES, names.FEATURE_STORE)


def take_out(settings: Settings, name: str) -> str:
    """Takes a table, `<namespace>.<name>`, out of the catalog; a sentence of what to do next. No object is deleted.

    Raises UnknownName if there is no such table, UserInputError if its newest metadata are whole or nothing is before it.
    """
    namespace, _, table = name.partition(".")
    with connections.catalog(settings) as catalog:
        _refuse(catalog, (namespace, table))
        catalog.drop_table((namespace, table))
    return f"{name} is out of the catalog. Materialize {namespace}/{table}, all its days: it is made anew from what is before it."


def _refuse(catalog: "Catalog", identifier: Identifier) -> None:
    name = ".".join(identifier)
    if identifier[0] not in REBUILT:
        raise UserInputError(f"Nothing that the platform has is before {name}. Tables of {', '.join(REBUILT)} can be rebuilt.")
    try:
        table = open_table(catalog, identifier)
        live = [] if table is None else files.live_files(table)
    except ObjectDamaged:
        return
    if table is None:
        raise UnknownName("lake table", name, [".".join(known) for known in catalog.list_tables(identifier[0])])
    # Rows of a typed table are made in one go, by offsets and not by days.
    if identifier[0] != names.TYPED or not damaged(table, live):
        remedy = f"Materialize its damaged days: `pipeline audit lake --table {name}` lists them."
        raise UserInputError(f"The newest metadata of {name} are whole. {remedy}")
