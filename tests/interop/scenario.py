"""What is run: a named function of a Lab and a Checks."""


class Scenario:
    """`waits` says that it needs next to no CPU."""

    def __init__(self, name, script, waits=False):
        self.name, self.script, self.waits = name, script, waits
