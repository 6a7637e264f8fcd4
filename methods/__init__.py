"""Post-training methods: one paper, one file. A method imports `bench.api`, `bench.flow`, torch and numpy only."""
