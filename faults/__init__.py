"""`make faults`: a seeded run that breaks a real service in every way it can, and checks that nothing was lost."""
