"""Every error of the product: one root, and below it the causes.

A constructor takes facts, keeps them as attributes and writes the sentence: what, where, what was expected, what to do. The thrower
decides whether trying again can help: a `TransientError` may be retried, no other error.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from difflib import get_close_matches
from pathlib import Path

from pipeline_assets.core.foreign import SaidError
from pipeline_assets.core.problems import DeclarationProblem, MalformedSetting, Obstacle

DAYS_SHOWN, NAMES_SHOWN = 5, 30


class PipelineError(SaidError):
    """The root of all errors that the product raises on purpose; what is foreign in their messages steers no terminal."""

    def __reduce__(self) -> tuple[object, ...]:
        # An exception is pickled by its message, of which its constructor could not make it again: a pool of processes would end with it.
        return Exception.__new__, (type(self), *self.args), self.__dict__


class TransientError(PipelineError):
    """The same call may succeed later; the one kind of error that is retried."""


class UserInputError(PipelineError):
    """Something a person gave (an argument, a file, a name) cannot be used; the command ends with exit code 2 and writes nothing."""


class SettingsMissing(UserInputError):
    """Settings without a value, all of them at once."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        super().__init__(
            f"Missing settings: {', '.join(self.names)}. Set them in the environment, or run `pipeline up` to start them on this machine."
        )


class SettingsMalformed(UserInputError):
    """Settings whose values cannot be used, one sentence for each."""

    def __init__(self, settings: Sequence[MalformedSetting]) -> None:
        self.settings = tuple(settings)
        self.names = tuple(setting.name for setting in self.settings)
        super().__init__("\n".join(map(str, self.settings)))


class SettingNotSupported(UserInputError):
    """A setting says something that one of the libraries it is for cannot be given; it was given nothing."""

    def __init__(self, setting: str, parameter: str, library: str, remedy: str) -> None:
        self.setting, self.parameter, self.library, self.remedy = setting, parameter, library, remedy
        super().__init__(f"{setting} says '{parameter}', which {library} cannot be given. {remedy}")


class UnknownName(UserInputError):
    """A name that is not declared, with those that are; of many with those that are written nearly so, the nearest first."""

    def __init__(self, kind: str, name: str, known: Sequence[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(known)
        self.near = tuple(get_close_matches(name, self.known, n=DAYS_SHOWN, cutoff=0.5))
        is_short = len(self.known) <= NAMES_SHOWN
        listed = f"Known: {', '.join(sorted(self.known)) or 'none'}" if is_short else f"Near: {', '.join(self.near) or 'none'}"
        super().__init__(f"Unknown {kind} '{name}'. {listed}.")


class UnknownDay(UserInputError):
    """A day outside the partitions of the use case."""

    def __init__(self, day: str, first: date, last: date | None) -> None:
        self.day, self.first, self.last = day, first, last
        until = f"and up to {last}" if last is not None else "onwards"
        super().__init__(f"No day '{day}'. A day is a UTC date YYYY-MM-DD, from {first} {until}.")


class SpecError(UserInputError):
    """Malformed declarations, all of them at once."""

    def __init__(self, problems: Sequence[DeclarationProblem]) -> None:
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problems in the declarations:\n- " if self.problems[1:] else ""
        super().__init__(count + "\n- ".join(map(str, self.problems)))


class ProposalRefused(UserInputError):
    """Nothing can be proposed of a source, or not written where it was asked for."""

    def __init__(self, source: str, problem: str) -> None:
        self.source, self.problem = source, problem
        super().__init__(f"No proposal of '{source}': {problem}. Nothing was written.")


class ContractViolation(PipelineError):
    """More rows of a partition broke their contract than the contract lets pass; nothing of the partition became visible."""

    def __init__(self, *, contract: str, partition: str, broken: int, rows: int, share: float, reasons: Mapping[str, int]) -> None:
        self.contract, self.partition, self.broken, self.rows = contract, partition, broken, rows
        self.share, self.reasons = share, dict(reasons)
        counts = ", ".join(f"{count} × {reason}" for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
        super().__init__(
            f"Contract '{contract}' refused partition {partition}: {broken} of {rows} rows are broken, {share:.2%} may be ({counts}). "
            "Nothing was written. Fix the source or the contract, then materialize the partition again."
        )


class TableMismatch(PipelineError):
    """A table handed to a computation lacks columns, or has them in the wrong type."""

    def __init__(self, table: str, problem: str, columns: Sequence[str]) -> None:
        self.table, self.problem, self.columns = table, problem, tuple(columns)
        super().__init__(f"Table '{table}' {problem}. It has: {', '.join(self.columns)}.")


class ValueUnfit(TableMismatch):
    """A column handed to a computation holds values that do not fit the type it works in; `row` is the first of them, from 0."""

    def __init__(
        self, table: str, column: str, kind: str, *, row: int, value: object, expected: str, key: Mapping[str, object] | None = None
    ) -> None:
        self.column, self.kind, self.row, self.value, self.expected, self.key = column, kind, row, value, expected, dict(key or {})
        of_row = ", ".join(f"{name} {part}" for name, part in self.key.items())
        place = f"row {row + 1} ({of_row})" if of_row else f"row {row + 1}"
        super().__init__(table, f"has {kind} in {column}, the first {value!r} in {place}, where {expected} was expected", [column])

    def of(self, key: Mapping[str, object]) -> "ValueUnfit":
        """The same error with the key of the row."""
        return ValueUnfit(self.table, self.column, self.kind, row=self.row, value=self.value, expected=self.expected, key=key)


class ServiceFailed(PipelineError):
    """A service of the local stack did not start, or ended."""

    def __init__(self, service: str, problem: str, log_tail: str = "") -> None:
        self.service, self.problem, self.log_tail = service, problem, log_tail
        super().__init__(f"Service '{service}' {problem}." + (f" Its last log lines:\n{log_tail}" if log_tail else ""))


class PortTaken(PipelineError):
    """Another program listens where a service of the local stack should."""

    def __init__(self, service: str, port: int, pid: int | None, command: str) -> None:
        self.service, self.port, self.pid, self.command = service, port, pid, command
        holder = f"process {pid} ({command})" if pid is not None else "a process of another user"
        super().__init__(
            f"Service '{service}' needs port {port}, which {holder} holds. End that process, or choose another port: "
            f"PIPELINE_PORTS__{service.upper().replace('-', '_')}=<port> (0 picks a free one)."
        )


class SourceUnavailable(TransientError):
    """A source system did not answer in time, or said to come back later."""

    def __init__(self, source: str, problem: str) -> None:
        self.source, self.problem = source, problem
        super().__init__(f"Source '{source}' {problem}. It will be retried.")


class SourceRefused(PipelineError):
    """A source system answered that the request is wrong; asking again cannot help."""

    def __init__(self, source: str, problem: str) -> None:
        self.source, self.problem = source, problem
        super().__init__(f"Source '{source}' refused: {problem}. Check its settings and its declaration.")


class NotFollowed(PipelineError):
    """Changes of tables that cannot be followed rightly, with every reason; these tables are not published."""

    def __init__(self, obstacles: Sequence[Obstacle]) -> None:
        self.obstacles = tuple(obstacles)
        super().__init__("\n".join(map(str, self.obstacles)))


class ModelRejected(PipelineError):
    """A candidate, or a version asked for by name, may not go live."""

    def __init__(self, model: str, version: int | str, rules: Sequence[str]) -> None:
        self.model, self.version, self.rules = model, version, tuple(rules)
        super().__init__(f"Model '{model}' version {version} was rejected: {'; '.join(self.rules)}.")


class PromotionConflict(PipelineError):
    """Another promotion came first: the version expected to be live is not live any more."""

    def __init__(self, model: str, expected: int | None, found: int | None) -> None:
        self.model, self.expected, self.found = model, expected, found
        super().__init__(
            f"Model '{model}': expected version {expected} to be live, but it is {found}. "
            "Look at `pipeline models history`, then try again."
        )


class ArtifactCorrupt(PipelineError):
    """An artifact's bytes are not those its contract was written for, or (`found` None) there are none."""

    def __init__(self, artifact: str, expected: str, found: str | None) -> None:
        self.artifact, self.expected, self.found = artifact, expected, found
        what = "is not there" if found is None else f"has sha256 {found}"
        super().__init__(f"Artifact '{artifact}' {what}, expected {expected}. It is not used. Restore it, or train again.")


class PackageCorrupt(PipelineError):
    """The package of a version is not what was written: files are missing or have other bytes, or contradict each other."""

    def __init__(self, model: str, version: int, problems: Sequence[str]) -> None:
        self.model, self.version, self.problems = model, version, tuple(problems)
        super().__init__(f"Package of model '{model}' version {version}: {'; '.join(self.problems)}. It is not used. Restore its files.")


class TableRejected(UserInputError):
    """A table that a person gave, as a file or as an Arrow table, cannot be used."""

    def __init__(self, table: str, problem: str, expected: str) -> None:
        self.table, self.problem, self.expected = table, problem, expected
        super().__init__(f"{table}: {problem}. Expected: {expected}. Nothing was written.")


class NoLiveVersion(PipelineError):
    """A model has to score days on which none of its versions was live."""

    def __init__(self, model: str, days: Sequence[date]) -> None:
        self.model, self.days = model, tuple(days)
        hidden = len(self.days) - DAYS_SHOWN
        shown = ", ".join(str(day) for day in self.days[:DAYS_SHOWN]) + (f" and {hidden} more" if hidden > 0 else "")
        super().__init__(
            f"Model '{model}' had no live version on {shown}. Nothing was written. "
            "Look at `pipeline models history`; score with `version: champion`, or promote a version first."
        )


class NotStaged(PipelineError):
    """A partition is asked for that was never staged: there is no manifest, which is not the same as a manifest without rows."""

    def __init__(self, contract: str, partitions: Sequence[str]) -> None:
        self.contract, self.partitions = contract, tuple(partitions)
        more = f" and {len(self.partitions) - 1} more" if self.partitions[1:] else ""
        missing = f"nothing staged for {self.partitions[0]}{more}"
        super().__init__(f"Contract '{contract}' has {missing}. Materialize staged/{contract} for these partitions first.")


class SchemaConflict(PipelineError):
    """A lake table cannot follow a declaration without losing rows or their meaning; nothing was changed."""

    def __init__(self, table: str, problems: Mapping[str, str]) -> None:
        self.table, self.problems = table, dict(problems)
        found = "; ".join(f"field '{field}' {problem}" for field, problem in sorted(self.problems.items()))
        super().__init__(
            f"Table '{table}' does not fit its declaration: {found}. Optional fields may be added and required ones made optional. "
            "For any other change declare a new name, or migrate the table."
        )


class LakeBusy(TransientError):
    """Other writers changed the same rows of a lake table again and again, or rows while they were used."""

    def __init__(self, table: str, problem: str) -> None:
        self.table, self.problem = table, problem
        super().__init__(f"Table '{table}' was changed by others meanwhile: {problem}. It will be tried again.")


class TooLittleToLearn(PipelineError):
    """A block of a training set has too few labels, or too few kinds of them, to learn or judge by."""

    def __init__(self, *, model: str, as_of: str, block: str, span: str, found: str, advice: str) -> None:
        self.model, self.as_of, self.block, self.span, self.found = model, as_of, block, span, found
        super().__init__(f"Model '{model}' as of {as_of}: block '{block}' ({span}) has {found}. {advice}")


class LearningRefused(PipelineError):
    """XGBoost does not learn from what it was given: its parameters do not fit each other, or not the labels."""

    def __init__(self, model: str, parameters: Mapping[str, object], problem: str) -> None:
        self.model, self.parameters, self.problem = model, dict(parameters), problem
        shown = ", ".join(f"{name}={value}" for name, value in sorted(self.parameters.items()))
        super().__init__(f"Model '{model}': XGBoost refused to learn with {shown}: {problem} Fix the model's `parameters`, or its label.")


class NotTrained(UserInputError):
    """Something of a model is asked for that no training has made yet."""

    def __init__(self, model: str, lacks: str, remedy: str) -> None:
        self.model, self.lacks, self.remedy = model, lacks, remedy
        super().__init__(f"Model '{model}' has no {lacks}. Materialize {remedy} first.")


class NotMaterialized(UserInputError):
    """A lake table is asked for that nothing was ever written to."""

    def __init__(self, asset: str) -> None:
        self.asset = asset
        super().__init__(f"The lake has no table of '{asset}' yet. Materialize it first.")


class VersionsNotKept(UserInputError):
    """A cleaned table is asked what was known at a time before the one since when it keeps all versions of its rows."""

    def __init__(self, table: str, asked: datetime, since: datetime) -> None:
        self.table, self.asked, self.since = table, asked, since
        super().__init__(
            f"Table '{table}' is asked what was known at {asked.isoformat()}, and keeps all versions since {since.isoformat()} alone. "
            "Nothing was written. Ask from then on; read a training set that is stored by its id; or declare a longer `keeps_versions` "
            "beside the dbt model and build it with `full_refresh`."
        )


class PromotionRefused(UserInputError):
    """A promotion or a roll back that would change nothing, or that has nothing to go back to."""

    def __init__(self, model: str, problem: str) -> None:
        self.model, self.problem = model, problem
        super().__init__(f"Model '{model}': {problem}. Look at `pipeline models history`.")


class FeaturesMissing(PipelineError):
    """A feature table does not answer all requests that are to be joined with it."""

    def __init__(self, table: str, requests: int, first: str) -> None:
        self.table, self.requests, self.first = table, requests, first
        super().__init__(
            f"Table '{table}' has no row for {requests} of the observations, the first of {first}. Nothing was written. "
            "Materialize it for the same days, then try again."
        )


class UnknownQuarantinedRow(UserInputError):
    """No row of the quarantine has this id."""

    def __init__(self, row_id: int) -> None:
        self.row_id = row_id
        super().__init__(f"No quarantined row has the id {row_id}. `pipeline quarantine list` shows those there are.")


class SourceChanged(PipelineError):
    """A source no longer has what its contract promises; nothing of what it has since was written."""

    def __init__(self, source: str, problems: Mapping[str, str], dependents: Sequence[str] = ()) -> None:
        self.source, self.problems, self.dependents = source, dict(problems), tuple(dependents)
        changed = "; ".join(f"field '{field}' {problem}" for field, problem in sorted(self.problems.items()))
        below = f" Dependents: {', '.join(self.dependents)}." if self.dependents else ""
        super().__init__(
            f"Source '{source}' no longer keeps its contract: {changed}. Nothing was written.{below} "
            "Restore the source, or change the contract."
        )


class StoreRefused(PipelineError):
    """The object store would not do what was asked of an object."""

    def __init__(self, key: str, problem: str) -> None:
        self.key, self.problem = key, problem
        super().__init__(f"The object store refused '{key}': {problem}. Check the rights of its access key.")


class DbtProjectMalformed(PipelineError):
    """dbt cannot read its project; no manifest was written."""

    def __init__(self, project: Path, output: str) -> None:
        self.project, self.output = project, output
        super().__init__(f"dbt cannot parse the project in {project}. Its output:\n{output.strip() or 'none'}")


class NotDerivable(UserInputError):
    """The rows of a cleaned table cannot be derived from those of one raw table, one by one, as a stream needs it."""

    def __init__(self, table: str, problems: Sequence[object]) -> None:
        self.table, self.problems = table, tuple(problems)
        super().__init__(f"Rows of '{table}' cannot be derived on a stream: {'; '.join(map(str, self.problems))}.")


def in_words(error: Exception) -> str:
    """An error for people: one of ours as it stands, of any other its type too."""
    return str(error) if isinstance(error, PipelineError) else f"{type(error).__name__}: {error}"
