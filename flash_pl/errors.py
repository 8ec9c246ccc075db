"""The one error that a user's input can cause: a single line with the key, its value and what is allowed."""


class ConfigError(ValueError):
    """A setting that cannot work. The command line prints it as one line and exits with code 2.

    >>> str(ConfigError("density", 1.5, "a number in (0, 1]"))
    'density: 1.5 is not allowed; expected a number in (0, 1]'
    """

    def __init__(self, key: str, value: object, allowed: str) -> None:
        super().__init__(f"{key}: {value!r} is not allowed; expected {allowed}")
        self.key, self.value, self.allowed = key, value, allowed

    def within(self, section: str) -> "ConfigError":
        """The same error of a key inside ``section``, for the caller to raise.

        >>> str(ConfigError("prune_rate", 2, "a number in (0, 1]").within("scheduler"))
        'scheduler.prune_rate: 2 is not allowed; expected a number in (0, 1]'
        """
        return ConfigError(f"{section}.{self.key}", self.value, self.allowed)


class ModuleError(TypeError):
    """A LightningModule that cannot be federated; the message says what to change."""


class DataNotFoundError(FileNotFoundError):
    """A data set is in none of the places where it is looked for; the message names every remedy."""
