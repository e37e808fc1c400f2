"""Pure values: what a pipeline, a stage, a plan, a run and its states are. Standard library only."""
