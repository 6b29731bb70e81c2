"""What every folder above stands on: settings, database, tables, errors, ids, logs, keys."""
