"""What every component stands on: configuration, registry, schedules, base classes, checkpoints."""
