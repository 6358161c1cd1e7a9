"""The error tree: whose fault it is, and what to do about it.

the world's   FraudgateError
                ConfigError        a file or setting is wrong        -> exit 2, names file, key and a hint
                SchemaError        a feature schema is wrong         -> refused at load
                RuleError          a rule file is wrong              -> refused at load, the running rules stay
                EngineRefused      a model may not be served         -> refused at load, the running engine stays
                EngineFailed       an engine call failed             -> rules decide, FALLBACK_RULES_ONLY
                SnapshotError      a snapshot or log is unreadable   -> refused at start, says what to delete
                FeaturesRefused    history or a profile is wrong     -> INVALID_ARGUMENT, exit 2; says what is wrong
                TooFewSamples      too little was measured to judge  -> exit 2, says how much it takes
                UnknownTransaction an outcome names no known payment -> NOT_FOUND, says what to send instead
our mistakes  AssertionError, and never on a path that protects money
"""


class FraudgateError(Exception):
    """Anything that the world can do to us. The message says what to do next."""


class ConfigError(FraudgateError):
    """A configuration file, flag or environment variable is wrong."""


class SchemaError(FraudgateError):
    """A feature-schema file is wrong."""


class RuleError(FraudgateError):
    """A rule file is wrong; carries file, line and column (1-based) where they are known."""

    def __init__(self, message: str, file: str = "", line: int = 0, column: int = 0) -> None:
        where = f"{file}:{line}:{column}: " if file else ""
        super().__init__(where + message)
        self.file, self.line, self.column = file, line, column


class EngineRefused(FraudgateError):  # noqa: N818 - the field says "refused"
    """A model directory or graph that must not be served."""


class ModelMissing(EngineRefused):
    """The repository has no such model or version."""


class EngineFailed(FraudgateError):  # noqa: N818
    """A loaded engine did not answer."""


class SnapshotError(FraudgateError):
    """A snapshot or log file cannot be read."""


class FeaturesRefused(FraudgateError):  # noqa: N818
    """History or profile values that do not fit the feature schema."""


class TooFewSamples(FraudgateError):  # noqa: N818
    """Too little was measured to compare."""


class UnknownTransaction(FraudgateError):  # noqa: N818
    """An outcome for a transaction that the store cannot place."""


def address_taken(address: str, error: Exception) -> ConfigError:
    """What both front ends say of an address that they cannot have."""
    return ConfigError(f"cannot listen on {address}: is another server running there? ({error})")
