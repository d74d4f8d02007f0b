SwarmStage, FAULTS = None, []
