"""A plugin for pytest: a fault needs a counterexample, not the smallest one."""

from hypothesis import Phase, settings

settings.register_profile("mutants", phases=(Phase.explicit, Phase.generate), database=None)
settings.load_profile("mutants")
