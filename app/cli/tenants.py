"""Commands on tenants, which work on the service's own database."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.settings import read_settings, starting
from lethe.cli.common import AsJson, group, show, show_list

tenants = group("Tenants, on the service's own database.")


@tenants.command("create")
def create_tenant(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the tenant.")],
    as_json: AsJson = False,
) -> None:
    """Make a tenant and its first key, with every scope. The key's token is shown once, here.

    It works on the database of LETHE_DATABASE_URL, else of LETHE_DATA_DIR, so it runs where the service runs.
    """
    from app.core import keys
    from app.operations import migrate, startup

    with starting(), startup.plain(), startup.opened(read_settings()) as database:
        migrate.check(database)
        with database.write() as session:
            tenant, token = keys.new_tenant(session, name)
    show({"tenant": tenant, "name": name, "token": token}, as_json=as_json)


@tenants.command("list")
def list_tenants(as_json: AsJson = False) -> None:
    """List the tenants of this database."""
    from app.core import keys
    from app.operations import migrate, startup

    with starting(), startup.plain(), startup.opened(read_settings()) as database:
        migrate.check(database)
        with database.read() as session:
            found = keys.tenants(session)
    show_list(iter(found), ("id", "name", "created_at"), as_json=as_json)
