"""Alembic's entry: runs on the connection that `app.operations.migrate` hands over."""

from alembic import context

from app.core.tables import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True, transactional_ddl=True)
context.run_migrations()
