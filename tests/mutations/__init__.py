"""Every guard and every safety step, taken out one at a time: some test must go red."""
