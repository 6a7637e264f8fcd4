"""Before anything is spent: conformance checks of plugins, the forecast of a plan, rehearsals."""
