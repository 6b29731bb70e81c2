"""The command that signs a person in to the console of the service on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.settings import read_settings
from app.core.keys import FIRST_TENANT
from app.rules.roles import ROLES
from lethe.cli.common import die


def console(
    name: Annotated[str, typer.Option(help="Who signs in, as the record of decisions names them.")] = "owner",
    role: Annotated[str, typer.Option(help=f"One of: {', '.join(ROLES)}.")] = "owner",
    tenant: Annotated[str, typer.Option(help="Whose console.")] = FIRST_TENANT,
) -> None:
    """Print a link that signs a person in to the console.

    It works once, within ten minutes.

    It works on the database of LETHE_DATABASE_URL, else of LETHE_DATA_DIR, so it runs where the service runs.
    """
    from app.core import users
    from app.core.db import Database
    from app.core.tables import Tenant
    from app.operations import migrate

    if role not in ROLES:
        raise typer.BadParameter(f"one of: {', '.join(ROLES)}", param_hint="--role")
    if not name.strip() or len(name) > 200 or not name.isprintable():
        raise typer.BadParameter("1 to 200 letters", param_hint="--name")
    settings = read_settings()
    database = Database(settings)
    try:
        migrate.check(database)
        with database.write() as session:
            if session.get(Tenant, tenant) is None:
                die(f"there is no tenant {tenant}; `lethe tenants list` names them")
            link = users.make_link(session, users.named(session, tenant, name.strip(), role))
    except migrate.SchemaError as error:
        die(str(error))
    finally:
        database.close()
    written = settings.url_file.read_text().strip() if settings.url_file.exists() else ""
    where = settings.public_url or written or f"http://{settings.host}:{settings.port}"
    typer.echo(f"{where}{settings.root_path}/console/sign-in/link/{link}")
