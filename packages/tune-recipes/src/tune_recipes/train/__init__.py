"""What the training recipes call: devices, optimizer, schedule, step, run folder, checkpoints."""
