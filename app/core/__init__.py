"""What every other folder uses: settings, database, tables, errors, ids, logs, keys."""
